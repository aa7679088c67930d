"""Servers that send more than they say, compress it, have no end, or lead elsewhere."""

import gzip
import http.server
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import normcli
from normcli.errors import InputError
from normcli.storage import http as client
from normcli.storage import remote
from tests.support import needs
from tests.support.command import Run
from tests.support.images import encoded, photograph

for library in ("fsspec", "aiohttp"):
    needs.module(library)

pytestmark = pytest.mark.usefixtures("no_waiting")
Respond = Callable[["Hostile"], None]
QUICK = {"NORMCLI_RETRIES": "0"}


class Hostile(http.server.BaseHTTPRequestHandler):
    """Answers by the first folder of the path."""

    protocol_version = "HTTP/1.0"  # the end of a body is the end of the connection
    answers: dict[str, Respond]
    requests: list[tuple[str, str]]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.requests.append((self.command, self.path))
        with suppress(BrokenPipeError, ConnectionResetError):
            self.answers[self.path.split("/")[1]](self)

    do_HEAD = do_GET

    def head(self, status: int = 200, **headers: Any) -> bool:
        """Send the headers; return True if a body is requested too."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        return self.command == "GET"

    def pour(self, part: bytes, most: int) -> None:
        """Write a body until the client closes, or `most` bytes: then it was too patient."""
        for _ in range(most // len(part)):
            self.wfile.write(part)


@pytest.fixture
def hostile() -> Iterator[tuple[str, type[Hostile]]]:
    handler = type("Own", (Hostile,), {"answers": {}, "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()
        thread.join()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """A default bound of 4 MB, so that a test need not pour 1 GiB."""
    monkeypatch.setattr(client, "LARGEST_FILE", 4 << 20)
    return 4 << 20


def picture() -> bytes:
    return encoded(photograph(16, 16))


@pytest.mark.parametrize("says", [{}, {"Content_Length": 100 << 20}, {"Content_Length": 1 << 62}])
def test_a_body_without_end_is_left(says: dict[str, int], hostile: Any, small: int) -> None:
    url, handler = hostile
    poured = []

    def endless(answer: Hostile) -> None:
        if answer.head(**says):
            try:
                answer.pour(bytes(1 << 16), 200 << 20)
            finally:
                poured.append(answer)

    handler.answers["a.png"] = endless
    with pytest.raises(InputError, match=r"more than the limit of 4194304 bytes \(--max-file-size\)"):
        remote.read(f"{url}/a.png", None)
    with pytest.raises(InputError, match="more than the limit of 1000 bytes"):
        remote.read(f"{url}/a.png", 1000)


def test_the_default_bound_is_that_of_members() -> None:
    assert client.LARGEST_FILE == 1 << 30


def test_gzip_on_the_way_is_not_unpacked(hostile: Any, small: int) -> None:
    url, handler = hostile
    bomb = gzip.compress(bytes(100 << 20))
    asked = []

    def packed(answer: Hostile) -> None:
        asked.append(answer.headers["Accept-Encoding"])
        if answer.head(Content_Encoding="gzip", Content_Length=len(bomb)):
            answer.wfile.write(bomb)

    handler.answers["a.png"] = handler.answers["a.tar.gz"] = packed
    with pytest.raises(InputError, match=r"compresses the transfer \(gzip\)"):
        remote.read(f"{url}/a.png", None)
    assert asked == ["identity"]
    assert remote.read(f"{url}/a.tar.gz", None) == bomb, "Apache labels files of this name so"


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.png", picture())
    return out.getvalue()


def test_a_range_without_end_is_left(hostile: Any) -> None:
    url, handler = hostile

    def endless(answer: Hostile) -> None:
        ranged = answer.headers["Range"] is not None
        if answer.head(206 if ranged else 200, Content_Length=1 << 20) and ranged:
            answer.pour(bytes(1 << 16), 200 << 20)

    def longer(answer: Hostile) -> None:
        if answer.head(206):
            answer.pour(bytes(1 << 16), 200 << 20)

    handler.answers |= {"a.zip": endless, "b.zip": longer}
    for name in ("a.zip", "b.zip"):
        with pytest.raises(InputError, match="more than the requested range"):
            remote.read_at(f"{url}/{name}", 5, 100)


def test_a_server_without_ranges_is_named(hostile: Any) -> None:
    url, handler = hostile
    data = archive()

    def complete(answer: Hostile) -> None:
        if answer.head(Content_Length=len(data)):
            answer.wfile.write(data)

    handler.answers["a.zip"] = complete
    with pytest.raises(normcli.errors.NoInputError, match="the server ignores ranges"):
        normcli.stats(f"{url}/a.zip")
    handler.answers["a.zip"] = lambda answer: answer.head()
    with pytest.raises(normcli.errors.NoInputError, match="returns no size, or no ranges"):
        normcli.stats(f"{url}/a.zip")


def test_another_range_than_asked_for(hostile: Any) -> None:
    url, handler = hostile

    def shifted(answer: Hostile) -> None:
        if answer.head(206, Content_Range="bytes 0-9/100", Content_Length=10):
            answer.wfile.write(bytes(10))

    handler.answers["a.zip"] = shifted
    with pytest.raises(InputError, match="the range from 0, not from 5"):
        remote.read_at(f"{url}/a.zip", 5, 10)


def page(*links: str) -> bytes:
    return "".join(f'<a href="{link}">x</a>\n' for link in links).encode()


def test_a_folder_that_leads_to_itself_ends(hostile: Any, tmp_path: Path) -> None:
    url, handler = hostile

    def listing(answer: Hostile) -> None:
        is_folder = answer.path.endswith("/")
        if answer.head(Content_Type="text/html" if is_folder else "image/png"):
            answer.wfile.write(page("sub/", "a.png", "b.png") if is_folder else picture())

    handler.answers["deep"] = listing
    failures: list[Any] = []
    summary = normcli.stats(f"{url}/deep/", on_failure=failures.append)
    assert [failure.reason for failure in failures] == ["link-loop"] and summary.images == 6
    assert len([path for _, path in handler.requests if path.endswith("/")]) == 3


def test_a_folder_of_ever_new_names_ends(hostile: Any) -> None:
    url, handler = hostile

    def listing(answer: Hostile) -> None:
        depth = answer.path.count("/")
        if answer.head(Content_Type="text/html"):
            answer.wfile.write(page(f"sub{depth}/") if answer.path.endswith("/") else picture())

    handler.answers["deep"] = listing
    failures: list[Any] = []
    with pytest.raises(normcli.errors.NoInputError):
        normcli.stats(f"{url}/deep/", on_failure=failures.append)
    assert [failure.reason for failure in failures] == ["link-loop"]
    assert len(handler.requests) == 65


def test_a_folder_is_not_left(hostile: Any) -> None:
    url, handler = hostile
    elsewhere = ["../secret/", "/secret/a.png", "http://127.0.0.1:1/x.png", "//127.0.0.1:1/y.png", "%2e%2e/z.png"]
    links = [*elsewhere, "file:///etc/passwd", "javascript:x", "?C=N;O=D", "a.png", "/shop/in/b.png", "http://[bad/"]

    def listing(answer: Hostile) -> None:
        if answer.head(Content_Type="text/html"):
            answer.wfile.write(page(*links) if answer.path.endswith("/") else picture())

    handler.answers["shop"] = listing
    assert normcli.stats(f"{url}/shop/").images == 2
    assert {path for _, path in handler.requests} == {"/shop/", "/shop/a.png", "/shop/in/b.png"}


def test_a_page_without_end_is_left(hostile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, handler = hostile
    monkeypatch.setattr(client, "_LARGEST_PAGE", 1 << 20)

    def listing(answer: Hostile) -> None:
        if answer.head(Content_Type="text/html"):
            answer.pour(page("a.png") * 1000, 200 << 20)

    handler.answers["endless"] = listing
    with pytest.raises(normcli.errors.NoInputError, match="its page has over"):
        normcli.stats(f"{url}/endless/")


def test_a_redirect_to_another_server_is_named(
    hostile: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_named_redirects", set())
    url, handler = hostile
    other = url.replace("127.0.0.1", "localhost")

    def image(answer: Hostile) -> None:
        if answer.head():
            answer.wfile.write(picture())

    handler.answers |= {
        "here.png": image,
        "same.png": lambda answer: answer.head(302, Location="/here.png"),
        "other.png": lambda answer: answer.head(302, Location=f"{other}/here.png"),
        "file.png": lambda answer: answer.head(302, Location="file:///etc/passwd"),
        "round.png": lambda answer: answer.head(302, Location="/round.png"),
    }
    assert normcli.stats(f"{url}/same.png").images == 1 and not caplog.messages
    assert normcli.stats(f"{url}/other.png").images == 1
    assert normcli.stats(f"{url}/other.png").images == 1
    assert caplog.messages == ["127.0.0.1 redirects to localhost"], "once"
    with pytest.raises(InputError, match="an address that is not of HTTP"):
        remote.read(f"{url}/file.png", None)
    with pytest.raises(InputError, match="redirects more than 5 times"):
        remote.read(f"{url}/round.png", None)


@pytest.mark.parametrize("host", ["169.254.169.254", "localhost", "10.0.0.1", "[::1]", "metadata.google.internal"])
def test_a_redirect_from_outside_to_this_network_is_not_followed(host: str) -> None:
    import asyncio

    async def check() -> bool:
        return await client._leaves(asyncio.get_running_loop(), "http://8.8.8.8/a.png", f"http://{host}/latest")

    with pytest.raises(InputError, match="an address of this machine or its network"):
        asyncio.run(check())


# --- names in tables -----------------------------------------------------------------------------------------

NOT_READ = [
    "foo://x",
    "gs://b/x.png",
    "hf://datasets/x/y.png",
    "github://a:b@c/x.png",
    "ssh://h/x.png",
    "abfs://c/x.png",
    "git://x",
    "reference://x",
    "reference://a.png::file:///etc/passwd",
    "tar://x::/etc/passwd",
    "simplecache::http://127.0.0.1:1/x.png",
    "filecache::file:///etc/passwd",
    "memory://x.png",
    "data://text/plain,x",
    "local:///etc/passwd",
    "file:///etc/passwd",
    "jar://x",
    "dask://x",
    "http://127.0.0.1:1/x.png",
    "ftp://127.0.0.1:1/x",
    "http://[bad/x.png",
    "s3://",
]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_one_row_does_not_end_the_run(suffix: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(picture())
    rows = ["good.png", *NOT_READ]
    lines = [json.dumps({"path": row}) for row in rows] if suffix == "jsonl" else ["path", *(f'"{r}"' for r in rows)]
    (tmp_path / f"list.{suffix}").write_text("\n".join(lines) + "\n")
    done = run("stats", f"list.{suffix}", "--json", env={**QUICK, "AWS_EC2_METADATA_DISABLED": "true"})
    found = json.loads(done.stdout)
    assert (found["images"], found["failed"]) == (1, len(NOT_READ)), done.stderr
    assert done.returncode == 6 and b"internal" not in done.stderr, "one of them is a server that does not answer"
    done = run("apply", f"list.{suffix}", "-o", "out", "-s", "unit", env=QUICK)
    assert done.returncode == 6 and b"internal" not in done.stderr, done.stderr
    assert (tmp_path / "out/good.png.npy").exists()


@pytest.mark.parametrize("source", ["foo://x", "reference://a.png::file:///etc/passwd", "simplecache::s3://b/k"])
def test_a_source_of_another_scheme_is_a_usage_error(source: str, run: Run) -> None:
    done = run("stats", source)
    assert done.returncode == 2 and b"not supported; those that are: http://" in done.stderr, done.stderr


def test_a_table_on_a_server_names_no_file_of_this_machine(hostile: Any, tmp_path: Path) -> None:
    url, handler = hostile
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    rows = [
        str(secret),
        secret.as_uri(),
        "../up.png",
        "http://localhost:1/x.png",
        "http://169.254.169.254/x",
        "in/a.png",
    ]
    table = ("path\n" + "\n".join(rows) + "\n").encode()

    def answer(request: Hostile) -> None:
        data = table if request.path.endswith(".csv") else picture()
        part = data
        if asked := request.headers["Range"]:
            first, last = asked.removeprefix("bytes=").split("-")
            part = data[int(first) : int(last) + 1]
        if request.head(206 if asked else 200, Content_Length=len(part)):
            request.wfile.write(part)

    handler.answers["data"] = answer
    failures: list[Any] = []
    assert normcli.stats(f"{url}/data/list.csv", on_failure=failures.append).images == 1
    assert [failure.reason for failure in failures] == ["unsafe-name"] * 5


def test_a_table_names_files_below_it_by_file_addresses(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a b.png").write_bytes(picture())
    (tmp_path / "out.png").write_bytes(picture())
    rows = [
        (tmp_path / "in/a b.png").as_uri(),
        (tmp_path / "out.png").as_uri(),
        f"{(tmp_path / 'in').as_uri()}/../out.png",
    ]
    (tmp_path / "in/list.csv").write_text("path\n" + "\n".join(rows) + "\n")
    failures: list[Any] = []
    assert normcli.stats(tmp_path / "in/list.csv", on_failure=failures.append).images == 1
    assert [failure.reason for failure in failures] == ["unsafe-name"] * 2
