"""Hostile objects in storage: endless ones of S3, long names in archives, counts that expand like a bomb."""

import csv
import http.server
import io
import json
import os
import sqlite3
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import InputError, TensorError
from normcli.runs.checkpoint import inflate
from normcli.storage import remote
from normcli.tensor import files
from tests.support import needs
from tests.support.command import run_here
from tests.support.images import encoded, photograph
from tests.support.memory import peak


class Endless(http.server.BaseHTTPRequestHandler):
    """An S3 endpoint whose objects have no end, although it states lengths.

    Attributes:
        length: that it states; None for none.
        poured: bytes that were taken of each body.
    """

    length: int | None = None
    poured: list[int]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.send_header("ETag", '"a"')
        self.end_headers()

    def do_GET(self) -> None:
        if "list-type" in self.path:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
            return
        self.send_response(206 if "Range" in self.headers else 200)
        if self.length is not None:
            self.send_header("Content-Length", str(self.length))
        self.end_headers()
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 400 << 20:
                sent += self.wfile.write(bytes(1 << 16))
        self.poured.append(sent)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Endless]]:
    s3fs = needs.module("s3fs")
    handler = type("Own", (Endless,), {"poured": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "a")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        yield handler
        running.shutdown()
        thread.join()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("no_waiting")
class TestObjectsWithoutEnd:
    """A length that a server states is not trusted, by default too."""

    def test_by_the_default_bound(self, endless: type[Endless], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("normcli.storage.http.LARGEST_FILE", 4 << 20)
        with pytest.raises(InputError, match="more than the limit of 4194304 bytes"):
            remote.read("s3://photos/a.png", None)

    @pytest.mark.parametrize("length", [None, 1 << 40])
    def test_by_max_file_size(self, length: int | None, endless: type[Endless]) -> None:
        endless.length = length
        done = run_here("stats", "s3://photos/a.png", "--max-file-size", "1MB", "--json", "-j", 1)
        assert done.code == 4 and "1 too-large" in done.err and "internal" not in done.err, str(done)

    @pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.npy"])
    def test_ranges_of_containers(self, name: str, endless: type[Endless]) -> None:
        done = run_here("stats", f"s3://photos/{name}", "--json", "-j", 1)
        assert done.code == 4 and "more than the requested range" in done.err, str(done)

    def test_the_python_twin(self, endless: type[Endless]) -> None:
        with pytest.raises(normcli.NoInputError, match="too-large"):
            normcli.stats("s3://photos/a.png", max_file_size="1MB", workers=1)


def zip_of_names(names: list[bytes], data: bytes) -> bytes:
    """Return a stored zip, written member by member, so that names may have any bytes."""
    body, directory = bytearray(), bytearray()
    for name in names:
        sizes = struct.pack("<IIIHH", zlib.crc32(data), len(data), len(data), len(name), 0)
        directory += b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 0, 0, 0) + sizes
        directory += struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name
        body += b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 0, 0, 0) + sizes + name + data
    end = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(directory), len(body), 0)
    return bytes(body + directory + b"PK\5\6" + end)


class TestLongNames:
    """2,000 names of 60 KB took 401 MB."""

    def test_in_a_zip(self, tmp_path: Path) -> None:
        picture = encoded(photograph(16, 16))
        names = [b"%04d" % i + b"x" * 60_000 + b".png" for i in range(2000)]
        (tmp_path / "few.zip").write_bytes(zip_of_names([b"a.png"], picture))
        (tmp_path / "many.zip").write_bytes(zip_of_names([b"a.png", *names], picture))
        few, _ = peak(tmp_path, "stats", "few.zip", "--json", "-j", 2)
        many, done = peak(tmp_path, "stats", "many.zip", "--json", "-j", 2, "--failures", "f.jsonl")
        assert json.loads(done.stdout)["images"] == 1 and json.loads(done.stdout)["failed"] == 2000
        failure = json.loads((tmp_path / "f.jsonl").read_text().splitlines()[0])
        assert failure["reason"] == "unsafe-name" and "60,008 characters" in failure["message"]
        assert len(failure["path"]) < 200 and many <= few + 50

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_the_longest_that_a_system_has_is_read(self, kind: str, tmp_path: Path) -> None:
        import tarfile

        picture, name = encoded(photograph(16, 16)), "d/" * 2000 + "a.png"
        if kind == "zip":
            (tmp_path / "a.zip").write_bytes(zip_of_names([name.encode()], picture))
        else:
            with tarfile.open(tmp_path / "a.tar", "w") as archive:
                info = tarfile.TarInfo(name)
                info.size = len(picture)
                archive.addfile(info, io.BytesIO(picture))
        assert normcli.stats(tmp_path / f"a.{kind}").images == 1


