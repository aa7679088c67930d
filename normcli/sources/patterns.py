"""Patterns of paths: globs with the meaning they have in .gitignore, the regex of groups, and what matched nothing."""

import fnmatch
import logging
import os
import re
from collections.abc import Callable, Sequence

from normcli.options.images import InputOptions
from normcli.sources.item import Item, Items

log = logging.getLogger("normcli.sources")

NO_MATCH = "(no match)"  # the group of images that the regex does not match
_BRACKET = re.compile(r"\[!?\]?[^\]]*\]")


def compile_patterns(patterns: Sequence[str]) -> Callable[[str], re.Match[str] | None] | None:
    """Return the matcher of paths below a source that any of the patterns selects; None without patterns."""
    if not patterns:
        return None
    return re.compile("|".join(map(_translate, patterns)), re.DOTALL).fullmatch


def _translate(pattern: str) -> str:
    """Return the regular expression of a pattern, for a path below its source.

    As in .gitignore: a folder stands for everything below it; a pattern with a slash before its end starts at the
    source, one without matches at any depth; * stays within a name, ** crosses folders; a final slash: only folders.

    >>> [bool(re.fullmatch(_translate(p), "train/cat/1.png")) for p in ("cat", "cat/", "*/cat", "/cat", "1.png/")]
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
        elif char == "[" and (bracket := _BRACKET.match(glob, i - 1)):
            one = fnmatch.translate(bracket.group())
            out += f"(?!/){one[: one.rindex(')') + 1]}"
            i = bracket.end()
        else:
            out += re.escape(char)
    return out


def path_below(source: str, key: str) -> str:
    """Return the path of an input below its source, as patterns see it; for a source itself, the path as given.

    >>> path_below("ds/", "ds/train/1.png"), path_below("/a.tar", "/a.tar/1.png"), path_below("t/l.csv", "t/x/1.png")
    ('train/1.png', '1.png', 'x/1.png')
    """
    if os.sep != "/":
        source, key = source.replace(os.sep, "/"), key.replace(os.sep, "/")
    return name_below(source, key) or key.lstrip("/")


def name_below(source: str, key: str) -> str:
    """Return the name of an item below its source; "" for the source itself."""
    if key == source or key.startswith(source.rstrip("/") + "/"):
        return key[len(source) :].lstrip("/")
    home = source.rpartition("/")[0]  # a table of files: the same names wherever it lies
    return key[len(home) + 1 :] if home and key.startswith(home + "/") else key


class PatternUse:
    """Patterns of a run, which remembers those that matched nothing.

    Args:
        listing: has the globs.
        group_by: a regex becomes the label of the items that pass; "folder", "label" and None leave them as they are.

    Attributes:
        complete: every input was seen.
    """

    def __init__(self, listing: InputOptions, group_by: str | None = None) -> None:
        globs = [("--include", glob) for glob in listing.include_patterns]
        globs += [("--exclude", glob) for glob in listing.exclude_patterns]
        self._unused = {named: compile_patterns([named[1]]) for named in dict.fromkeys(globs)}
        self._group = None if group_by in (None, "folder", "label") else re.compile(str(group_by))
        self.complete = True

    def watch(self, source: str, items: Items) -> Items:
        """Yield the items of a source."""
        return items if not self._unused and self._group is None else self._watch(source, items)

    def _watch(self, source: str, items: Items) -> Items:
        for item in items:
            path = path_below(source, item.key)
            if self._unused:
                used = [named for named, matches in self._unused.items() if matches is not None and matches(path)]
                for named in used:
                    del self._unused[named]
            if self._group is not None and isinstance(item, Item):
                yield item._replace(label=_group(self._group, path))
            else:
                yield item

    def report(self) -> None:
        """Log every pattern that matched nothing, once."""
        if self.complete:
            for option, glob in self._unused:
                log.warning("%s %r matched nothing", option, glob)
            self._unused.clear()


def _group(pattern: re.Pattern[str], path: str) -> str:
    """Return the group of a path: the named groups of the match, else the first one, else all of it."""
    match = pattern.search(path)
    if match is None:
        return NO_MATCH
    if pattern.groupindex:
        return "/".join(match[name] or "" for name in pattern.groupindex)
    return (match[1] or "") if pattern.groups else match[0]


def reporting(patterns: PatternUse, items: Items) -> Items:
    """Yield all items of a run, then report the patterns that matched nothing."""
    yield from items
    patterns.report()
