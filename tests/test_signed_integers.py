"""Integers with a sign are counted as they are: the same bits as of the floats that they are equal to."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.images import decode
from normcli.kernels import histograms
from normcli.options.shared import DecodeOptions
from normcli.tally import Tally, signed_integers
from normcli.tally.signed_integers import _fill_without_kernel

LAYOUT = {"layout": "nhw"}
LARGE, SMALL = (380, 400), (40, 30)  # counted in a table, and by the sums of floats


def pictures(dtype: Any, shape: tuple[int, int], channels: int) -> np.ndarray[Any, Any]:
    limits = np.iinfo(dtype)
    stack = np.random.default_rng(7).integers(limits.min, limits.max + 1, (3, *shape, channels))
    stack[1] //= 64  # neighbors that are equal, as in air
    return stack.astype(dtype)


def state(stack: np.ndarray[Any, Any], **options: Any) -> dict[str, Any]:
    tally = Tally()
    for image in stack:
        tally.count(image, data=b"", **options)
    return tally.state()


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("shape", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("group", [None, "a"])
def test_the_state_is_that_of_floats(shape: tuple[int, int], channels: int, group: str | None) -> None:
    stack = pictures(np.int16, shape, channels)
    valid = np.random.default_rng(8).random((*shape, channels)) < 0.9
    for mask in (None, valid):
        expected = state(stack.astype(np.float64), group=group, valid=mask)
        assert state(stack, group=group, valid=mask) == expected
        assert state(stack.astype(np.float32), group=group, valid=mask) == expected


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_kernel_counts_as_numpy_does(channels: int) -> None:
    for pixels in (1, 3, 4, 1023, 1024, 1025, 5000):
        flat = pictures(np.int16, (pixels, 1), channels)[1].reshape(-1)
        tables, expected = np.zeros((2, channels, histograms.TABLES, 65536), np.uint32)
        histograms.count_signed(flat, tables)
        _fill_without_kernel(flat, expected)
        assert np.array_equal(tables.sum(axis=1), expected.sum(axis=1))


def test_numpy_counts_in_the_memory_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = pictures(np.int16, (1500, 1000), 2)[0].reshape(-1)
    whole, parts = np.zeros((2, 2, histograms.TABLES, 65536), np.uint32)
    tracemalloc.start()
    _fill_without_kernel(flat, whole)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * flat.nbytes
    monkeypatch.setattr(signed_integers, "_AT_ONCE", 1009)
    _fill_without_kernel(flat, parts)
    assert np.array_equal(whole, parts) and whole.sum() == flat.size


@pytest.mark.parametrize("dtype", [np.int8, np.int16, ">i2"])
@pytest.mark.parametrize("shape", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("keywords", [{}, {"exact_percentiles": True}, {"alpha": "keep"}, {"center_crop": 20}], ids=str)
def test_files_have_the_values_of_floats(
    dtype: Any, shape: tuple[int, int], keywords: dict[str, Any], tmp_path: Path
) -> None:
    stack = pictures(np.dtype(dtype).newbyteorder("="), shape, 1)[..., 0].astype(dtype)
    np.save(tmp_path / "integers.npy", stack)
    np.save(tmp_path / "floats.npy", stack.astype(np.float64))
    found, expected = (
        normcli.stats(tmp_path / name, open_options=LAYOUT, **keywords).to_dict()
        for name in ("integers.npy", "floats.npy")
    )
    for name in ("mean", "std", "min", "max", "percentiles", "count"):
        assert found.get(name) == expected.get(name), name
    assert found["state"]["buckets"] == expected["state"]["buckets"]


def test_pixels_are_floats_once_they_are_read() -> None:
    image = decode(pictures(np.int16, SMALL, 3)[0], DecodeOptions())
    assert image.samples.dtype == np.int16 and image.shape == (*SMALL, 3)
    assert image.pixels.dtype == image.samples.dtype == np.float64 and image.integers is None
    assert np.array_equal(image.pixels, pictures(np.int16, SMALL, 3)[0])


def test_numpy_counts_the_same_without_numba(tmp_path: Path) -> None:
    np.save(tmp_path / "ct.npy", pictures(np.int16, LARGE, 1)[..., 0])
    code = "import normcli; print(normcli.stats('ct.npy', open_options={'layout': 'nhw'}).to_dict()['state'])"
    found = []
    for absent in ("", "import sys; sys.modules['numba'] = None; "):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "empty" if absent else tmp_path)}
        command = [sys.executable, "-c", absent + code]
        found.append(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True))
    assert found[0].stdout == found[1].stdout != ""
