"""Reading images from folders and containers: one module per container, each with a `read()` that yields items.

An item is a name and a loader of its bytes, called in the worker: items are picklable and cheap. A container is
never extracted: its members are read at their offsets, or as they come by in a stream.
"""

from normcli.sources.containers import CONTAINERS, container, is_stream, kind_of
from normcli.sources.item import FailingSource, Item, Items, Load, Skipped, failed_item
from normcli.sources.listing import each, expand, read, read_one
from normcli.sources.open_options import Source, check_open_options, describe_formats, effective_options, source

__all__ = [
    "CONTAINERS",
    "FailingSource",
    "Item",
    "Items",
    "Load",
    "Skipped",
    "Source",
    "check_open_options",
    "container",
    "describe_formats",
    "each",
    "effective_options",
    "expand",
    "failed_item",
    "is_stream",
    "kind_of",
    "read",
    "read_one",
    "source",
]
