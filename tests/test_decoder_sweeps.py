"""Sweeps over all combinations that libraries write, each file against NumPy: right, or refused in words that fit.

The light version takes a part of each; `-m campaign` takes all and prints the figures.
"""

import gzip
import itertools
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from normcli.errors import InputError
from normcli.images import decode, unread
from normcli.options.shared import DecodeOptions
from tests.support import library_files, needs, sweeps
from tests.support.command import run_here

needs.modules("tifffile", "imagecodecs")

_MAXVALS = (1, 2, 3, 5, 7, 11, 15, 17, 51, 85, 100, 127, 254, 255, 256, 257, 1000, 1023, 4095, 21845, 65534, 65535)


@pytest.mark.parametrize("name", sweeps.SWEEPS)
def test_a_part_of_each_sweep_is_right_or_refused(name: str) -> None:
    light = {"tiff": lambda: sweeps.tiffs(211), "pnm": lambda: sweeps.pnms(_MAXVALS)}
    counts, wrong = sweeps.judge(light.get(name, sweeps.SWEEPS[name])())
    assert not wrong and counts["right"] > counts["refused"], wrong


@pytest.mark.campaign
@pytest.mark.parametrize("name", sweeps.SWEEPS)
def test_every_combination_is_right_or_refused(name: str) -> None:
    counts, wrong = sweeps.judge(sweeps.SWEEPS[name]())
    print(f"\n{name}: {sum(counts.values()):,} files, {dict(counts)}")
    assert not wrong, wrong[:20]


def test_a_sweep_sees_what_is_wrong() -> None:
    sample = next(itertools.islice(sweeps.pngs(), 1))
    assert sweeps.outcome(sample) == "right"
    assert sweeps.outcome(sample._replace(values=sample.values + 1)).startswith("wrong values")
    assert sweeps.outcome(sample._replace(white=None)).startswith("wrong scale")
    assert sweeps.outcome(sample._replace(data=sample.data[:8])).startswith("wrong words")


def _few_tiffs() -> Iterator[library_files.File]:
    return library_files.saved_by_tifffile((None, "WEBP"))


def _few_of_pillow() -> Iterator[library_files.File]:
    return library_files.saved_by_pillow(("RGB", "L", "1", "F", "P", "CMYK", "RGBA"))


_FEW = (_few_of_pillow, library_files.saved_by_imagecodecs, library_files.saved_by_opencv, _few_tiffs)


@pytest.mark.parametrize("written", _FEW)
def test_a_file_that_a_library_opens_is_read_or_named(written: Callable[[], Iterator[library_files.File]]) -> None:
    """Never "not an image that normcli reads, or its header is damaged"."""
    counts, wrong = library_files.judge(written())
    assert not wrong, wrong[:10]
    assert counts["right"] > counts["rejected"] or not counts, counts


@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of imageio's writers, as they close
@pytest.mark.parametrize("written", [*library_files.WRITERS, library_files.shipped])
def test_all_files_that_libraries_write_and_ship(written: Callable[[], Iterator[library_files.File]]) -> None:
    counts, wrong = library_files.judge(written())
    print(f"\n{written.__name__}: {dict(counts)}")
    assert not wrong, wrong[:20]


@pytest.mark.campaign
def test_all_photographs_at_hand() -> None:
    counts, wrong = library_files.judge(library_files.shipped(needs.data()))
    print(f"\nphotographs: {dict(counts)}")
    assert not wrong, wrong[:20]


def test_a_verdict_sees_what_is_wrong() -> None:
    _, data = next(file for file in library_files.saved_by_pillow(("RGB",)) if "PNG" in file[0])
    opened = library_files.means(data)
    assert library_files.verdict(data, opened) == "right"
    assert "a mean of" in library_files.verdict(data, {"Pillow": opened["Pillow"][::-1]})
    assert sweeps.DAMAGED in library_files.verdict(bytes(range(128, 255)), opened)


def test_without_the_extra_every_tiff_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """280 healthy ones, of colors or a compression that Pillow does not know, were called damaged."""
    files = [file for file in library_files.saved_by_tifffile((None, "WEBP", "JPEGXL")) if "bits" not in file[0]]
    for name in ("tifffile", "imagecodecs"):
        monkeypatch.setitem(sys.modules, name, None)
    rejected = 0
    for name, data in files:
        try:
            decode(data, DecodeOptions())
        except InputError as error:
            assert 'pip install "normcli[tiff]"' in error.message and error.reason == "unsupported", (name, str(error))
            rejected += 1
    assert rejected > len(files) / 2


