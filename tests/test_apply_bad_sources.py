"""Hostile names through apply, from every container into every output: nothing outside OUT, one clear line."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import NormcliError
from normcli.sinks import OUTPUT_KINDS
from tests.support import needs
from tests.support.command import Run
from tests.support.images import encoded, photograph

WORK = ".normcli-partial"
NAMES = {
    "climbs": [b"../x.png"],
    "climbs inside": [b"a/../../x.png"],
    "absolute": [b"/tmp/normcli-evil/x.png"],
    "backslashes": [b"..\\x.png", b"C:\\x.png"],
    "twice": [b"a.png", b"a.png"],
    "twice by dots": [b"a.png", b"./a.png", b"a//b.png", b"a/./b.png"],
    "the manifest": [b"normcli.json", b"normcli.json.png", b"stats.json.png", b"index.csv.png"],
    "our folder": [WORK.encode() + b"/x.png"],
    "our folder by dots": [b"./" + WORK.encode() + b"/checkpoint-0.png"],
    "a shard": [b"shard-000000.tar.png", b"shard-000000.tar/x.png"],
    "the stack": [b"stack.npy.png", b"stack.npy/x.png"],
    "long": [b"y" * 300 + b".png", b"z" * 300 + b"/a.png"],
    "long in all": [b"/".join([b"d" * 200] * 30) + b"/a.png"],
    "no text": [b"caf\xe9.png", b"\xff\xfe/\x80.png", b"\xed\xa0\x80.png"],
    "controls": [b"a\nb.png", b"\x1b[31m.png", b"-rf.png", b" .png", b"...png", b".png"],
    "nothing but dots": [b"./.png", b".../...png"],
    "a file and a folder": [b"a.png", b"a.png.npy/b.png", b"a.png.png/c.png", b"a.png.tif/d.png"],
    "drives": [b"C:/x.png", b"s3://bucket/x.png", b"file:///x.png"],
}


def image(number: int) -> bytes:
    return encoded(photograph(8, 9, seed=number))


def in_tar(names: list[bytes], folder: Path, mode: str = "w") -> Path:
    path = folder / ("in.tar.gz" if mode == "w:gz" else "in.tar")
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:  # type: ignore[call-overload]
        for number, name in enumerate([*names, b"good.png"]):
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size = len(image(number))
            archive.addfile(info, io.BytesIO(image(number)))
    return path


def in_tar_gz(names: list[bytes], folder: Path) -> Path:
    return in_tar(names, folder, "w:gz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def in_zip(names: list[bytes], folder: Path) -> Path:
    """Pack names of any bytes: placeholders of the same length are replaced in the file."""
    path = folder / "in.zip"
    stand_ins = [b"@%06d" % i + b"@" * (len(name) - 7) for i, name in enumerate(names)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, name in enumerate(stand_ins):
            archive.writestr(name.decode(), image(number))
        archive.writestr("good.png", image(99))
    data = path.read_bytes()
    for stand_in, name in zip(stand_ins, names, strict=True):
        if len(name) == len(stand_in):
            assert data.count(stand_in) == 2
            data = data.replace(stand_in, name)
    path.write_bytes(data)
    return path


def in_manifest(names: list[bytes], folder: Path) -> Path:
    """Write paths into a table: files outside of it are read, as asked, and outputs are in OUT."""
    needs.module("fsspec")  # one of them is on a server
    (folder / "below").mkdir()
    (folder / "x.png").write_bytes(image(1))
    (folder / "below/good.png").write_bytes(image(99))
    path = folder / "below/in.csv"
    quoted = [b'"' + name.replace(b'"', b'""') + b'"' for name in [*names, b"good.png"]]
    path.write_bytes(b"path\n" + b"\n".join(quoted) + b"\n")
    return path


def in_npz(names: list[bytes], folder: Path) -> Path:
    path = folder / "in.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in names[:1]:  # of several arrays none is taken
            buffer = io.BytesIO()
            np.save(buffer, np.stack([photograph(8, 9, seed=i) for i in range(2)]))
            archive.writestr(name.decode("latin-1") + ".npy", buffer.getvalue())
    return path


def in_parquet(names: list[bytes], folder: Path) -> Path:
    """Write rows that name files in place of their bytes, and labels that are such names."""
    pa = needs.module("pyarrow")
    import pyarrow.parquet as pq

    texts = [name.decode("latin-1") for name in names]
    rows = [{"bytes": None, "path": text} for text in texts] + [{"bytes": image(99), "path": "../x"}]
    path = folder / "in.parquet"
    pq.write_table(pa.table({"image": rows, "label": [*texts, "../evil"]}), path)
    return path


def in_folder(names: list[bytes], folder: Path) -> Path:
    root = folder / "in"
    root.mkdir()
    for number, name in enumerate([*names, b"good.png"]):
        path = root / os.fsdecode(name.replace(b"../", b"").lstrip(b"/"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image(number))
        except OSError:  # what no folder can hold
            continue
    return root


PACKS: dict[str, Callable[[list[bytes], Path], Path]] = {
    "tar": in_tar,
    "tar.gz": in_tar_gz,
    "zip": in_zip,
    "manifest": in_manifest,
    "npz": in_npz,
    "parquet": in_parquet,
    "folder": in_folder,
}


SINKS = ["npy", "stack", "tar", "parquet"]  # the others write their files as npy does


def everything(root: Path, out: Path) -> dict[str, bytes]:
    """Return all files but those in OUT."""
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file() and out not in p.parents}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "to",
    [to if to in SINKS else pytest.param(to, marks=pytest.mark.campaign) for to in OUTPUT_KINDS if to != "nifti"],
)
@pytest.mark.parametrize("kind", PACKS)
def test_nothing_outside_the_output(kind: str, to: Any, tmp_path: Path) -> None:
    if to == "parquet":
        needs.module("pyarrow")
    refused = 0
    for number, (what, names) in enumerate(NAMES.items()):
        place = tmp_path / f"case{number}"
        place.mkdir()
        source = PACKS[kind](names, place)
        out = place / "deep" / "out"
        before = everything(place, out)
        try:
            head = normcli.apply(source, out, scheme="unit", to=to)
            assert head.images + sum(head.failed.values()) >= 1, what
            found = normcli.verify(out)
            assert found.images == head.images and not found.problems, (what, found.problems)
            back = normcli.restore(out, place / "deep" / "back")
            assert back.images + sum(back.failed.values()) == head.images
        except NormcliError as error:
            refused += 1
            assert error.exit_code in (2, 4, 5) and "Errno" not in str(error), (what, error)
        after = everything(place, out)
        assert {p: d for p, d in after.items() if "/deep/back/" not in p} == before, what
        assert not Path("/tmp/normcli-evil").exists()
    assert refused < len(NAMES), "some of them are harmless"


LINES = ["climbs", "absolute", "twice", "our folder", "long", "long in all", "no text", "controls"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", LINES)
@pytest.mark.parametrize("to", ["npy", "tar", "stack"])
def test_what_is_said_is_lines_without_control_characters(what: str, to: str, run: Run, tmp_path: Path) -> None:
    source = in_tar(NAMES[what], tmp_path)
    done = run("apply", source, "-o", "out", "-s", "unit", "--to", to, "--failures", "f.jsonl")
    assert done.returncode in (0, 2, 3, 5), done.stderr
    assert b"Traceback" not in done.stderr and b"\x1b" not in done.stderr and b"internal" not in done.stderr
    if done.returncode in (2, 5):
        assert done.stderr.count(b"\n") == 1 and not (tmp_path / "out").exists()


def test_too_long_a_name_costs_that_image_only(run: Run, tmp_path: Path) -> None:
    source = in_tar(NAMES["long"], tmp_path)
    done = run("apply", source, "-o", "out", "-s", "unit", "--failures", "f.jsonl")
    assert done.returncode == 3 and b"2 inputs failed: 2 name-too-long" in done.stderr, done.stderr
    assert (tmp_path / "out/good.png.npy").exists() and b"--to tar or parquet takes it" in (
        tmp_path / "f.jsonl"
    ).read_bytes()
    done = run("apply", source, "-o", "shards", "-s", "unit", "--to", "tar")
    assert done.returncode == 0, done.stderr
    back = run("restore", "shards", "-o", "back")
    assert back.returncode == 3 and b"wrote back: 1 image," in back.stderr and b"2 name-too-long" in back.stderr


def test_a_file_where_others_need_a_folder_is_told_of_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    source = in_tar(NAMES["a file and a folder"], tmp_path)
    done = run("apply", source, "-o", "out", "-s", "unit")
    assert done.returncode == 2 and b"a.png would be written as the file a.png.npy, but" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
    assert run("apply", source, "-o", "out", "-s", "unit", "--to", "npz").returncode == 0
    assert run("apply", source, "-o", "shards", "-s", "unit", "--to", "tar").returncode == 0


def test_a_folder_called_as_the_manifest_is_told_of(run: Run, tmp_path: Path) -> None:
    """It came to light when the manifest was to be written: after all the work."""
    for name in (b"normcli.json/x.png", b"stats.json/x.png"):
        source = in_tar([name], tmp_path)
        done = run("apply", source, "-o", "out", "-s", "unit")
        assert done.returncode == 2 and b"is a name that normcli uses" in done.stderr, done.stderr
        assert not (tmp_path / "out").exists()


def test_a_path_longer_than_the_system_takes(run: Run, tmp_path: Path) -> None:
    source = in_tar(NAMES["long in all"], tmp_path)
    done = run("apply", source, "-o", "out", "-s", "unit")
    assert done.returncode == 3 and b"1 input failed: 1 unsafe-name" in done.stderr, done.stderr
    assert b"a name of 6,035 characters" in done.stderr
