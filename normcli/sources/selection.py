"""Patterns of paths on sources without files of their own: rows of tables, images of arrays, frames of videos."""

from normcli.options.field import as_tuple
from normcli.options.shared import InputOptions
from normcli.sources.folder import EXCLUDED, NOT_INCLUDED
from normcli.sources.item import Items, Skipped
from normcli.sources.listing import compile_patterns, own_name, pattern_path


def select(source: str, listing: InputOptions, items: Items) -> Items:
    """Yield the items of a source, those that patterns leave out as skipped; blocks of vectors have no names.

    The name of an item below its source is a number or the path of an array. A source that `include` matches by its
    own name is read completely, as `*.npy` means it.
    """
    include, exclude = (compile_patterns(as_tuple(globs)) for globs in (listing.include, listing.exclude))
    if include is not None and include(own_name(source)) is not None:
        include = None
    path_of = pattern_path(source)
    for item in items:
        if isinstance(item, Skipped) or hasattr(item.load, "inputs"):
            yield item
            continue
        path = path_of(item.key)
        if include is not None and include(path) is None:
            yield Skipped(item.key, *NOT_INCLUDED)
        elif exclude is not None and exclude(path) is not None:
            yield Skipped(item.key, *EXCLUDED)
        else:
            yield item
