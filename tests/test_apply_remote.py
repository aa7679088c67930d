"""apply from servers: the folder's arrays, reads ahead, and the images kept when a server falls silent."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import normcli
from tests.support import needs, packing
from tests.support.command import Run
from tests.support.outputs import hashes, names
from tests.support.photographs import some
from tests.support.servers import upload

pytestmark = pytest.mark.usefixtures("no_waiting")
QUICK = {"NORMCLI_RETRIES": "0"}
ROWS = ["folder", "tar", "tar.gz", "webdataset", "zip", "parquet"]


def packed(row: str, folder: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    if row == "folder":
        return folder, [""]
    out = tmp_path / "packed"
    out.mkdir()
    return out, [path.name for path in packing.ROWS[row][1](folder, out)]


@pytest.mark.parametrize("row", ROWS)
def test_s3_gives_the_folders_arrays(row: str, bucket: Any, folder: Path, tmp_path: Path) -> None:
    same_from_s3(row, bucket, folder, tmp_path)


@pytest.mark.campaign
@pytest.mark.parametrize("row", ROWS)
def test_s3_gives_all_photographs(row: str, bucket: Any, shared_data: Path, tmp_path: Path) -> None:
    same_from_s3(row, bucket, some(shared_data, tmp_path / "photos", 300), tmp_path)


def same_from_s3(row: str, client: Any, folder: Path, tmp_path: Path) -> None:
    root, below = packed(row, folder, tmp_path)
    upload(client, root, f"{tmp_path.name}")
    sources = [f"s3://photos/{tmp_path.name}/{name}" for name in below]
    normcli.apply(folder, tmp_path / "plain")
    head = normcli.apply(sources, tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(tmp_path / "plain")
    if row == "folder":
        assert names(tmp_path / "out") == names(tmp_path / "plain")
    again = normcli.apply(sources, tmp_path / "out", resume=True)
    assert again.reused == head.images


def test_reads_overlap(server: Any, folder: Path, tmp_path: Path) -> None:
    url, handler = server
    together = threading.Barrier(4)  # four requests for images have to be under way at once, or all fail

    def wait(path: str, number: int) -> int:
        if path.endswith(".jpg"):
            together.wait(timeout=20)
        return 0

    handler.fail = staticmethod(wait)
    head = normcli.apply(f"{url}/images/", tmp_path / "out", scheme="unit", engine="serial", include=["*.jpg"])
    assert head.images == 8


def test_a_table_of_addresses(server: Any, folder: Path, tmp_path: Path) -> None:
    url, _ = server
    (tmp_path / "list.csv").write_text(f"url,label\n{url}/images/cat/0.jpg,x\n")
    normcli.apply(tmp_path / "list.csv", tmp_path / "out", scheme="unit")
    assert names(tmp_path / "out") == [f"{url.partition('://')[2]}/images/cat/0.jpg.npy"]


@pytest.mark.parametrize("to", ["npy", "stack", "tar", "parquet"])
def test_a_server_that_falls_silent(to: Any, server: Any, folder: Path, tmp_path: Path, run: Run) -> None:
    if to == "parquet":
        needs.module("pyarrow")
    url, handler = server
    arguments = ["apply", f"{url}/images/", "-o", "out", "-s", "unit", "--to", to, "--color", "rgb"]
    arguments += ["--shard-size", "3"] if to in ("tar", "parquet") else []
    handler.fail = staticmethod(lambda path, number: 503 if path.endswith("dog/1.jpg") else 0)
    done = run(*arguments, env=QUICK)
    assert done.returncode == 6, done.stderr
    assert b"Traceback" not in done.stderr
    if to == "npy":
        assert len(names(tmp_path / "out")) == 11 and b"1 input failed: 1 remote" in done.stderr
    else:
        assert done.stderr.count(b"\n") == 1 and b"--resume continues" in done.stderr and b"dog/1.jpg" in done.stderr
        assert not (tmp_path / "out/normcli.json").exists()
        told = run(*arguments)
        assert told.returncode == 2 and b"unfinished run (--resume completes it" in told.stderr
    handler.fail = None
    again = run(*arguments, "--resume")
    assert again.returncode == 0, again.stderr
    normcli.apply(
        folder,
        tmp_path / "plain",
        scheme="unit",
        to=to,
        color="rgb",
        shard_size="3" if to in ("tar", "parquet") else None,
    )
    final = [p for p in (tmp_path / "plain").rglob("*") if p.is_file() and p.name not in ("normcli.json", "index.csv")]
    assert len(final) >= 1
    for path in final:
        assert (tmp_path / "out" / path.relative_to(tmp_path / "plain")).read_bytes() == path.read_bytes()
    assert b"more done before" in again.stderr


@pytest.mark.parametrize("to", ["npy", "stack", "tar"])
def test_a_server_that_does_not_answer_exits_6_and_leaves_nothing(to: str, run: Run, tmp_path: Path) -> None:
    needs.module("aiohttp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for source in (f"http://127.0.0.1:{port}/a.jpg", f"http://127.0.0.1:{port}/a.tar", f"http://127.0.0.1:{port}/a/"):
        done = run("apply", source, "-o", "out", "-s", "unit", "--to", to, env=QUICK)
        assert done.returncode == 6 and done.stderr.count(b"\n") == 1, done.stderr
        assert b"does not answer" in done.stderr and not (tmp_path / "out").exists()


def test_a_silent_list_keeps_what_is_done(server: Any, folder: Path, tmp_path: Path, run: Run) -> None:
    url, handler = server
    arguments = ["apply", f"{url}/images/", "-o", "out", "-s", "unit"]
    assert run(*arguments).returncode == 0
    before = hashes(tmp_path / "out")
    handler.fail = staticmethod(lambda path, number: 503)
    done = run(*arguments, "--resume", env=QUICK)
    assert done.returncode == 6 and hashes(tmp_path / "out") == before
