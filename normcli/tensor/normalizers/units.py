"""Weights by output units, read by blocks of the first axis, so that they may be larger than memory.

A sum over all axes but one has the bits that NumPy's sum of the complete array has: NumPy adds neighbors in memory by a
tree, and others in order.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from normcli.errors import TensorError
from normcli.tensor.normalizers.views import (
    Array,
    Tensor,
    block_samples,
    cast,
    current_resources,
    parallel_blocks,
    result_dtype,
)

_LEAF = 1 << 16  # elements of a part that NumPy adds at once
_COPIES = 8  # of a block in float64, while a formula works on it

# formula(at, *blocks): `at` returns the part of a parameter that belongs to the blocks
Formula = Callable[..., Array]


class PairwiseSum:
    """The sum of float64 numbers that come in parts: the bits of NumPy's sum of all of them in one array.

    >>> total, numbers = PairwiseSum(200_000), np.arange(200_000) / 7
    >>> for part in np.split(numbers, [10, 150_000]):
    ...     total.add(part)
    >>> bool(total.result() == numbers.sum())
    True
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._leaves = _leaf_sizes(count)
        self._size = next(self._leaves, 0)
        self._sums: list[Any] = []
        self._waiting: list[Array] = []
        self._have = 0

    def add(self, values: Array) -> None:
        """Add the next numbers, of one axis."""
        while values.size:
            part, values = values[: self._size - self._have], values[self._size - self._have :]
            self._waiting.append(part)
            self._have += part.size
            if self._have == self._size:
                self._sums.append(np.add.reduce(np.concatenate(self._waiting)))
                self._waiting, self._have, self._size = [], 0, next(self._leaves, 0)
        self._waiting = [part.copy() for part in self._waiting]  # the block that they are of can be freed

    def result(self) -> Any:
        """Return the sum, once all numbers were added."""
        sums = iter(self._sums)

        def joined(count: int) -> Any:
            if count <= _LEAF:
                return next(sums, np.float64(0))
            first = _first_half(count)
            return joined(first) + joined(count - first)

        return joined(self._count)


def _first_half(count: int) -> int:
    return count // 2 - count // 2 % 8


def _leaf_sizes(count: int) -> Iterator[int]:
    if count <= _LEAF:
        yield count
    else:
        yield from _leaf_sizes(_first_half(count))
        yield from _leaf_sizes(count - _first_half(count))


class Units:
    """A weight, and tensors of its shape, as blocks (n, *shape[1:]) of float64 in C order.

    Args:
        axis: of the output units; None for the complete tensor as one unit.
        tensors: of one shape.

    Attributes:
        shape: of each tensor; a single number has one axis.
        rest: the axes of a unit.
        count: number of elements of a unit.
    """

    def __init__(self, axis: int | None, *tensors: Tensor) -> None:
        for tensor in tensors:
            result_dtype(tensor)
        self._is_number = not tensors[0].shape
        self._tensors = tuple(np.asarray(t).reshape(1) for t in tensors) if self._is_number else tensors
        self._axis = axis
        self.shape = tuple(self._tensors[0].shape)
        self.rest = tuple(a for a in range(len(self.shape)) if a != axis)
        self.count = math.prod(self.shape[a] for a in self.rest)
        self._row = math.prod(self.shape[1:]) * 8
        self._step = self._rows_of_a_block()

    def _rows_of_a_block(self) -> int:
        step, limit = block_samples(self._row), current_resources().memory
        if limit is not None and self._row:
            step = min(step, limit // (self._row * _COPIES))
        if step < 1 and self.shape[0]:
            raise TensorError(
                f"a part of the weight needs {self._row * _COPIES:,} bytes, the memory limit is {limit:,}: "
                "raise `memory_limit`"
            )
        return max(step, 1)

    def _compute(self, formula: Formula, start: int, stop: int) -> Array:
        blocks = (np.asarray(t[start:stop]).astype(np.float64, order="C") for t in self._tensors)

        def at(parameter: Array) -> Array:
            return parameter[start:stop] if self._axis == 0 and np.ndim(parameter) else parameter

        return formula(at, *blocks)

    def _in_order(self, formula: Formula) -> Iterator[Array]:
        for start in range(0, self.shape[0], self._step):
            yield self._compute(formula, start, min(start + self._step, self.shape[0]))

    def _in_parallel(self, take: Callable[[int, int], None]) -> None:
        if math.prod(self.shape):
            parallel_blocks(self.shape[0], self._row, take, copies=_COPIES, step=self._step)

    def _table(self, reduce: Callable[[int, int], Array]) -> Array:
        """Return a number for each unit of the first axis; each is of one block."""
        table = np.zeros([n if a == 0 else 1 for a, n in enumerate(self.shape)])

        def take(start: int, stop: int) -> None:
            table[start:stop] = reduce(start, stop)

        self._in_parallel(take)
        return table

    def largest(self, formula: Formula) -> Array:
        """Return the largest value, 0 or more, of a formula in each unit, with all axes of the weight."""
        how: dict[str, Any] = {"axis": self.rest, "keepdims": True, "initial": 0.0}
        if self._axis == 0:
            return self._table(lambda start, stop: self._compute(formula, start, stop).max(**how))
        total = np.zeros([n if a == self._axis else 1 for a, n in enumerate(self.shape)])
        for values in self._in_order(formula):
            total = np.maximum(total, values.max(**how))
        return total

    def sum(self, formula: Formula) -> Array:
        """Return the sum of a formula in each unit, with all axes of the weight."""
        if self._axis == 0:
            return self._table(
                lambda start, stop: self._compute(formula, start, stop).sum(axis=self.rest, keepdims=True)
            )
        shape = [n if a == self._axis else 1 for a, n in enumerate(self.shape)]
        units = math.prod(shape)
        if not math.prod(self.shape):
            return np.zeros(shape)
        if units == 1:  # all elements are neighbors
            total = PairwiseSum(math.prod(self.shape))
            for values in self._in_order(formula):
                total.add(values.reshape(-1))
            return np.full(shape, total.result())
        length = math.prod(self.shape[self._axis + 1 :]) if self._axis is not None else 1
        sums = np.zeros(units)
        for values in self._in_order(formula):
            if length == 1:
                sums = np.add.reduce(np.concatenate([sums[None], values.reshape(-1, units)]), axis=0)
                continue
            for part in values.reshape(-1, units, length):
                sums = sums + np.add.reduce(part, axis=1)
        return sums.reshape(shape)

    def map(self, formula: Formula, dtype: str | None = None) -> Any:
        """Return the tensor of a formula, rounded once to its type."""
        out = current_resources().allocate(() if self._is_number else self.shape, result_dtype(self._tensors[0], dtype))
        if self._is_number:
            return cast(np.asarray(self._compute(formula, 0, 1), np.float64), out.dtype).reshape(())

        def take(start: int, stop: int) -> None:
            out[start:stop] = cast(np.asarray(self._compute(formula, start, stop), np.float64), out.dtype)

        self._in_parallel(take)
        return out