def test_a_suffix_decides_nothing(tmp_path: Path) -> None:
    """One file of each format of Pillow, by the suffix of the format in capitals, and of others."""
    seen = set()
    for name, data in library_files.saved_by_pillow(("RGB", "1", "P")):
        kind = name.split()[1]
        if kind in seen or not library_files.means(data):
            continue
        seen.add(kind)
        for suffix in (kind, "PNG", "tif"):
            path = tmp_path / f"a.{suffix}"
            path.write_bytes(data)
            done = run_here("stats", path, "--json", "--progress", "never", "-j", 1)
            assert done.statistics is not None or "in the format" in done.err or "an X bitmap" in done.err, str(done)
    assert len(seen) > 20


MGH = struct.pack(">7i", 1, 256, 256, 256, 1, 3, 0) + bytes(300)  # of FreeSurfer


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x08\0\x05\0CS\x0a\0ISO_IR 100", "DICOM without the file header"),
        (b"\x08\0\0\0\x04\0\0\0\x10\1\0\0", "DICOM without the file header"),
        (b"\0\x08\0\x05CS\0\x0aISO_IR 100", "DICOM without the file header"),
        (b"\x5c\1\0\0" + bytes(344), "the format Analyze"),
        (b"\x5c\1\0\0" + bytes(340) + b"ni1\0", "the format NIfTI"),
        (b"\x1c\2\0\0n+2\0\r\n\x1a\n", "the format NIfTI"),
        (b"NRRD0004\ntype: float\n", "the format NRRD"),
        (gzip.compress(b"NRRD0004\ntype: float\n", mtime=0), "the format NRRD"),
        (b"ObjectType = Image\nNDims = 3\n", "the format MetaImage"),
        (b"NDims = 3\nDimSize = 4 4 4\n", "the format MetaImage"),
        (MGH, "the format MGH, which is not read: convert it to NIfTI"),
        (gzip.compress(MGH, mtime=0), "the format MGH, which is not read: convert it to NIfTI"),
        (gzip.compress(bytes(400), mtime=0), "gzip-compressed data"),
        (b"\x1f\x8b" + bytes(40), "gzip-compressed data"),
        (b"# vtk DataFile Version 3.0\n", "the format VTK"),
        (b"IIU\0\x18\0\0\0", "the format Panasonic raw"),
        (b"\1\0\0\0" + bytes(36) + b" EMF", "the format Windows Metafile"),
        (b"\xff\xd8\xff\xc0\0\x0e\x08\0\x20\0\x30\2\1\x11\0\2\x11\0", "the format JPEG of 2 components"),
        (b"RIFF\x10\0\0\0WEBPVP8 " + bytes(8), "a WebP whose header is damaged"),
        (b"\0\0\0\x20ftypheic" + bytes(20), "HEIC"),
    ],
)
def test_formats_are_named(data: bytes, words: str) -> None:
    error = unread.explain(data)
    assert words in str(error) and sweeps.DAMAGED not in str(error), str(error)


@pytest.mark.parametrize("missing", ["avif", "webp", "jpg_2000"])
def test_a_pillow_of_few_parts_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = {"avif": b"\0\0\0\x20ftypavif", "webp": b"RIFF\x10\0\0\0WEBP", "jpg_2000": b"\0\0\0\x0cjP  \r\n\x87\n"}
    monkeypatch.setattr("PIL.features.check", lambda feature: feature != missing)
    assert "pip install --upgrade pillow" in str(unread.explain(heads[missing] + bytes(40)))


@pytest.mark.parametrize(("kind", "bits"), [("gray", 4), ("16-bit gray", 12)])
def test_samples_beyond_the_bits_of_the_header_are_named(kind: str, bits: int) -> None:
    """The codestream in a TIFF has depths of its own: 4 bits wrapped around 256."""
    files = library_files.saved_by_tifffile(("JPEG_2000_LOSSY",))
    name, data = next(
        file for file in files if f"tifffile {kind} JPEG_2000_LOSSY {{'bitspersample': {bits}}}" == file[0]
    )
    with pytest.raises(InputError) as raised:
        decode(data, DecodeOptions())
    assert raised.value.reason == "unsupported" and f"{bits} bits" in raised.value.message, name


@pytest.mark.parametrize(("suffix", "words"), [("img", ".img is read as NIfTI"), ("hdr", "the format Radiance HDR")])
def test_suffixes_of_volumes(suffix: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n\0\0\0\0")
    assert words in run_here("stats", path).err
