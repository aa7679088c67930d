"""Every line in the tables of docs/datasets.md runs, on small data of each kind and real servers."""

import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import needs, packing, robots
from tests.support.command import ROOT
from tests.support.images import encoded, photograph

TEXT = (ROOT / "docs/datasets.md").read_text()
# what cannot be run here: there is no server of Google's to put on the loopback
NOT_RUN = {"normcli stats gs://bucket/photos"}
MODULES = {
    "tiff": "tifffile",
    "video": "av",
    "zarr": "zarr",
    "hdf5": "h5py",
    "medical": "nibabel",
    "zst": "zstandard",
    "parquet": "pyarrow",
    "remote": "aiohttp",
    "s3": "s3fs",
    "dask": "distributed",
}
# options whose value is a file or folder that is there afterwards
WRITES = r"(?:-o|--output|--per-image|--failures|--report) (\S+)"


def rows(text: str) -> Iterator[tuple[str, str]]:
    """The code in the column "a line that runs" of every table that has one, and the rest of its row."""
    column = None
    for line in text.splitlines():
        if not line.startswith("|"):
            column = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if "a line that runs" in cells:
            column = cells.index("a line that runs")
        elif column is not None and not set(line) <= set("|- :"):
            found = re.findall(r"`([^`]+)`", cells[column])
            assert found, f"no line that runs in {line}"
            for code in found:
                yield code.replace(r"\|", "|"), " ".join(cells[:column] + cells[column + 1 :])


LINES = list(rows(TEXT))
RUN = [row for row in LINES if row[0] not in NOT_RUN]