class TestErrorLines:
    """One short line, however much a file holds."""

    @staticmethod
    def container(path: Path, count: int, key: str = "k") -> Path:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path, "w") as archive:
                buffer = io.BytesIO()
                np.save(buffer, np.zeros((1, 2, 2)))
                for i in range(count):
                    archive.writestr(f"{key}{i}.npy", buffer.getvalue())
            return path
        entries = {f"{key}{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}
        head = json.dumps(entries).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head)
        return path

    @pytest.mark.parametrize("suffix", ["safetensors", "npz"])
    @pytest.mark.parametrize("key", ["k", "k" * 3000])
    def test_keys_that_are_not_there(self, suffix: str, key: str, tmp_path: Path) -> None:
        path = self.container(tmp_path / f"a.{suffix}", 3000 if key == "k" else 30, key)
        for name in (f"{path}:absent", f"{path}"):
            done = run_here("tensor", "compare", name, "--layout", "NC")
            assert done.code in (1, 2) and len(done.err) < 2000 and done.err.count("\n") == 1, done.err[:300]
        with pytest.raises(TensorError) as raised:
            files.read_one(f"{path}:absent")
        assert len(str(raised.value)) < 1500 and "more" in str(raised.value)

    @pytest.mark.parametrize(
        "entry",
        [
            {"dtype": "U8", "shape": [1] * 100_000, "data_offsets": [0, 5]},
            {"dtype": "X" * 100_000, "shape": [1], "data_offsets": [0, 1]},
            {"dtype": "U8", "shape": [10**4000], "data_offsets": [0, 1]},
            {"dtype": "U8", "shape": [1], "data_offsets": [10**4000, 1]},
            {"dtype": ["U8"] * 100_000, "shape": [1], "data_offsets": [0, 1]},
            3,
        ],
    )
    def test_headers_of_any_size(self, entry: Any, tmp_path: Path) -> None:
        head = json.dumps({"n" * 50_000: entry}).encode()
        (tmp_path / "a.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + b"x")
        done = run_here("tensor", "compare", tmp_path / "a.safetensors", "--layout", "NC")
        assert done.code == 1 and len(done.err) < 1000 and done.err.count("\n") == 1, done.err[:300]
        assert "internal" not in done.err and "not a valid safetensors file" in done.err

    def test_images_in_many_arrays(self, tmp_path: Path) -> None:
        done = run_here("stats", self.container(tmp_path / "a.npz", 2000))
        assert done.code == 2 and "1,992 more" in done.err and len(done.err) < 1000


def test_no_cell_of_an_index_is_a_formula(tmp_path: Path) -> None:
    """Names and labels come from strangers' archives, and the index is opened in spreadsheets."""
    names = ["=1+1/=cmd.png", "+a/+b.png", "@x/@y.png", "-1/-2.png", "plain/a=b.png"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, encoded(photograph(8, 8)))
    normcli.apply(tmp_path / "a.zip", tmp_path / "out", scheme="unit", to="stack")
    rows = list(csv.DictReader((tmp_path / "out/index.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["'=1+1", "'+a", "'@x", "-1", "plain"]
    assert not any(cell[:1] in "=+@" for row in rows for cell in row.values())
    paths = [os.path.normpath(row["name"]) for row in rows]  # the same files
    assert paths == names, paths
    restored = normcli.restore(tmp_path / "out", tmp_path / "back")
    assert restored.images == 5
    assert sorted(p.name for p in (tmp_path / "back").rglob("*.png")) == sorted(Path(n).name for n in names)


class TestCountsThatExpand:
    """A cache of 0.2 MB became 2 GB."""

    BOMB = zlib.compress(b'{"a": [' + b"0," * (30 << 20) + b"0]}", 9)

    def test_in_the_sum_of_a_cache(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d/a.png").write_bytes(encoded(photograph(16, 16)))
        command = ["stats", "d", "-o", "s.json", "--incremental", "-q", "-j", "1"]
        plain, _ = peak(tmp_path, *command)
        with closing(sqlite3.connect(tmp_path / "s.json.cache")) as base:
            (value,) = base.execute("SELECT value FROM head").fetchone()
            length = int.from_bytes(value[:8], "little")
            value = value[: 8 + length] + self.BOMB
            base.execute("UPDATE head SET value = ?, checksum = ?", (value, zlib.crc32(value)))
            base.commit()
        (tmp_path / "d/b.png").write_bytes(encoded(photograph(16, 16)))
        used, done = peak(tmp_path, *command)
        assert done.returncode == 2 and b"s.json.cache: damaged" in done.stderr and used <= plain + 150, done.stderr

    def test_in_a_line_of_a_checkpoint(self) -> None:
        assert len(inflate(self.BOMB)) <= max(16 << 20, 200 * len(self.BOMB))
