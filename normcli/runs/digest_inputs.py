"""The digest of all inputs: of their bytes as they are stored, read and not decoded."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from normcli import images
from normcli.errors import InputError
from normcli.options.shared import EngineOptions
from normcli.runs.count import Failure
from normcli.runs.loop import Batching, Loop
from normcli.sources import Item, Skipped, Vectors
from normcli.storage.files import FileBytes, digest
from normcli.storage.reader import LargeFile
from normcli.tally import DIGEST_MODULUS

_BATCHING = Batching(seconds=0.05, most_items=64)


@dataclass
class InputDigest:
    """The digests of a batch; None if an input cannot be read."""

    inputs: int
    images: int = 0
    skipped: int = 0
    digest: int | None = 0
    bytes: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)


def digest_inputs(items: Iterator[Item | Skipped], engine: EngineOptions) -> tuple[int, int, str] | None:
    """Return the number of images, that of skipped inputs, and the digest that a statistics file would record.

    Returns:
        None where an input cannot be read.
    """
    total = InputDigest(0)

    def consume(result: InputDigest) -> bool:
        total.images += result.images
        total.skipped += result.skipped
        complete = total.digest is not None and result.digest is not None
        total.digest = (total.digest + result.digest) % DIGEST_MODULUS if complete else None  # type: ignore[operator]
        return total.digest is None

    Loop(worker=_digest_batch, consume=consume, engine=engine, batching=_BATCHING).run(items)
    return None if total.digest is None else (total.images, total.skipped, f"{total.digest:032x}")


def _digest_batch(batch: list[Item | Skipped]) -> InputDigest:
    started = time.perf_counter()
    result = InputDigest(len(batch))
    total = 0
    for item in batch:
        if isinstance(item, Skipped):
            result.skipped += 1
            continue
        try:
            own, size = _digest_of(item)
        except InputError:
            result.digest = None
            return result
        total += own
        result.images += 1
        result.bytes += size
    result.digest = total
    result.seconds = time.perf_counter() - started
    return result


def _digest_of(item: Item) -> tuple[int, int]:
    """Return the digest and the number of bytes of one input; a large file is read in parts.

    Raises:
        InputError: it cannot be read.
    """
    if hasattr(item.load, "skips_empty"):
        raise InputError("unsupported", "which images are empty is known once they are decoded")
    data: Any = item.load.read_or_open() if isinstance(item.load, FileBytes) else item.load()
    if isinstance(data, LargeFile):
        with closing(data) as file:
            return file.digest(), len(file)
    if isinstance(data, Vectors):
        raise InputError("unsupported", "vectors are counted again: their digest is that of the rows")
    stored = images.stored_bytes(data)
    return digest(stored), len(stored)
