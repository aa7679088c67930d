"""MkDocs hooks: files of the repository outside docs that pages link to become files of the site, below project/.

So a link such as `../CONTRIBUTING.md` works on the site as it does in the repository.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PLACE = "project"  # folder of the site
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the files outside docs that the pages link to, and those that the navigation names."""
    names = re.findall(rf"\b{PLACE}/(\S+)", (ROOT / "mkdocs.yml").read_text("utf-8"))
    for page in files.documentation_pages():
        names += [target for target in map(_resolve(page.src_uri), _links(page)) if not target.startswith("docs/")]
    for name in sorted(set(names)):
        if (ROOT / name).is_file():
            files.append(File.generated(config, f"{PLACE}/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Point the links of a page to the places that their targets have on the site."""
    resolve = _resolve(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def link(match: "re.Match[str]") -> str:
        target = resolve(match[1])
        place = target.removeprefix("docs/") if target.startswith("docs/") else f"{PLACE}/{target}"
        return posixpath.relpath(place, here or ".") if files.get_file_from_path(place) else match[1]

    return _LINK.sub(link, markdown)


def _links(page: File) -> list[str]:
    return _LINK.findall(page.content_string)


def _resolve(src_uri: str) -> Any:
    """Return a function from a link on a page to the path of its target in the repository."""
    path = src_uri.removeprefix(f"{PLACE}/") if src_uri.startswith(f"{PLACE}/") else f"docs/{src_uri}"
    return lambda link: posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
