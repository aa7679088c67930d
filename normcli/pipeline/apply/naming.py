"""Where each output goes: a tree that mirrors the sources; no name twice, none outside OUT, OUT not in a source."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from normcli import formats
from normcli.errors import UsageError
from normcli.formats import Item, Listing, Refused, Skip

WORK = ".normcli-partial"  # the folder in OUT for what is not finished


class Planned(NamedTuple):
    """One input and the name of its output below OUT, without the suffix of the output's format."""

    item: Item
    name: str


Plan = Callable[[], Iterator[Planned | Skip]]


def plan(sources: list[str], files: list[str] | None, listing: Listing, names: str) -> Plan:
    """Make what lists every input with the name of its output, as often as it is called.

    A folder's tree is mirrored, below its own name where there are several sources; a file goes by its bare
    name; a path from `files` keeps its folders, as in tar.

    Args:
        sources: folders and files.
        files: further paths.
        listing: what is taken of them.
        names: "full" keeps the suffix of the input (a.jpg -> a.jpg.npy), "stem" drops it.

    Raises:
        UsageError: see `names`; while listing, a name that leads out of OUT.
    """
    if names not in ("full", "stem"):
        raise UsageError(f"names {names!r}: choose from full, stem")
    named = [path for source in sources for path in formats.expand(source)]
    several = len(named) + (files is not None) > 1

    def listed() -> Iterator[Planned | Skip]:
        for source in named:
            root = "" if not several else os.path.basename(os.path.abspath(source))  # noqa: PTH100, PTH119
            for found in formats.read([source], listing):
                if isinstance(found, Skip):
                    yield found
                    continue
                inner = found.key[len(source) :].lstrip("/") if found.key.startswith(source) else found.key
                if not inner:
                    inner = os.path.basename(found.key)  # noqa: PTH119
                elif root:
                    inner = f"{root}/{inner}"
                yield Planned(found, _inside(inner, found, names))
        for found in formats.read(files or (), listing):
            yield found if isinstance(found, Skip) else Planned(found, _inside(found.key, found, names))

    return listed


def _inside(name: str, item: Item, names: str) -> str:
    if isinstance(item.load, Refused):  # fails, and is never written
        return name
    key = item.key
    parts = [part for part in name.replace(os.sep, "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UsageError(f"{key}: its output would lie outside OUT: give its folder as SOURCE, or --exclude it")
    if parts[0] == WORK:
        raise UsageError(f"{key}: {WORK} is the name of normcli's own folder; --exclude it")
    if names == "stem" and "." in parts[-1].lstrip("."):
        parts[-1] = parts[-1].rpartition(".")[0]
    return "/".join(parts)


def survey(listed: Plan, *, out: str | None = None, unsafe: bool = False) -> int:
    """Count the inputs that are to be mapped, and refuse names that collide.

    Args:
        listed: from `plan`.
        out: the output folder; no input may lie in it.
        unsafe: outputs may stand under their names already.

    Raises:
        UsageError: two inputs with one output, or an input inside OUT.
    """
    seen: set[int] = set()
    count = 0
    checked: set[str] = set()
    inside = None if out is None else os.path.realpath(out) + os.sep
    for planned in listed():
        if isinstance(planned, Skip):
            continue
        count += 1
        if isinstance(planned.item.load, Refused):
            continue
        name = hash(planned.name)  # 65 MB for a million names, where the names take 150
        if name in seen:
            _tell_of_collision(listed, planned)
        seen.add(name)
        folder = os.path.dirname(planned.item.key)  # noqa: PTH120
        if inside is not None and folder not in checked:
            checked.add(folder)
            if (os.path.realpath(folder) + os.sep).startswith(inside) and os.path.isdir(folder or "."):  # noqa: PTH112
                raise UsageError(f"{planned.item.key} lies inside the output folder {out}: choose another --output")
    return count


def _tell_of_collision(listed: Plan, second: Planned) -> None:
    for first in listed():
        if isinstance(first, Planned) and first.name == second.name:
            if first.item.key == second.item.key:
                raise UsageError(f"{second.item.key} is given twice: its output would be written twice")
            raise UsageError(
                f"{first.item.key} and {second.item.key} would both be written as {second.name} "
                "(--names full keeps suffixes; several folders keep their names)"
            )
    # two names with one hash: not a collision


def refuse_overlap(out: str, sources: Iterable[str]) -> None:
    """Refuse an output folder inside a source, or a source inside the output folder.

    Raises:
        UsageError: they overlap.
    """
    place = os.path.realpath(out) + os.sep
    for source in sources:
        if "://" in source or not os.path.isdir(source):  # noqa: PTH112
            continue
        folder = os.path.realpath(source) + os.sep
        if place.startswith(folder):
            raise UsageError(
                f"the output folder {out} lies inside the source {source}: the next run would read it; "
                "choose another --output"
            )
        if folder.startswith(place):
            raise UsageError(f"the source {source} lies inside the output folder {out}: choose another --output")
