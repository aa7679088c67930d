"""JPEG files of a batch, which are read before the first is decoded: the same bits as one by one."""

import builtins
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from normcli.images import jpeg
from normcli.kernels.kernel import Kernel
from normcli.options.shared import DecodeOptions, InputOptions
from normcli.runs import photographs
from normcli.runs.count import WorkerOptions, count_batch, merge
from normcli.sources import Item, Skipped, read
from normcli.storage import files
from normcli.tally import integers
from normcli.tally import tally as tallies
from tests.support.images import encoded, photograph


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photograph(40, 40)).convert("CMYK").save(buffer, "JPEG")
    return buffer.getvalue()


TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
PLAIN = {f"{i:02}.jpg": encoded(photograph(200 + i % 3, 300, 3 if i % 4 else 1, seed=i), "JPEG") for i in range(12)}
OTHERS = {
    "exif.jpg": encoded(photograph(200, 300), "JPEG", exif=TURNED),
    "icc.jpg": encoded(photograph(200, 300), "JPEG", icc_profile=b"profile"),
    "small.jpg": encoded(photograph(20, 30), "JPEG"),
    "large.jpg": encoded(photograph(400, 500), "JPEG", quality=100),
    "cut.jpg": encoded(photograph(200, 300), "JPEG")[:-3000],
    "end.jpg": encoded(photograph(200, 300), "JPEG")[:-2],
    "start.jpg": b"\xff\xd8\xff\xe0",
    "cmyk.jpg": cmyk(),
    "empty.jpg": b"",
    "gray.png": encoded(photograph(200, 300, 1)),
    "text.jpg": b"text",
}


def folder_of(path: Path, name: str, place: int) -> list[Item | Skipped]:
    """Return plain files with another one among them, and a link that leads nowhere at the end."""
    for i, (plain, data) in enumerate(PLAIN.items()):
        (path / f"{i if i < place else i + 1:02}-{plain}").write_bytes(data)
    (path / f"{place:02}-{name}").write_bytes(OTHERS[name])
    (path / "gone.jpg").write_bytes(OTHERS["exif.jpg"])
    items = list(read([str(path)], InputOptions(max_file_size="60000")))
    (path / "gone.jpg").unlink()
    return items


@pytest.mark.parametrize("place", [0, 5])
@pytest.mark.parametrize("name", OTHERS)
def test_together_as_one_by_one(name: str, place: int, tmp_path: Path) -> None:
    items, options = folder_of(tmp_path, name, place), WorkerOptions(DecodeOptions())
    together, alone = count_batch(options, items), merge([count_batch(options, [item]) for item in items])
    assert together.state() == alone.state()
    assert together.tally.images >= len(PLAIN)
    assert [failure.key for failure in together.failures][-1] == items[-1].key


@pytest.mark.parametrize(
    "reading",
    [DecodeOptions(color="gray"), DecodeOptions(max_pixels=60_000), DecodeOptions(max_pixels=60_300)],
    ids=["gray", "all but the smallest are too large", "the largest are too large"],
)
def test_options_of_decoding(reading: DecodeOptions, tmp_path: Path) -> None:
    items, options = folder_of(tmp_path, "large.jpg", 2), WorkerOptions(reading)
    together, alone = count_batch(options, items), merge([count_batch(options, [item]) for item in items])
    assert together.state() == alone.state()


