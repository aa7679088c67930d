"""Reading images from folders and containers: one module per container, each with a `read()` that yields items.

An item is a name and a loader of its bytes, called in the worker: items are picklable and cheap. A container is
never extracted: its members are read at their offsets, or as they come by in a stream.
"""

from normcli.sources.containers import CONTAINERS
from normcli.sources.item import FailingSource, Item, Items, Load, Skipped, Vectors, failed_item
from normcli.sources.listing import (
    NO_MATCH,
    PatternUse,
    Source,
    check_distinct,
    check_exist,
    container,
    each,
    effective_options,
    expand,
    is_import,
    is_stream,
    kind_of,
    name_below,
    read,
    read_one,
)
from normcli.sources.open_options import check_open_options, describe_formats, source

__all__ = [
    "CONTAINERS",
    "NO_MATCH",
    "FailingSource",
    "Item",
    "Items",
    "Load",
    "PatternUse",
    "Skipped",
    "Source",
    "Vectors",
    "check_distinct",
    "check_exist",
    "check_open_options",
    "container",
    "describe_formats",
    "each",
    "effective_options",
    "expand",
    "failed_item",
    "is_import",
    "is_stream",
    "kind_of",
    "name_below",
    "read",
    "read_one",
    "source",
]
