"""Servers: the same state from S3 and HTTP as from the folder; retries, refusals, silence."""

import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import normcli
from normcli.errors import MissingExtraError, NormcliError, RemoteError, UsageError
from normcli.runs.stats_checkpoint import StatsCheckpoint
from normcli.storage import remote
from tests.support import needs, packing
from tests.support.command import Run
from tests.support.servers import upload

for library in ("fsspec", "aiohttp"):
    needs.module(library)


pytestmark = pytest.mark.usefixtures("no_waiting")


REMOTE = ["tar", "tar.gz", "webdataset", "zip", "parquet"]


@pytest.mark.parametrize("row", ["folder", *REMOTE])
def test_s3_gives_the_folders_state(row: str, bucket: Any, folder: Path, tmp_path: Path) -> None:
    plain = normcli.stats(folder, group_by="folder")
    if row == "folder":
        upload(bucket, folder, "folder")
        sources = ["s3://photos/folder"]
    else:
        out = tmp_path / "packed"
        out.mkdir()
        sources = [f"s3://photos/{row}/{path.name}" for path in packing.ROWS[row][1](folder, out)]
        upload(bucket, out, row)
    for engine in ("serial", "threads"):
        assert normcli.stats(sources, group_by="folder", engine=engine).to_json() == plain.to_json()


@pytest.mark.campaign
@pytest.mark.parametrize("row", ["tar", "tar.gz", "webdataset", "zip", "parquet", "s3"])
def test_300_photographs_have_one_state(row: str, bucket: Any, shared_data: Path, tmp_path: Path) -> None:
    """However they are packed, whoever counts them."""
    photographs = shared_data / "imagenet-300"
    plain = normcli.stats(photographs, engine="serial").to_json()
    (tmp_path / "packed").mkdir()
    if row == "s3":
        upload(bucket, photographs, "all")
        sources = ["s3://photos/all"]
    else:
        sources = [str(path) for path in packing.ROWS[row][1](photographs, tmp_path / "packed")]
    for engine in ("serial", "threads", "processes", "dask"):
        assert normcli.stats(sources, engine=engine, workers=2).to_json() == plain, engine


def test_s3_with_a_checkpoint_reads_nothing_again(
    bucket: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(bucket, folder, "checkpoint")
    monkeypatch.setattr(StatsCheckpoint, "remove", StatsCheckpoint.close)
    options: dict[str, Any] = {"output": tmp_path / "s.json", "resume": True, "force": True}
    first = normcli.stats("s3://photos/checkpoint", **options)

    def unread(*_: Any) -> bytes:
        raise AssertionError("an object was read again")

    monkeypatch.setattr(remote, "read", unread)
    assert normcli.stats("s3://photos/checkpoint", **options).to_json() == first.to_json()


def test_a_bucket_that_is_not_there_is_one_line(bucket: Any, run: Run) -> None:
    done = run("stats", "s3://no-such-bucket/x.jpg")
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.count(b"\n") == 1 and b"missing" in done.stderr


@pytest.mark.parametrize("row", ["folder", *REMOTE])
def test_http_gives_the_folders_state(row: str, server: Any, folder: Path, tmp_path: Path) -> None:
    url, _ = server
    plain = normcli.stats(folder)
    if row == "folder":
        sources = [f"{url}/images/"]
    else:
        out = tmp_path / "packed"
        out.mkdir()
        sources = [f"{url}/packed/{path.name}" for path in packing.ROWS[row][1](folder, out)]
    assert normcli.stats(sources).to_json() == plain.to_json()


def test_a_manifest_of_addresses(server: Any, folder: Path, tmp_path: Path) -> None:
    url, _ = server
    rows = [f"{url}/images/{path.relative_to(folder)},x\n" for path in packing.files_of(folder)]
    (tmp_path / "list.csv").write_text("url,label\n" + "".join(rows))
    assert normcli.stats(tmp_path / "list.csv").to_json() == normcli.stats(folder).to_json()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_fails_for_a_while_is_tried_again(server: Any, folder: Path, status: int) -> None:
    url, handler = server
    handler.fail = staticmethod(lambda path, number: status if path.endswith("0.jpg") and number <= 2 else 0)
    assert normcli.stats(f"{url}/images/").to_json() == normcli.stats(folder).to_json()


def test_what_keeps_failing_is_counted_and_the_rest_is_used(server: Any, folder: Path) -> None:
    url, handler = server
    handler.fail = staticmethod(lambda path, number: {"0.jpg": 500, "1.jpg": 403, "2.jpg": 404}.get(path[-5:], 0))
    summary = normcli.stats(f"{url}/images/")
    assert summary.failures == {"missing": 2, "remote": 2, "unreadable": 2}
    assert summary.images == 6
    tried = handler.seen["/images/cat/0.jpg"], handler.seen["/images/cat/1.jpg"]
    assert tried[0] >= 4 and tried[1] == 1, "a refusal is not asked again"


def test_a_server_that_does_not_answer_exits_6(run: Run, folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quick = {"NORMCLI_RETRIES": "0"}
    done = run("stats", f"http://127.0.0.1:{port}/a.jpg", env=quick)
    assert (done.returncode, done.stdout) == (6, b"")
    assert done.stderr.count(b"\n") == 1 and b"does not answer" in done.stderr
    kept = run("stats", folder, f"http://127.0.0.1:{port}/a.jpg", "-o", "partial.json", env=quick)
    assert kept.returncode == 6
    partial_ = normcli.Summary.load(tmp_path / "partial.json")
    assert (partial_.images, partial_.complete, partial_.failures) == (12, False, {"remote": 1})


def test_a_server_that_is_gone_is_not_waited_for_again_and_again() -> None:
    tries = Counter[str]()

    def gone() -> bytes:
        tries["all"] += 1
        raise ConnectionError("refused")

    for _ in range(20):
        with pytest.raises(normcli.errors.InputError, match="does not answer"):
            remote.retried("http://x/y", gone)
    assert tries["all"] == 3 * 4 + 17


def test_errors_before_any_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NormcliError, match="nosuch"):
        normcli.stats("nosuch://x/y.jpg")
    with pytest.raises(RemoteError):
        normcli.stats("http://127.0.0.1:9/a.tar")
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"normcli\[s3\]"):
        normcli.stats("s3://a/b.jpg")


