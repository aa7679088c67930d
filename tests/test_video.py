"""Frames of videos count as the arrays that PyAV makes of them; the message of one that ends early has their number."""

import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.sources.frames import FrameChoice
from tests.support import needs
from tests.support.command import run_here

av = needs.module("av")
CODECS = {"mp4": "mpeg4", "mkv": "ffv1", "webm": "libvpx", "avi": "mjpeg", "mov": "mpeg4"}
FRAMES = 14


def write(path: Path, frames: Iterator[Any], codec: str, pixels: str = "yuv420p", matrix: int = 2) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(25))
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pixels
                stream.codec_context.colorspace = matrix
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def moving(count: int = FRAMES) -> Iterator[Any]:
    y, x = np.mgrid[:48, :64]
    for i in range(count):
        planes = [(x * 3 + i * 9) % 256, (y * 4 + i) % 256, (x + y + i * 5) % 256]
        yield av.VideoFrame.from_ndarray(np.stack(planes, axis=2).astype(np.uint8), format="rgb24")


def clip(folder: Path, suffix: str = "mkv") -> Path:
    codec = CODECS[suffix]
    if codec not in av.codecs_available:
        needs.missing("av")
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return write(folder / f"clip.{suffix}", moving(), codec, pixels)


def frames_of(path: Path, format: str = "rgb24") -> list[Any]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=format) for frame in container.decode(video=0)]


@pytest.mark.parametrize("suffix", CODECS)
def test_the_counts_are_those_of_the_frames_of_pyav(suffix: str, tmp_path: Path) -> None:
    path = clip(tmp_path, suffix)
    records: list[dict[str, Any]] = []
    summary = normcli.stats(path, on_image=records.append, group_by="label")
    frames = frames_of(path)
    assert (summary.images, summary.failed, len(frames)) == (FRAMES, 0, FRAMES)
    assert summary.state["buckets"] == normcli.count(frames).state["buckets"]
    for record, frame in zip(records, frames, strict=True):
        np.testing.assert_allclose(record["mean"], frame.mean(axis=(0, 1)) / 255, rtol=1e-13)
    assert list(summary.groups) == [path.name]
    assert [record["path"] for record in records][:2] == [f"{path}/000000", f"{path}/000001"]


def test_engines_shards_samples_and_checkpoints(tmp_path: Path) -> None:
    path = clip(tmp_path)
    expected = normcli.stats(path, engine="serial").to_json()
    assert normcli.stats(path, engine="threads", workers=2).to_json() == expected
    assert normcli.stats(path, engine="processes", workers=2).to_json() == expected
    parts = [normcli.stats(path, shard=(part, 3)) for part in (1, 2, 3)]
    assert normcli.merge(parts).to_json() == expected
    assert normcli.stats(path, sample=5).images == 5
    assert normcli.stats(path, output=tmp_path / "r.json", resume=True).to_json() == expected
    for reused in (0, 1):
        updates: list[Any] = []
        run = {"output": tmp_path / "i.json", "incremental": True, "on_update": updates.append}
        assert normcli.stats(path, **run).to_json() == expected  # type: ignore[arg-type]
        assert updates[0].reused + updates[0].reread == reused


CHOICES = {
    "all": list(range(FRAMES)),
    "::5": [0, 5, 10],
    "3:7": [3, 4, 5, 6],
    "10:": [10, 11, 12, 13],
    ":9:4": [0, 4, 8],
    "0,7,2": [0, 2, 7],
}


@pytest.mark.parametrize("text", CHOICES)
def test_some_frames(text: str, tmp_path: Path) -> None:
    path = clip(tmp_path)
    frames = frames_of(path)
    summary = normcli.stats(normcli.source(path, frames=text))
    assert (summary.images, summary.failed) == (len(CHOICES[text]), 0)
    assert summary.state["buckets"] == normcli.count([frames[i] for i in CHOICES[text]]).state["buckets"]


@pytest.mark.parametrize("text", ["", "::0", "5:5", "-1", "1;2", "every", "1,,2", "9" * 12])
def test_what_names_no_frames(text: str) -> None:
    with pytest.raises(normcli.UsageError, match="`open_options` frames="):
        FrameChoice.parse(text)


def test_frames_that_are_not_there_are_missing(tmp_path: Path) -> None:
    path = clip(tmp_path)
    summary = normcli.stats(normcli.source(path, frames="3,99"))
    assert (summary.images, summary.failures) == (1, {"missing": 1})
    with pytest.raises(normcli.NoInputError, match="it has 14 frames"):
        normcli.stats(normcli.source(path, frames="50:60"))


def plain(levels: tuple[int, ...], pixels: str) -> Iterator[Any]:
    planes = [np.full((16, 16), level, np.uint8) for level in levels]
    yield av.VideoFrame.from_ndarray(np.stack(planes) if len(levels) > 1 else planes[0], format=pixels)


def from_yuv(y: int, u: int, v: int, red: float, blue: float) -> list[float]:
    """Return RGB of BT.601 (red .299, blue .114) or BT.709 (.2126, .0722) levels: ITU-T H.273, limited range."""
    luma, cb, cr = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    return [255 * r, 255 * (luma - red * r - blue * b) / (1 - red - blue), 255 * b]


