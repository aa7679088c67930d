"""A tally that counts images once more and selects values of them, for exact percentiles."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from normcli.tally.integers import ImageMoments
from normcli.tally.selection import Division, Selected
from normcli.tally.tally import Tally

Array = np.ndarray[Any, Any]
_AT_ONCE = 1 << 16  # values whose keys are computed together: they stay in the processor's cache
Block = tuple[Array, Array | None, Array | None]


class SecondPass(Tally):
    """The counts of a pass that divides cells of values; it counts all the rest too, so that changes are noticed.

    Args:
        division: cells by (group or None, key of the bucket, channel).

    Attributes:
        selected: counts of the selected cells.
    """

    def __init__(self, division: Division) -> None:
        super().__init__()
        self.division, self.selected = division, Selected(division)

    def empty(self) -> "SecondPass":
        """Return a tally of no image with the same division."""
        return SecondPass(self.division)

    def count(
        self,
        pixels: Array,
        weights: Array | None = None,
        valid: Array | None = None,
        *,
        group: str | None = None,
        **options: Any,
    ) -> ImageMoments | None:
        """Add one image, as `Tally.count`."""
        moments = super().count(pixels, weights, valid, group=group, **options)
        self.select((pixels, weights, valid), group)
        return moments

    def count_blocks(
        self,
        blocks: Iterable[Block],
        *,
        nan: str = "error",
        notes: Callable[[], tuple[str, ...]] = tuple,
        digest: int = 0,
        group: str | None = None,
    ) -> ImageMoments | None:
        """Add one image that comes in blocks, as `Tally.count_blocks`; after an error the tally is of no use."""

        def each() -> Iterator[Block]:
            for block in blocks:
                self.select(block, group)
                yield block

        return super().count_blocks(each(), nan=nan, notes=notes, digest=digest, group=group)

    def select(self, block: Block, group: str | None) -> None:
        """Add the values of a block that are in cells to divide."""
        pixels, weights, valid = block
        key, _ = self._bucket(pixels, weights)
        rows = max(1, _AT_ONCE // pixels.shape[1])
        for c in range(pixels.shape[2]):
            addresses = [a for a in {(None, key, c), (group, key, c)} if a in self.division.cells]
            for top in range(0, pixels.shape[0] if addresses else 0, rows):
                part = slice(top, top + rows)
                values = pixels[part, :, c]
                values = values.astype(np.float32) if values.dtype.kind == "i" else values
                usable = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
                usable = usable if valid is None else usable & valid[part, :, c]
                weight = None if weights is None else weights[part][usable]
                for address in addresses:
                    self.selected.add_values(address, values[usable], weight)

    def add(self, other: Tally, sign: int = 1) -> None:
        """Add the counts of a second pass over other images."""
        super().add(other, sign)
        if isinstance(other, SecondPass):
            self.selected.add(other.selected)
