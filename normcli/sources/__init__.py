"""DecodeOptions images from folders and containers: one module per container, each with a `read()` that yields items.

An item is a name and a loader of its bytes, called in the worker: items are picklable and cheap. A container is
never extracted: its members are read at their offsets, or as they come by in a stream.
"""

from normcli.sources.containers import CONTAINERS, container, kind_of
from normcli.sources.item import FailingSource, Item, Items, Load, Skipped, failed_item
from normcli.sources.listing import each, expand, read, read_one

__all__ = [
    "CONTAINERS",
    "FailingSource",
    "Item",
    "Items",
    "Load",
    "Skipped",
    "container",
    "each",
    "expand",
    "failed_item",
    "kind_of",
    "read",
    "read_one",
]