def ustar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the lines name."""
    home = tmp_path_factory.mktemp("data")
    photos = home / "photos"
    for i in range(6):
        for suffix, kind in ((".jpg", "JPEG"), (".png", "PNG")):
            path = photos / "ab"[i % 2] / f"{i}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(photograph(seed=i), kind))
    (home / "more").mkdir()
    shutil.copy(photos / "a/0.jpg", home / "more/a.jpg")
    for name in ("folder", "train"):  # on servers
        shutil.copytree(photos, home / name)
    images = packing.files_of(photos)
    for number in range(147):
        name = f"{number:06}"
        ustar(home / f"train-{number:03}.tar", {f"{name}.jpg": images[0].read_bytes(), f"{name}.cls": b"3"})
    for number in range(10):
        shutil.copy(home / f"train-{number:03}.tar", home / f"train-{number}.tar")
    out = home / "packed"
    out.mkdir()
    kinds = ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip", "csv", "jsonl"]
    kinds += [kind for kind, module in (("parquet", "pyarrow"), ("tar.zst", "zstandard")) if there(module)]
    note = photos / "note.txt"  # no image: what --failures tells of
    for kind in kinds:
        note.write_text("no image") if kind == "tar" else note.unlink(missing_ok=True)
        (path,) = packing.ROWS[kind][1](photos, out)
        name = path.name if kind == "parquet" else f"files.{kind}" if kind in ("csv", "jsonl") else f"photos.{kind}"
        path.rename(home / name)
    out.rmdir()
    note.write_text("no image")
    np.save(home / "images.npy", np.stack([photograph(seed=i).transpose(2, 0, 1) for i in range(4)]))
    vectors = robots.episodes(2, 20)
    np.save(home / "vectors.npy", vectors[0]["action"])
    if there("pyarrow"):
        pa, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
        columns = {
            name: pa.array(list(vectors[0][of])) for name, of in (("action", "action"), ("state", "observation.state"))
        }
        parquet.write_table(pa.table(columns), home / "run.parquet")
        needs.module("pyarrow.feather").write_feather(pa.table(columns), home / "run.feather")
        robots.write(home / "robot", "v3.0", vectors)
    (home / "module.py").write_text("import numpy\ndataset = [numpy.zeros((8, 8, 3), numpy.uint8)] * 3\n")
    digits = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (3, 28, 28)) + bytes(3 * 28 * 28 - 1) + b"x"
    (home / "t10k-images-idx3-ubyte").write_bytes(digits)
    packing.gzipped(home / "t10k-images-idx3-ubyte")
    if there("h5py"):
        import h5py

        with h5py.File(home / "era5.nc", "w") as file:
            file["t2m"], file["sst"] = np.zeros((2, 3, 8, 9), np.int16)
        with h5py.File(home / "demos.hdf5", "w") as file:
            for i, episode in enumerate(vectors):
                file[f"data/demo_{i}/actions"] = episode["action"]
    if there("tifffile"):
        import tifffile

        (home / "plate").mkdir()
        stack = np.arange(2 * 3 * 8 * 9, dtype=np.uint16).reshape(2, 3, 8, 9)
        tifffile.imwrite(home / "plate/A01.ome.tif", stack, photometric="minisblack", metadata={"axes": "ZCYX"})
    if there("pydicom"):
        import pydicom

        (home / "series").mkdir()
        shutil.copy(Path(pydicom.__file__).parent / "data/test_files/CT_small.dcm", home / "series/1.dcm")
    if there("zarr"):
        import zarr

        zarr.create_array(home / "plate.zarr", data=np.zeros((2, 40, 50), np.uint16), dimension_names=("t", "y", "x"))
    if there("av"):
        import av

        with av.open(str(home / "clip.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(20):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(photograph(48, 64, seed=i), format="rgb24")))
            container.mux(stream.encode())
    if there("nibabel"):
        import nibabel

        nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(6, 5, 4), np.eye(4)).to_filename(
            home / "case.nii.gz"
        )
    return home


def there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def shell(line: str, folder: Path) -> "subprocess.CompletedProcess[bytes]":
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = ["bash", "-euo", "pipefail", "-c", line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False, timeout=120)


def check_line(line: str, folder: Path) -> None:
    """Run a line; it must succeed, print or write, and leave the files that it names."""
    for needed in re.findall(r"--stats (\S+)", line):
        assert shell(f"normcli stats photos/ -q -o {needed}", folder).returncode == 0
    done = shell(line, folder)
    assert done.returncode == 0, f"{line}\n{done.stderr.decode()}"
    assert b"Traceback" not in done.stderr
    written = [path for path in re.findall(WRITES, line) if path != "-" and "://" not in path]
    for path in written:
        assert (folder / path).exists() and (folder / path).stat().st_size > 0, path
    if line.split("normcli ")[1].startswith("stats"):
        found = re.search(rb'"images": (\d+)|^(\d+) (?:images?|vectors);', done.stdout, re.MULTILINE)
        assert found and int(found[1] or found[2]) > 0, done.stdout
    else:
        assert written or done.stdout, "it shows or writes something"


@pytest.mark.parametrize(("line", "about"), RUN, ids=[line for line, _ in RUN])
def test_the_line_runs(line: str, about: str, data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for extra in re.findall(r"normcli\[(\w+)\]", about):
        needs.module(MODULES[extra])
    if "https://host" in line:
        url, _ = request.getfixturevalue("server")
        line = line.replace("https://host", f"{url}/work")
    if "s3://" in line:
        upload(request.getfixturevalue("bucket"), data)
    folder = tmp_path / "work"
    shutil.copytree(data, folder)
    check_line(line, folder)


def upload(client: Any, data: Path) -> None:
    names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    if "bucket" not in names:
        client.create_bucket(Bucket="bucket")
        for path in packing.files_of(data):
            client.upload_file(str(path), "bucket", str(path.relative_to(data)))


def test_what_is_not_run_stands_in_the_tables() -> None:
    assert {line for line, _ in LINES} >= NOT_RUN
    assert len(LINES) >= 18


WRONG = [
    "normcli stats nowhere.tar",
    "normcli stats photos.tar.gz --no-such-option",
    "normcli stats photos/ -q -o s.json",
    "normcli show nothing.json",
]


@pytest.mark.parametrize("line", WRONG)
def test_a_line_that_does_not_run_or_says_nothing_is_seen(line: str, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(data, folder)
    with pytest.raises(AssertionError):
        check_line(line, folder)


def test_the_tables_are_read_as_written() -> None:
    table = "| sink | a line that runs |\n|---|---|\n| x | `a \\| b`, `c` |\n| y | none |\n"
    found = rows(table)
    assert [next(found)[0], next(found)[0]] == ["a | b", "c"]
    with pytest.raises(AssertionError, match="no line that runs"):
        next(found)