@pytest.mark.parametrize("most", [0, 1, 20_000, 40_000])
def test_what_is_read_ahead_is_bounded(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, options = folder_of(tmp_path, "exif.jpg", 3), WorkerOptions(DecodeOptions())
    alone = merge([count_batch(options, [item]) for item in items])
    monkeypatch.setattr(photographs, "_AHEAD", most)
    ahead = photographs._read_ahead(options, items)
    assert sum(len(one.data) for one in ahead if one is not None) <= most
    assert any(ahead) == (most > max(map(len, PLAIN.values())))
    assert count_batch(options, items).state() == alone.state()


def test_a_file_that_changes_after_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is that of the bytes that were decoded."""
    items, options = folder_of(tmp_path, "small.jpg", 0), WorkerOptions(DecodeOptions())
    expected = count_batch(options, items).state()
    real = photographs._read_ahead

    def read_and_cut(*arguments: object) -> object:
        ahead = real(*arguments)  # type: ignore[arg-type]
        for path in tmp_path.iterdir():
            os.truncate(path, 10)
        return ahead

    monkeypatch.setattr(photographs, "_read_ahead", read_and_cut)
    assert count_batch(options, items).state() == expected


@pytest.mark.parametrize("name", OTHERS)
def test_every_file_is_read_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = folder_of(tmp_path, name, 3)[:-1]  # without the link that leads nowhere
    paths: list[str] = []
    real = files.read

    def counted(path: str, **options: object) -> object:
        paths.append(path)
        return real(path, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(files, "read", counted)
    count_batch(WorkerOptions(DecodeOptions()), items)
    again = 1 if name in ("empty.jpg", "large.jpg") else 0  # those that cannot be read are tried again
    assert len(paths) == len(items) + again


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers._scratch, "calls", {})
    monkeypatch.setattr(integers, "_bound_call", lambda _: None)
    monkeypatch.setattr(Kernel, "is_due", lambda _: False)


def failing_once(function: Callable[..., object]) -> Callable[..., object]:
    """Return a function that finds no memory in its third call, and does nothing in it."""
    calls = iter(range(1 << 20))

    def instead(*arguments: object, **options: object) -> object:
        if next(calls) == 2:
            raise MemoryError
        return function(*arguments, **options)

    return instead


def no_memory(*_: object, **__: object) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (integers.ImageRows, "append"),
        (integers, "_count"),
        (integers, "_powers"),
        (jpeg, "header"),
        (jpeg, "decode_strictly"),
        (photographs, "_notes"),
    ],
    ids=["append", "_count", "_powers", "header", "decode_strictly", "_notes"],
)
def test_no_memory_once(owner: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that finds no memory once is counted by the usual way, and not twice."""
    without_kernels(monkeypatch)
    items, options = folder_of(tmp_path, "exif.jpg", 12), WorkerOptions(DecodeOptions())
    expected = count_batch(options, items).state()
    monkeypatch.setattr(owner, name, failing_once(getattr(owner, name)))
    assert count_batch(options, items).state() == expected


@pytest.mark.parametrize("place", ["append", "digest", "_powers", "bound call"])
def test_an_image_without_memory_is_not_counted_in_part(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernels(monkeypatch)
    tally = tallies.Tally()
    tally.count_plain(photograph(200, 300), ("note",), b"first")
    expected = tally.state()
    with monkeypatch.context() as patch:
        if place == "append":
            patch.setattr(integers.ImageRows, "append", no_memory)
        elif place == "digest":
            patch.setattr(tallies, "digest", no_memory)
        elif place == "_powers":
            patch.setattr(integers, "_powers", no_memory)
        else:
            patch.setattr(integers._scratch, "calls", {3: SimpleNamespace(count=no_memory)})
        for count in [tally.count_plain] if place == "bound call" else [tally.count_plain, tally.count]:
            with pytest.raises(MemoryError):
                count(photograph(200, 300, seed=1), notes=("note",), data=b"second")  # type: ignore[operator]
    assert tally.state() == expected


@pytest.mark.parametrize("error", [ImportError, MemoryError, OSError])
def test_a_module_that_cannot_be_imported(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without memory, or handles, for the import the files are counted one by one."""
    items, options = folder_of(tmp_path, "exif.jpg", 3), WorkerOptions(DecodeOptions())
    expected = count_batch(options, items).state()
    real = builtins.__import__

    def instead(name: str, *arguments: object) -> object:
        if name == "normcli.runs.photographs":
            raise error
        return real(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", instead)
    assert count_batch(options, items).state() == expected
