"""No input kills a run: mutated files of every format beside good ones; each ends in exactly one count."""

import io
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

import normcli
from normcli.errors import InputError
from normcli.images import decode
from normcli.options.shared import DecodeOptions
from tests.support import needs
from tests.support.command import Run
from tests.support.images import encoded, photograph
from tests.support.memory import peak

tifffile = needs.module("tifffile")
imagecodecs = needs.module("imagecodecs")


def originals() -> dict[str, bytes]:
    """One file of every format that is read."""
    rgb, gray = photograph(), photograph(channels=1)
    deep = np.dstack([rgb.astype(np.uint16) * 257])
    floats = io.BytesIO()
    tifffile.imwrite(floats, rgb.astype(np.float32), photometric="rgb", compression="zlib")
    return {
        "a.jpg": encoded(rgb, "JPEG"),
        "b.jpg": encoded(gray, "JPEG", progressive=True),
        "a.png": encoded(rgb),
        "b.png": imagecodecs.png_encode(deep),
        "a.gif": encoded(gray, "GIF"),
        "a.bmp": encoded(rgb, "BMP"),
        "a.tif": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "b.tif": floats.getvalue(),
        "a.webp": encoded(rgb, "WEBP"),
        "a.avif": encoded(rgb, "AVIF"),
        "a.jp2": encoded(rgb, "JPEG2000"),
        "a.ppm": encoded(rgb, "PPM"),
        "a.tga": encoded(rgb, "TGA"),
    }


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One kind of damage: cut, cut and closed, flipped bits, a zeroed page, a lying header, another file's tail."""
    damage = rng.randrange(6)
    at = rng.randrange(1, len(data))
    if damage == 0:
        return data[:at]
    if damage == 1:
        return data[:at] + data[-12:]
    out = bytearray(data)
    if damage == 2:
        out[at] ^= 1 << rng.randrange(8)
    elif damage == 3:
        out[at : at + 512] = bytes(len(out[at : at + 512]))
    elif damage == 4:
        head = rng.randrange(min(64, len(out)))
        out[head] = rng.randrange(256)
    else:
        out[at:] = rng.randbytes(len(out) - at)
    return bytes(out)


def build(folder: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    files = sorted(originals().items())
    for i in range(count):
        name, data = rng.choice(files)
        suffix = Path(rng.choice(files)[0]).suffix if rng.random() < 0.2 else Path(name).suffix
        (folder / f"bad{i:05}{suffix}").write_bytes(mutated(data, rng))
    for i in range(count // 10):
        (folder / f"good{i:05}.png").write_bytes(encoded(photograph(seed=i)))


def check_folder(run: Run, folder: Path, count: int) -> None:
    lists = []
    for workers in (1, 2, 8):
        target = folder.parent / f"failures{workers}.jsonl"
        done = run("stats", folder, "--json", "--failures", target, "-j", workers, "--color", "rgb")
        assert done.returncode == 3 and b"Traceback" not in done.stderr
        found = json.loads(done.stdout)
        assert found["images"] + found["failed"] + found["skipped"] == count
        lists.append((done.stdout, target.read_bytes()))
    assert lists[0] == lists[1] == lists[2]


def test_a_folder_of_mutated_files(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    build(folder, 200, seed=1)
    check_folder(run, folder, 220)


@pytest.mark.campaign
def test_a_thousand_mutated_files(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    build(folder, 1000, seed=2)
    check_folder(run, folder, 1100)


def names_python(message: str) -> bool:
    """Return True if a message has the name of an exception, or Python's words about a wrong value in a program."""
    return (
        re.search(r"\b\w+(Error|Exception): |object (is|has|cannot)|operand|instances of|literal", message) is not None
    )


@pytest.mark.parametrize("name", ["a.tif", "rgb16.tif"])
def test_no_damaged_tag_of_a_tiff_is_answered_with_an_exception_of_python(name: str) -> None:
    """Tags of another type or count reach the decoder as tuples, bytes and floats, which it computes with."""
    values = np.arange(12 * 9 * 3, dtype=np.uint8 if name == "a.tif" else np.uint16).reshape(12, 9, 3)
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb", compression=None if name == "a.tif" else "zlib")
    data, messages = file.getvalue(), set()
    start = int.from_bytes(data[4:8], "little")
    for entry in range(int.from_bytes(data[start : start + 2], "little")):
        at = start + 2 + 12 * entry
        for kind in (1, 2, 3, 5, 7, 11, 12, 16):
            for count in (0, 1, 3):
                changed = bytearray(data)
                changed[at + 2 : at + 8] = kind.to_bytes(2, "little") + count.to_bytes(4, "little")
                try:
                    decode(bytes(changed), DecodeOptions(max_pixels=1_000_000))
                except InputError as error:
                    messages.add(error.message)
    assert "cannot be decoded: its header or data is damaged" in messages
    assert not [message for message in messages if names_python(message)]


@pytest.mark.parametrize("name", sorted(originals()))
def test_mutations_end_in_pixels_or_a_reason(name: str) -> None:
    rng = random.Random(name)
    data = originals()[name]
    for _ in range(60):
        try:
            image = decode(mutated(data, rng), DecodeOptions(max_pixels=1_000_000))
        except InputError as error:
            assert error.reason and "\n" not in error.message and not names_python(error.message)
        else:
            assert image.pixels.ndim == 3 and image.pixels.size > 0


@pytest.mark.parametrize("name", [n for n in sorted(originals()) if n not in ("a.gif", "a.tga", "a.webp", "a.avif")])
def test_a_plain_cut_is_never_used_silently(name: str) -> None:
    data = originals()[name]
    whole = decode(data, DecodeOptions()).pixels.copy()
    for step in range(1, 40):
        try:
            image = decode(data[: len(data) * step // 40], DecodeOptions())
        except InputError:
            continue
        assert "damaged" in image.notes or np.array_equal(image.pixels, whole)


def test_bombs_stay_out_of_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(encoded(np.zeros((20_000, 10_000), np.uint8)))
    (tmp_path / "good.png").write_bytes(encoded(photograph()))
    summary = normcli.stats(tmp_path, max_pixels=10_000_000)
    assert summary.images == 1 and summary.failures == {"bomb": 1}
    used, done = peak(tmp_path, "stats", ".", "--max-pixels", "10000000", "--json")
    assert done.returncode == 3 and used < 150, (used, done)  # decoded it has 200 MB
