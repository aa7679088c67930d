"""PNGs by libspng: the same bits, notes and errors as by Pillow, for any file."""

import random
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from normcli.errors import InputError
from normcli.images import decode, pillow, png, small
from normcli.options.shared import DecodeOptions
from tests.support import needs
from tests.support.command import ROOT
from tests.support.images import encoded, photograph

needs.module("imagecodecs")
READING = DecodeOptions()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "_PAYS", 0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    at, found = 8, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    return png.SIGNATURE + b"".join(chunk(*part) for part in parts)


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """One change that checksums do not tell of, or that they do."""
    parts = chunks(seed)
    kinds = [kind for kind, _ in parts]
    match rng.randrange(7):
        case 0:  # other compressed bytes, with a right checksum
            at = kinds.index(b"IDAT")
            content = bytearray(parts[at][1])
            for _ in range(rng.randrange(1, 4)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            parts[at] = (b"IDAT", bytes(content))
            return joined(parts)
        case 1:  # other rows: too few, too many, unknown filters; split anywhere
            rows = bytearray(zlib.decompress(b"".join(content for kind, content in parts if kind == b"IDAT")))
            rows[rng.randrange(len(rows))] = rng.randrange(8)
            rows = rng.choice([rows, rows[: rng.randrange(len(rows))], rows + bytes(rng.randrange(50))])
            packed = zlib.compress(bytes(rows))
            packed = rng.choice([packed, packed[: -rng.randrange(1, 6)], packed + b"\1\2\3"])
            pieces = [packed[i : i + 50] for i in range(0, len(packed), 50)]
            pieces.insert(rng.randrange(len(pieces)), b"")
            return joined([parts[0], *((b"IDAT", piece) for piece in pieces), (b"IEND", b"")])
        case 2:  # another header
            header = bytearray(parts[0][1])
            header[rng.randrange(13)] = rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255])
            return joined([(b"IHDR", bytes(header)), *parts[1:]])
        case 3:  # one more chunk, of any length, anywhere
            kind = rng.choice([*png._HARMLESS, b"tRNS", b"PLTE", b"eXIf", b"acTL", b"IDAT", b"IEND", b"IHDR", b"abCd"])
            data = bytes(rng.randrange(256) for _ in range(rng.choice([0, 1, 2, 3, 4, 6, 7, 9, 13, 32])))
            texts = [b"Software\0x", b"exif\0II*\0", b"transparency\0\1", b"Comment\0\xff", b"Comment"]
            pair: tuple[bytes, bytes] = rng.choice([(kind, data), (b"tEXt", rng.choice(texts))])
            parts.insert(rng.randrange(len(parts) + 1), pair)
            return joined(parts)
        case 4:  # a profile, whole or not, once or twice, anywhere
            packed = zlib.compress(bytes(rng.choice([0, 1, 560])))
            packed = rng.choice([packed, packed, packed[: rng.randrange(len(packed))], packed + b"x", b""])
            name = rng.choice([b"ICC Profile", b"sRGB", b"", b"n" * 79, b"n" * 80])
            for _ in range(rng.choice([1, 1, 1, 2])):
                profile = b"iCCP", name + rng.choice([b"\0\0", b"\0\0", b"\0\1", b"\0", b""]) + packed
                parts.insert(rng.choice([1, 1, rng.randrange(len(parts) + 1)]), profile)
            return joined(parts)
        case 5:
            flipped = bytearray(seed)
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            return bytes(flipped)
        case _:
            return seed[: rng.randrange(len(seed))]


def seeds() -> Iterator[bytes]:
    for height, width in ((5, 7), (16, 16), (1, 1), (33, 3)):
        for channels in (1, 3):
            for level in (0, 6):
                yield encoded(photograph(height, width, channels), compress_level=level)


