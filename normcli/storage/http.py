"""Files over HTTP by the session of fsspec: bodies within a bound, redirects that are named, folders by their pages.

An answer may be endless, compressed to a thousandth, or longer than the range that was asked for: no length that a
server states is used but to reject a body early.
"""

import html
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from normcli.errors import InputError

T = TypeVar("T")
log = logging.getLogger("normcli.storage")

LARGEST_FILE = 1 << 30  # bytes of a body; --max-file-size sets another limit
_LARGEST_PAGE = 64 << 20
_MOST_REDIRECTS = 5
_PACKED = (".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".zst", ".tzst")
_REDIRECTS = (301, 302, 303, 307, 308)
_HREF = re.compile(r"""<a\s[^>]*?href\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)
_named_redirects: set[tuple[str, str]] = set()


class FileFacts(NamedTuple):
    """The size of a file, None if the server states none, and the headers of its version."""

    size: int | None
    headers: dict[str, str]


def read(system: Any, url: str, most: int) -> bytes:
    """Read a complete file of at most `most` bytes.

    Raises:
        InputError: over the limit, or compressed on the way.
        OSError: and aiohttp's errors, as the server answers.
    """

    async def body(answer: Any) -> bytes:
        _check_encoding(answer, url)
        too_large = InputError("too-large", f"more than the limit of {most} bytes (--max-file-size)")
        return await _body(answer, most, too_large)

    return _ask(system, "GET", url, {}, body)


def read_range(system: Any, url: str, offset: int, size: int) -> bytes:
    """Read a range; fewer bytes only if the file ends.

    Raises:
        InputError: the server ignores ranges, or sends another one.
        OSError: and aiohttp's errors, as the server answers.
    """

    async def body(answer: Any) -> bytes:
        if answer.status == 416:
            return b""
        if answer.status != 206:
            raise InputError(
                "unreadable",
                "the server ignores ranges and sends the complete file (download it first)",
            )
        _check_encoding(answer, url)
        first = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if first is not None and int(first[1]) != offset:
            raise InputError("damaged", f"the server sends the range from {first[1]}, not from {offset}")
        return await _body(answer, size, InputError("damaged", "the server sends more than the requested range"))

    return _ask(system, "GET", url, {"Range": f"bytes={offset}-{offset + size - 1}"}, body)


def facts(system: Any, url: str) -> FileFacts:
    """Request the size and the version of a file, without its content."""

    async def of(answer: Any) -> FileFacts:
        length = answer.headers.get("Content-Length", "")
        encoded = answer.headers.get("Content-Encoding", "identity").lower() != "identity"
        size = int(length) if length.isdecimal() and not (encoded and not _is_packed(url)) else None
        return FileFacts(
            size, {name: answer.headers[name] for name in ("ETag", "Last-Modified") if name in answer.headers}
        )

    try:
        return _ask(system, "HEAD", url, {}, of)
    except Exception as error:
        if getattr(error, "status", None) not in (400, 403, 405, 501):  # not every server knows HEAD
            raise
    return _ask(system, "GET", url, {}, of)


def entries(system: Any, url: str) -> list[str]:
    """Return the addresses below a folder that its page links to, sorted; those of folders end in "/"."""

    async def page(answer: Any) -> str:
        kind = answer.headers.get("Content-Type", "text/html").partition(";")[0].strip().lower()
        if kind != "text/html":
            return ""
        _check_encoding(answer, url)
        data = await _body(answer, _LARGEST_PAGE, InputError("too-large", f"its page has over {_LARGEST_PAGE} bytes"))
        return data.decode("utf-8", "replace")

    return links_below(url, _ask(system, "GET", url, {}, page))


def links_below(url: str, page: str) -> list[str]:
    """Return the links of a page that lead below its own address, on the same server.

    >>> links_below("http://a/x/", '<a href="../">up</a> <a href="1.png"> <a href="/x/y/"> <a href="http://b/x/2.png">')
    ['http://a/x/1.png', 'http://a/x/y/']
    """
    base = url.rstrip("/") + "/"
    links = set()
    for link in _HREF.findall(page):
        try:
            target = urljoin(base, html.unescape(link)).partition("#")[0]
            path = unquote(urlsplit(target).path)
        except ValueError:  # a port or an address that is none
            continue
        below = target.startswith(base) and target[len(base) :] not in ("", "/")
        if below and ".." not in path.split("/") and not target[len(base) :].startswith("?"):
            links.add(target)
    return sorted(links)


def _ask(system: Any, method: str, url: str, headers: Mapping[str, str], take: Callable[[Any], Awaitable[T]]) -> T:
    """Send a request, and return the result of `take` on the answer."""
    from fsspec.asyn import sync

    async def ask() -> T:
        address, session, options = url, await system.set_session(), dict(system.kwargs)
        own = options.pop("headers", {})
        for _ in range(_MOST_REDIRECTS + 1):
            request = {**own, "Accept-Encoding": "identity", **headers}
            async with session.request(
                method, system.encode_url(address), headers=request, allow_redirects=False, **options
            ) as answer:
                target = answer.headers.get("Location") if answer.status in _REDIRECTS else None
                if target is None:
                    if answer.status in (404, 410):
                        raise FileNotFoundError(address)
                    if answer.status != 416:
                        answer.raise_for_status()
                    return await take(answer)
            target = urljoin(address, target)
            if await _leaves(system.loop, address, target):  # credentials are for the first server only
                session, options, own = await _session_without_credentials(), {}, {}
            address = target
        raise InputError("unreadable", f"the server redirects more than {_MOST_REDIRECTS} times")

    return sync(system.loop, ask)  # type: ignore[no-any-return]


def session_options() -> dict[str, Any]:
    """Return the options of a session that leaves bodies as they come: 3 MB of gzip can be 3 GB."""
    from fsspec.config import conf

    options = conf.get("http", {}).get("client_kwargs", {}) if isinstance(conf.get("http", {}), dict) else {}
    return {**options, "auto_decompress": False}


async def _session_without_credentials() -> Any:
    import fsspec

    system = fsspec.get_filesystem_class("http")(client_kwargs={"auto_decompress": False})
    return await system.set_session()


async def _leaves(loop: Any, address: str, target: str) -> bool:
    """Return True if a redirect leads to another server, which is named in a warning, once.

    Raises:
        InputError: it leads to no server, or from a public one to this machine or its network.
    """
    origin, host = urlsplit(address).hostname or "", urlsplit(target).hostname or ""
    if urlsplit(target).scheme not in ("http", "https") or not host:
        raise InputError("unreadable", "the server redirects to an address that is not of HTTP")
    if host == origin:
        return urlsplit(address).port != urlsplit(target).port
    if await _is_internal(loop, host) and not await _is_internal(loop, origin):
        raise InputError("unreadable", f"the server redirects to {host}, an address of this machine or its network")
    if (origin, host) not in _named_redirects:
        _named_redirects.add((origin, host))
        log.warning("%s redirects to %s", origin, host)
    return True


async def _is_internal(loop: Any, host: str) -> bool:
    if is_internal(host):
        return True
    try:
        addresses = await loop.getaddrinfo(host, None)
    except OSError:
        return False
    return any(is_internal(entry[4][0]) for entry in addresses)


def is_internal(host: str) -> bool:
    """Return True if a host is this machine or on its network, by its name or its address.

    >>> [is_internal(host) for host in ("169.254.169.254", "localhost", "10.1.2.3", "::1", "example.org", "8.8.8.8")]
    [True, True, True, True, False, False]
    """
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_global
    except ValueError:
        return host.lower().rstrip(".").rpartition(".")[2] in ("localhost", "local", "internal")


def _is_packed(url: str) -> bool:
    return urlsplit(url).path.lower().endswith(_PACKED)


def _check_encoding(answer: Any, url: str) -> None:
    """Reject a body that the server compressed on the way; a .tar.gz is often labeled so and is read as it is.

    Raises:
        InputError: it is compressed.
    """
    encoding = answer.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", "") and not _is_packed(url):
        raise InputError(
            "unsupported", f"the server compresses the transfer ({encoding}), although the request forbids it"
        )


async def _body(answer: Any, limit: int, too_long: InputError) -> bytes:
    """Return the body of an answer, of at most `limit` bytes."""
    length = answer.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > limit:
        answer.close()
        raise too_long
    parts, total = [], 0
    async for part in answer.content.iter_any():
        total += len(part)
        if total > limit:
            answer.close()
            raise too_long
        parts.append(part)
    return b"".join(parts)