def test_the_matrix_is_the_files_or_the_users(tmp_path: Path) -> None:
    bt601, bt709 = from_yuv(100, 90, 200, 0.299, 0.114), from_yuv(100, 90, 200, 0.2126, 0.0722)
    for code, matrix, expected, name in [
        (2, "file", bt601, "bt601 (assumed)"),
        (1, "file", bt709, "bt709"),
        (6, "file", bt601, "bt601"),
        (2, "bt709", bt709, "bt709"),
        (1, "bt601", bt601, "bt601"),
    ]:
        path = write(tmp_path / "a.mkv", plain((100, 90, 200), "yuv444p"), "ffv1", "yuv444p", code)
        summary = normcli.stats(normcli.source(path, matrix=matrix))
        assert summary.mean is not None
        np.testing.assert_allclose([255 * v for v in summary.mean], expected, atol=0.8)
        assert summary.composition["video"] == {f"yuv444p to rgb24 by libswscale, {name}": 1}
    done = run_here("stats", path)
    assert "1 image of videos: yuv444p to rgb24 by libswscale, bt709" in " ".join(done.err.split())


def turned(path: Path, matrix: tuple[int, ...]) -> Path:
    """Write the display matrix of the track of an MP4: 9 numbers of 32 bits, 40 bytes into its header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    assert data[at : at + 4] == (1 << 16).to_bytes(4, "big"), "the identity"
    data[at : at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    path.write_bytes(data)
    return path


ONE = 1 << 16


@pytest.mark.parametrize(
    ("turns", "matrix"),
    [(1, (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)), (3, (0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30))],
    ids=["clockwise", "counterclockwise"],
)
def test_a_display_matrix_turns_frames_before_a_geometry(turns: int, matrix: tuple[int, ...], tmp_path: Path) -> None:
    """A display matrix acts as EXIF does: without a geometry the pixels are counted as stored."""
    path = turned(clip(tmp_path, "mp4"), matrix)
    frames = frames_of(path)
    for engine in ("threads", "processes"):
        stored = normcli.stats(path, engine=engine, workers=2)
        assert stored.composition["rotated"] == len(frames)
        assert stored.state["buckets"] == normcli.count(frames, layout="hwc").state["buckets"]
        crop = normcli.stats(path, center_crop=(59, 19), engine=engine, workers=2)
        upright = [np.rot90(frame, -turns) for frame in frames]  # odd margins show the direction
        expected = normcli.count(upright, layout="hwc", center_crop=(59, 19))
        assert crop.state["buckets"] == expected.state["buckets"]


def test_pixel_formats(tmp_path: Path) -> None:
    gray = write(tmp_path / "gray.mkv", plain((51,), "gray"), "ffv1", "gray")
    summary = normcli.stats(gray, color="native")
    assert (summary.mean, summary.composition["mode"]) == ([0.2], {"1xuint8": 1})
    half = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 512 * 64, np.uint16), format="yuv444p16le")
    ten_bits = iter([half.reformat(format="yuv444p10le")])
    deep = write(tmp_path / "deep.mkv", ten_bits, "ffv1", "yuv444p10le")
    summary = normcli.stats(deep)
    assert summary.composition["depth"] == {"16": 1} and summary.channels == ["R", "G", "B"]
    np.testing.assert_allclose(summary.mean, (512 - 64) / 876, atol=2e-3)
    assert normcli.stats(normcli.source(deep, pixels="rgb24")).composition["depth"] == {"8": 1}


@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4", "avi"])
def test_a_video_that_ends_early_says_what_was_counted(suffix: str, tmp_path: Path) -> None:
    path = clip(tmp_path, suffix)
    whole = frames_of(path)
    data = path.read_bytes()
    for share in (0.3, 0.7, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        failures: list[normcli.Failure] = []
        try:
            summary = normcli.stats(path, on_failure=failures.append)
        except normcli.NoInputError:
            assert suffix in ("mp4", "avi") or share == 0.3  # an index at the end, or nothing of the first frame
            continue
        assert {failure.reason for failure in failures} <= {"truncated", "damaged"}
        ends = [failure for failure in failures if failure.reason == "truncated"]
        assert ends[-1].key == str(path) and f"{summary.images} were counted" in ends[-1].message
        assert summary.state["buckets"] == normcli.count(whole[: summary.images]).state["buckets"]
        assert not summary.complete


def test_what_is_no_video_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, text, good = tmp_path / "empty.mp4", tmp_path / "text.mkv", clip(tmp_path)
    empty.write_bytes(b"")
    text.write_text("no video " * 100)
    (tmp_path / "folder.avi").mkdir()
    for source in (empty, text, tmp_path / "none.mov", "https://127.0.0.1:9/a.mp4"):
        with pytest.raises(normcli.NormcliError) as caught:
            normcli.stats(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(normcli.NoInputError, match="more than the limit"):
        normcli.stats(good, max_file_size=100)
    with pytest.raises(normcli.NoInputError, match=r"a video in a folder.*\*\.mkv"):
        normcli.stats(tmp_path)
    with pytest.raises(normcli.UsageError, match=r"normcli\.transform"):
        normcli.apply(good, tmp_path / "out", scheme="unit")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(normcli.MissingExtraError, match=r'pip install "normcli\[video\]"'):
        normcli.stats(good)


def test_the_command_writes_failures(tmp_path: Path) -> None:
    path = clip(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    done = run_here("stats", path, "-q", "-o", tmp_path / "s.json", "--failures", tmp_path / "f.jsonl")
    assert done.code == 3
    last = json.loads((tmp_path / "f.jsonl").read_text().splitlines()[-1])
    assert (last["path"], last["reason"]) == (str(path), "truncated")