def test_each_mutation_gives_what_pillow_gives() -> None:
    """Compare some mutations; a run by hand over a million took 267,679, and none was other than Pillow's."""
    rng, all_seeds = random.Random(1), list(seeds())
    taken = small_taken = 0
    for _ in range(6000):
        data = mutated(rng.choice(all_seeds), rng)
        if (decoded := small_decoded(data)) is not None:
            small_taken += 1
            theirs = pillow.decode(data, READING)
            assert decoded == (theirs.pixels.shape, theirs.pixels.tobytes(), tuple(theirs.notes))
        try:
            ours = png.decode(data, READING)
        except InputError:  # too large: Pillow's path says so as well
            continue
        if ours is None:
            continue
        taken += 1
        theirs = pillow.decode(data, READING)
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        for name in ("format", "mode", "depth", "notes", "orientation", "alpha"):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert taken > 600 and small_taken > 150


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_stream_that_stops_behind_its_rows(channels: int) -> None:
    """libspng decodes it; Pillow does not if its last bytes are several rows. Which one sees it depends on the run."""
    header, (_, packed), end = chunks(encoded(np.full((28, 28, channels), 7, np.uint8)))
    profile = b"iCCP", b"a\0\0" + zlib.compress(b"profile")
    for cut in (4, 5, 6):
        stream = packed[:-cut]
        if len(zlib.decompressobj().decompress(stream)) < 28 * (1 + 28 * channels):
            continue
        data = joined([header, profile, (b"IDAT", stream[:9]), (b"IDAT", stream[9:]), (b"IDAT", b"abc"), end])
        theirs = pillow.decode(data, READING)
        assert np.all(theirs.pixels == 7) and theirs.notes == ["icc"]
        ours = png.decode(data, READING)
        assert ours is None or (np.array_equal(ours.pixels, theirs.pixels) and ours.notes == theirs.notes)
    with pytest.raises(OSError, match="truncated"):
        pillow.decode(joined([header, (b"IDAT", packed[: len(packed) // 2]), end]), READING)


def small_decoded(data: bytes) -> tuple[tuple[int, ...], bytes, tuple[str, ...]] | None:
    """Return shape, samples and notes of a small image by the rows of PNG."""
    try:
        decoded = small.decode(data, 1 << 20, unfilters=True)
    except Exception:
        return None
    if decoded is None:
        return None
    kind, rows = decoded
    return kind.shape, bytes(small.samples(kind, [rows])[0]), kind.notes


def test_plain_files_are_taken_and_others_left() -> None:
    for channels in (1, 3):
        pixels = photograph(20, 30, channels)
        found = png.decode(encoded(pixels), READING)
        assert found is not None
        np.testing.assert_array_equal(found.pixels, pixels.reshape(20, 30, channels))
        found = png.decode(encoded(pixels, icc_profile=b"not a profile"), READING)
        assert found is not None and found.notes == ["icc"]
        np.testing.assert_array_equal(found.pixels, pixels.reshape(20, 30, channels))
    for other in (photograph(20, 30, 2), photograph(20, 30)[:, :, 0] > 128):
        assert png.decode(encoded(other), READING) is None
    assert png.decode(encoded(photograph(20, 30)) + b"behind the end", READING) is not None


def test_too_large_by_the_header() -> None:
    with pytest.raises(InputError, match="over the limit"):
        png.decode(encoded(photograph(20, 30)), DecodeOptions(max_pixels=599))


def test_few_images_do_not_wait_for_the_import() -> None:
    program = (
        "import sys; from normcli.images import DecodeOptions, decode; data = sys.stdin.buffer.read()\n"
        "for _ in range(100): decode(data, DecodeOptions())\n"
        "assert 'imagecodecs' not in sys.modules\n"
        "for _ in range(200): decode(data, DecodeOptions())\n"
        "assert 'imagecodecs' in sys.modules\n"
    )
    digit = encoded(photograph(28, 28, 1))
    subprocess.run([sys.executable, "-c", program], input=digit, check=True, cwd=ROOT)


def test_damaged_deep_files_do_not_wear_none_out() -> None:
    """imagecodecs drops a reference to None with each of them; some ten thousand ended the process."""
    rng = np.random.default_rng(0)
    import imagecodecs

    whole = bytes(imagecodecs.png_encode(rng.integers(0, 65535, (20, 20, 3)).astype(np.uint16)))
    before = sys.getrefcount(None)
    for end in range(60, 60 + 400):
        with pytest.raises(InputError):
            decode(whole[:end], READING)
    assert sys.getrefcount(None) > before - 100


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_flipped_bit_is_never_silent(channels: int, dtype: type) -> None:
    """Pillow and libpng check not every checksum: 18 of 600 flips of RGBA changed pixels without a word."""
    import imagecodecs

    pixels: Any = photograph(24, 24, channels, seed=3).astype(dtype) * (1 if dtype is np.uint8 else 257)
    data = bytes(imagecodecs.png_encode(pixels))
    rng = random.Random(channels)
    assert "damaged" not in decode(data, READING).notes
    for _ in range(150):
        at = rng.randrange(8, len(data))
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        try:
            decoded = decode(bytes(damaged), READING)
        except InputError:
            continue
        assert "damaged" in decoded.notes
        with pytest.raises(InputError, match="without --strict"):
            decode(bytes(damaged), DecodeOptions(strict=True))


@pytest.mark.parametrize("cut", [1, 4, 8, 12, 13])
def test_a_png_that_ends_inside_a_chunk_is_noted(cut: int) -> None:
    data = encoded(photograph(24, 24, 4))[:-cut]
    try:
        assert "damaged" in decode(data, READING).notes
    except InputError as error:
        assert error.reason in ("truncated", "damaged")


def test_failures_say_nothing_of_freed_memory() -> None:
    """imagecodecs reads libpng's message after it is freed: other bytes in every run, and of this process."""
    import imagecodecs

    whole = bytes(imagecodecs.png_encode(np.zeros((20, 20, 3), np.uint16)))
    broken = whole.replace(b"IDAT", b"IDAX", 1)
    messages = set()
    for _ in range(20):
        with pytest.raises(InputError) as caught:
            decode(broken, READING)
        messages.add(caught.value.message)
    assert messages == {"cannot be decoded: libpng reports an error"}
