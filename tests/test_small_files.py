"""Small images that are counted together: the same bits as one by one."""

import cProfile
import pstats
from pathlib import Path

import numpy as np
import pytest

from normcli.images import png, small
from normcli.kernels.kernel import Kernel
from normcli.kernels.png_rows import unfilter
from normcli.options.shared import DecodeOptions, InputOptions
from normcli.runs.count import WorkerOptions, count_batch, merge
from normcli.sources import Item, Skipped, read
from normcli.tally import Tally, small_images
from tests.support.images import encoded, photograph


def items_of(folder: Path) -> list[Item | Skipped]:
    return list(read([str(folder)], InputOptions()))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Item | Skipped]:
    """Return the items of a folder of small images of many kinds, and of other files."""
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(80):
        small_one = photograph(20 + i % 3, 31, 3 if i % 4 else 1, seed=i)
        (folder / f"{i:02}.png").write_bytes(encoded(small_one, compress_level=i % 10))
        (folder / f"{i:02}.jpg").write_bytes(encoded(small_one, "JPEG"))
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    others = {
        "a-noise.png": encoded(noise),
        "05-icc.png": encoded(photograph(20, 31), icc_profile=b"not a profile"),
        "06-alpha.png": encoded(photograph(20, 31, 4)),
        "07-large.png": encoded(photograph(200, 310)),
        "08-large.jpg": encoded(photograph(200, 310), "JPEG"),
        "09-cut.png": encoded(photograph(20, 31))[:-20],
        "10-cut.jpg": encoded(photograph(20, 31), "JPEG")[:-20],
        "11-empty.png": b"",
        "12-text.txt": b"text",
        "13-exif.jpg": encoded(photograph(20, 31), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
        "14-gif.gif": encoded(photograph(20, 31, 1), "GIF"),
    }
    for name, data in others.items():
        (folder / name).write_bytes(data)
    return items_of(folder)


@pytest.mark.parametrize("reading", [DecodeOptions(), DecodeOptions(color="gray"), DecodeOptions(max_pixels=640)])
@pytest.mark.parametrize("by", ["kernel", "libspng", "Pillow"])
def test_together_as_one_by_one(
    mixed: list[Item | Skipped], reading: DecodeOptions, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "can_unfilter", lambda: by == "kernel")
    monkeypatch.setattr(png, "_PAYS", 0)  # libspng from the first image on
    if by == "Pillow":
        monkeypatch.setattr(png, "_decode", None)
        monkeypatch.setattr(png, "_tried", True)
    options = WorkerOptions(reading)
    together = count_batch(options, mixed)
    alone = merge([count_batch(options, [item]) for item in mixed])
    assert together.state() == alone.state()


def test_every_filter_of_png() -> None:
    """Against the formulas of the specification, a sample at a time."""
    rng = np.random.default_rng(1)
    for channels in (1, 2, 3):
        rows = rng.integers(0, 256, (5, 6, 1 + 4 * channels), np.uint8)
        rows[:, :, 0] = rng.integers(0, 5, (5, 6))
        rows[:, 0, 0] = range(5)
        pixels = np.empty((5, 6, 4 * channels), np.uint8)
        unfilter(rows, pixels, channels)
        for image, found in zip(rows.tolist(), pixels.tolist(), strict=True):
            above = [0] * (4 * channels)
            for (kind, *row), samples in zip(image, found, strict=True):
                for i, value in enumerate(row):
                    left, corner = (samples[i - channels], above[i - channels]) if i >= channels else (0, 0)
                    p = left + above[i] - corner
                    paeth = min((left, above[i], corner), key=lambda near, p=p: abs(p - near))  # type: ignore[misc]
                    near = (0, left, above[i], (left + above[i]) // 2, paeth)[kind]
                    assert samples[i] == (value + near) % 256, (kind, i)
                above = samples


def test_filters_in_python() -> None:
    """Without a warning of NumPy: of all but Paeth's, whose function is the machine's."""
    rows = np.full((1, 4, 7), 200, np.uint8)
    rows[0, :, 0] = range(4)
    pixels, plain = np.empty((2, 1, 4, 6), np.uint8)
    unfilter(rows, pixels, 2)
    with np.errstate(all="raise"):
        unfilter.py_func(rows, plain, 2)
    assert np.array_equal(pixels, plain)


@pytest.mark.parametrize(("kind", "most"), [("JPEG", 42), ("PNG", 52)])
def test_an_image_costs_few_calls(kind: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that no load on the machine can disturb: calls, counted by the profiler."""
    for i in range(256):
        (tmp_path / f"{i:03}.{kind.lower()}").write_bytes(encoded(photograph(32, 32, seed=i), kind))
    counting, items = WorkerOptions(DecodeOptions()), items_of(tmp_path)
    monkeypatch.setattr(small, "_by_codec", 1 << 40)
    monkeypatch.setattr(Kernel, "is_due", lambda _: True)  # else the time of fallbacks decides when they are loaded
    count_batch(counting, items)  # first uses
    profile = cProfile.Profile()
    profile.runcall(count_batch, counting, items)
    calls = pstats.Stats(profile).total_calls / len(items)  # type: ignore[attr-defined]
    assert calls < most


def test_images_that_wait_are_not_lost_where_memory_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image fails at which they were to be counted; the others before it were counted nowhere, without a word."""
    pictures = [np.ascontiguousarray(photograph(32, 32, seed=i)) for i in range(100)]
    true, calls = small_images._sums, []

    def sums(block: small_images.Pixels) -> small_images.Counts:
        calls.append(len(block))
        if len(calls) == 1:
            raise MemoryError
        return true(block)

    monkeypatch.setattr(small_images, "_sums", sums)
    counted, failed, others = Tally(), [], Tally()
    for i, pixels in enumerate(pictures):
        try:
            counted.count(pixels, data=pixels.tobytes())
        except MemoryError:
            failed.append(i)
    for i in sorted({*range(len(pictures))} - {*failed}):
        others.count(pictures[i], data=pictures[i].tobytes())
    assert failed == [85] and counted.state() == others.state()