def test_an_update_from_s3_reads_what_changed(
    bucket: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(bucket, folder, "cached")
    (archive,) = packing.tar(folder / "cat", tmp_path)
    bucket.upload_file(str(archive), "photos", "cached.tar")
    sources = ["s3://photos/cached", "s3://photos/cached.tar"]
    place = tmp_path / "s.json"
    normcli.stats(sources, output=place, incremental=True)
    reads: list[str] = []
    read = remote.read

    def counted(path: str, limit: int | None) -> bytes:
        reads.append(path)
        return read(path, limit)

    monkeypatch.setattr(remote, "read", counted)
    told: list[Any] = []
    normcli.stats(sources, output=place, incremental=True, on_update=told.append)
    assert (reads, told[0].reused) == ([], 13)
    (folder / "cat" / "0.jpg").write_bytes((folder / "dog" / "1.jpg").read_bytes())
    upload(bucket, folder, "cached")  # what has the same bytes has the same ETag
    bucket.delete_object(Bucket="photos", Key="cached/dog/2.jpg")
    updated = normcli.stats(sources, output=place, incremental=True, on_update=told.append)
    assert reads == ["s3://photos/cached/cat/0.jpg"]
    assert told[1][:4] == (11, 0, 1, 1)
    assert updated.to_json() == normcli.stats(sources).to_json()


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_an_update_over_http_goes_by_what_the_server_tells(
    header: str, server: Any, folder: Path, tmp_path: Path
) -> None:
    url, handler = server
    handler.tells = header
    place = tmp_path / "s.json"
    normcli.stats(f"{url}/images/", output=place, incremental=True)
    (folder / "cat" / "0.jpg").write_bytes((folder / "dog" / "1.jpg").read_bytes())
    told: list[Any] = []
    updated = normcli.stats(f"{url}/images/", output=place, incremental=True, on_update=told.append)
    assert told[0][:4] == (11, 0, 1, 0)
    assert updated.to_json() == normcli.stats(folder).to_json()


def test_a_server_that_gives_no_version_cannot_be_cached(server: Any, folder: Path, tmp_path: Path) -> None:
    url, _ = server
    with pytest.raises(UsageError, match="sends no version"):
        normcli.stats(f"{url}/images/", output=tmp_path / "s.json", incremental=True)
    assert not (tmp_path / "s.json.cache").exists()
