"""Real servers on the loopback, as fixtures: files over HTTP, and S3 by moto."""

import http.server
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from normcli.storage import remote
from tests.support import needs, packing


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with ranges; `fail` chooses the fault of a response by its path and the number of the request.

    Attributes:
        tells: name of the header that tells the version of a file, "ETag" or "Last-Modified"; "" for none.
    """

    tells = ""
    fail: Callable[[str, int], int] | None = None
    seen: Counter[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(None)

    def answer(self, body: bytes | None) -> None:
        self.seen[self.path] += 1
        status = self.fail(self.path, self.seen[self.path]) if self.fail else 0
        if status:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            (super().do_GET if body is None else super().do_HEAD)()
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start, end = 0, len(data)
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(end, int(last) + 1 if last else end)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        if self.tells:
            self.send_header(self.tells, f'"{path.stat().st_mtime_ns}"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if body is None:
            self.wfile.write(data[start:end])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Any]]:
    needs.module("aiohttp")
    handler = type("Own", (Handler,), {"seen": Counter()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path))) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A client of an S3 server on the loopback, with the environment that finds it."""
    needs.module("s3fs")
    needs.module("moto")
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    found = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in found}
    os.environ.update(found)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    yield client
    client.close()
    running.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.0)
    remote._failed_in_a_row.clear()


def upload(client: Any, root: Path, prefix: str) -> None:
    for path in packing.files_of(root):
        client.upload_file(str(path), "photos", f"{prefix}/{path.relative_to(root)}")
