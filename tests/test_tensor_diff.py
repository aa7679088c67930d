"""`normcli tensor diff`: numbers as of NumPy, tolerance as in allclose, files of several tensors, bounded memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from normcli.errors import TensorError, UsageError
from normcli.tensor import difference
from normcli.tensor.difference import Tolerance
from tests.support.command import Run

Array = NDArray[Any]


def pair(dtype: Any = np.float32, shape: tuple[int, ...] = (5, 3, 4, 2)) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    a = rng.normal(size=shape)
    return a.astype(dtype), (a + 1e-3 * rng.normal(size=shape) * (rng.random(shape) < 0.3)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_numbers_are_numpys(dtype: Any) -> None:
    a, b = pair(dtype)
    if dtype == np.int32:
        a, b = (a * 7).astype(dtype), (a * 7).astype(dtype) + (np.arange(a.size).reshape(a.shape) % 5 == 0)
    x, y = a.astype(np.float64), b.astype(np.float64)
    got = difference.diff(a, b, layout="NCHW")
    assert got.total is not None and len(got.channels) == 3
    for gap, (s, t), (u, v) in (
        (got.total, (x, y), (a, b)),
        *((got.channels[c], (x[:, c], y[:, c]), (a[:, c], b[:, c])) for c in range(3)),
    ):
        assert gap.max_abs == np.abs(s - t).max()
        assert gap.rms == pytest.approx(np.sqrt(np.mean((s - t) ** 2)), rel=1e-12)
        assert gap.cosine == pytest.approx((s * t).sum() / np.sqrt((s * s).sum() * (t * t).sum()), rel=1e-12)
        assert gap.unequal == np.count_nonzero(u != v)
        assert gap.beyond == np.count_nonzero(~np.isclose(u, v))
        if dtype != np.int32:
            assert gap.max_ulp == (np.abs(s - t) / np.spacing(np.maximum(np.abs(u), np.abs(v)))).max()
    first = tuple(int(i) for i in np.argwhere(a != b)[0])
    assert got.first is not None and got.first.index == first and got.first.a == x[first]


def test_nan_and_infinity_are_as_in_allclose() -> None:
    values = [1.0, np.nan, np.inf, -np.inf, 0.0]
    a, b = (np.array(v).reshape(-1, 1) for v in zip(*((x, y) for x in values for y in values), strict=True))
    for equal_nan in (False, True):
        got = difference.diff(a, b, tolerance=Tolerance(equal_nan=equal_nan)).total
        assert got is not None and got.beyond == np.count_nonzero(~np.isclose(a, b, equal_nan=equal_nan))
        assert (got.nan, got.inf) == ((5, 5), (10, 10))
        assert got.unequal == 20


def test_large_integers_differ_by_what_float64_does_not_have() -> None:
    for dtype, start in ((np.int64, 2**60), (np.int64, -(2**63)), (np.uint64, 2**63)):
        a = np.full((2, 2), start, dtype)
        b = a.copy()
        b[1, 0] += dtype(3)
        for first, second in ((a, b), (b, a)):
            got = difference.diff(first, second)
            assert got.total is not None and got.worst is not None
            assert (got.total.unequal, got.total.max_abs, got.total.rms) == (1, 3.0, 1.5)
            assert {got.worst.a, got.worst.b} == {start, start + 3}  # not 1.15e+18 twice
    ends = difference.diff(np.array([2**63 - 1]), np.array([-(2**63)])).total
    assert ends is not None and ends.max_abs == 2.0**64


def test_bool_is_compared_and_complex_is_not() -> None:
    got = difference.diff(np.array([True, False]), np.array([True, True]))
    assert got.total is not None and (got.dtypes, got.total.unequal, got.total.max_abs) == (("bool", "bool"), 1, 1.0)
    assert difference.diff(np.array([True]), np.array([1.0], np.float32)).close
    with pytest.raises(TensorError, match="dtype complex128 cannot be compared"):
        difference.diff(np.ones(2) * 1j, np.ones(2) * 1j)


def test_a_tensor_without_a_name_among_others(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(2))
    np.savez(tmp_path / "b.npz", one=np.ones(2), two=np.ones(2))
    done = run("tensor", "diff", "a.npy", "b.npz")
    lines = ["only in B: one", "only in B: two", "only in A: a tensor without a name"]
    assert (done.returncode, done.stdout.decode().splitlines()) == (1, lines)


def test_shapes_and_types() -> None:
    a = np.ones((2, 3), np.float32)
    assert difference.diff(a, a[:, :2]).total is None
    mixed = difference.diff(a, a.astype(np.float16) * np.float16(1.001)).total
    assert mixed is not None and mixed.max_ulp == 1.0
    empty = difference.diff(np.zeros((0, 3)), np.zeros((0, 3)))
    assert empty.close and empty.total is not None and empty.total.count == 0
    number = difference.diff(np.array(1.0), np.array(2.0))
    assert number.worst is not None and number.worst.index == () and not number.close
    with pytest.raises(TensorError):
        difference.diff(np.array(["a"]), np.array(["b"]))
    with pytest.raises(UsageError):
        Tolerance(rtol=-1.0)


def test_the_result_does_not_depend_on_memory(tmp_path: Path) -> None:
    a, b = pair(shape=(400, 50, 40))
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    files = str(tmp_path / "a.npy"), str(tmp_path / "b.npy")
    complete, part = (difference.diff_files(*files, layout="NCL", memory_limit=m).tensors[0] for m in (None, 400_000))
    assert complete.first == part.first and complete.worst == part.worst
    for one, other in zip((complete.total, *complete.channels), (part.total, *part.channels), strict=True):
        assert one is not None and other is not None
        assert (one.unequal, one.beyond, one.max_abs, one.max_ulp) == (
            other.unequal, other.beyond, other.max_abs, other.max_ulp,
        )  # fmt: skip
        assert one.rms == pytest.approx(other.rms, rel=1e-12)
    with pytest.raises(TensorError, match="`memory_limit`"):
        difference.diff_files(*files, memory_limit=10_000)


def test_the_command_compares_files_and_exits(run: Run, tmp_path: Path) -> None:
    a, b = pair()
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    done = run("tensor", "diff", "a.npy", "b.npy", "--layout", "NCHW")
    text = done.stdout.decode()
    assert done.returncode == 1
    for words in ("120 elements", "channel 2", "cosine", "first difference: [", "largest difference: ["):
        assert words in text
    assert run("tensor", "diff", "a.npy", "b.npy", "--atol", "0.1").returncode == 0
    assert run("tensor", "diff", "a.npy", "a.npy").returncode == 0
    done = run("tensor", "diff", "a.npy", "missing.npy")
    assert done.returncode == 1 and b"no such file" in done.stderr
    assert run("tensor", "diff", "a.npy", "b.npy", "--rtol", "-1").returncode == 2


def test_files_of_several_tensors_are_paired_by_key(run: Run, tmp_path: Path) -> None:
    a, b = pair()
    np.savez(tmp_path / "a.npz", one=a, two=a, three=a[0])
    np.savez(tmp_path / "b.npz", one=a, two=b, four=a)
    done = run("tensor", "diff", "a.npz", "b.npz")
    text = done.stdout.decode()
    assert done.returncode == 1 and "1 of 2 tensors" in text
    assert "only in B: four" in text and "only in A: three" in text
    document = json.loads(run("tensor", "diff", "a.npz", "b.npz", "--json").stdout)
    assert [t["name"] for t in document["tensors"]] == ["one", "two"] and not document["close"]
    assert document["only_in_a"] == ["three"] and document["tensors"][0]["close"]
