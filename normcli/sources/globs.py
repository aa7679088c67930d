"""Patterns of paths: globs with the meaning that they have in .gitignore, and the brace ranges of a shell."""

import fnmatch
import itertools
import os
import re
from collections.abc import Iterator

from normcli.errors import UsageError
from normcli.storage import is_remote

_BRACKET = r"\[!?\]?[^\]]*\]"
_LARGEST_RANGE = 1_000_000


def translate(pattern: str) -> str:
    """Return the regular expression of a pattern, for a path below its source.

    As in .gitignore: a folder matches everything below it; a pattern with a slash before its end starts at the
    source, one without matches at any depth; * stays within a name, ** crosses folders; a final slash: only folders.

    >>> [bool(re.fullmatch(translate(p), "train/cat/1.png")) for p in ("cat", "cat/", "*/cat", "/cat", "1.png/")]
    [True, True, True, False, False]
    """
    path = pattern.removeprefix("./").rstrip("/")
    anchored = "/" in path
    parts = [part for part in path.split("/") if part]
    out = "" if anchored else "(?:.*/)?"
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            out += ".+" if last else "(?:.*/)?"
        else:
            out += _translate_name(part) + "/" * (not last)
    return out + ("/.*" if pattern.endswith("/") else "(?:/.*)?")


def _translate_name(glob: str) -> str:
    out, i = "", 0
    while i < len(glob):
        char = glob[i]
        i += 1
        if char == "*":
            if not out.endswith("[^/]*"):
                out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "\\" and i < len(glob):
            out += re.escape(glob[i])
            i += 1
        elif char == "[" and (bracket := re.match(_BRACKET, glob[i - 1 :])):
            one = fnmatch.translate(bracket.group())
            out += f"(?!/){one[: one.rindex(')') + 1]}"
            i += bracket.end() - 1
        else:
            out += re.escape(char)
    return out


def expand_pattern(source: str) -> Iterator[str]:
    """Yield the paths of a brace range or a glob; see `expand` of listing."""
    parts = re.split(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}", source)
    choices: list[list[str]] = []
    total = 1
    for i, part in enumerate(parts):
        options = [part] if i % 2 == 0 else _range(part) if ".." in part and "," not in part else part.split(",")
        total *= len(options)
        choices.append(options)
        if total > _LARGEST_RANGE:
            raise UsageError(f"{source}: more than {_LARGEST_RANGE} paths")
    for choice in itertools.product(*choices):
        yield from _matching("".join(choice))


def _matching(path: str) -> list[str]:
    if is_remote(path) or os.path.lexists(path):
        return [path]
    import glob

    return sorted(glob.glob(path, recursive=True)) or [path]  # noqa: PTH207


def _range(text: str) -> list[str]:
    first, last = text.split("..")
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    step = 1 if int(first) <= int(last) else -1
    if abs(int(last) - int(first)) >= _LARGEST_RANGE:
        raise UsageError(f"{{{text}}}: more than {_LARGEST_RANGE} paths")
    return [f"{n:0{width}d}" for n in range(int(first), int(last) + step, step)]
