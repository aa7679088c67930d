"""Bytes on servers: any scheme of fsspec, retried with growing pauses.

Credentials are read where each service's own tools look for them; normcli has no options for them.
"""

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from normcli import late_imports
from normcli.errors import InputError, MissingExtraError, NormcliError, UsageError
from normcli.storage import http, s3
from normcli.storage.reader import RangeFile

T = TypeVar("T")

FIRST_PAUSE = 0.5  # seconds before the first retry, twice as long before each further one
_BLOCK = 1 << 22  # bytes that a reader of ranges asks for at least
_GIVE_UP_AFTER = 3  # reads in a row that failed after all retries: from then on a server is asked once
_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "http": ("aiohttp", "remote"), "https": ("aiohttp", "remote")}
_HTTP = ("http", "https")
SCHEMES = (*_HTTP, "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "ftp", "file")
_failed_in_a_row: dict[str, int] = {}
_lock = threading.Lock()


class RemoteEntry(NamedTuple):
    """A file or folder in a remote folder."""

    path: str
    folder: bool
    fingerprint: str


def check_scheme(path: str) -> None:
    """Check that the scheme of a path is one that normcli reads.

    fsspec knows many more, and chains of them ("tar://a.png::file:///b.tar"), by which a name in a table would reach
    any file of this machine, or leave one on it.

    Raises:
        InputError: it is not.
    """
    scheme = path.partition("://")[0]
    if scheme.lower() not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        what = "a chain of protocols" if ":" in scheme else f"{scheme}://"
        raise InputError("unsupported", f"{what} is not supported; those that are: {known}")
    try:
        address = urlsplit(path)
        valid = bool(address.netloc and (address.hostname or not _is_http(path))) or scheme.lower() == "file"
        valid = valid and not (_is_http(path) and address.port == 0)
    except ValueError:  # a port or brackets that are none
        valid = False
    if not valid:
        raise InputError("unreadable", "not a valid address")


def _filesystem(path: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path, and the path in its form.

    Raises:
        MissingExtraError: fsspec, or the library of the scheme, is not installed.
        InputError: no such scheme, or no answer.
    """
    check_scheme(path)
    scheme = path.partition(":")[0].lower()
    fsspec = late_imports.required("fsspec", f"{scheme}://", "s3" if scheme in ("s3", "s3a") else "remote")
    try:
        kind = fsspec.get_filesystem_class(scheme)
        options = {"client_kwargs": http.session_options()} if scheme in _HTTP else {}
        # by the class and not by `url_to_fs`, which takes "::" for a chain
        system = fsspec.filesystem(scheme, **{**kind._get_kwargs_from_urls(path), **options})
        return system, kind._strip_protocol(path)
    except ImportError as error:
        cause = error.__cause__ or error
        if not isinstance(cause, ModuleNotFoundError):
            raise NormcliError(f"{scheme}:// needs a library that cannot be loaded: {_line(cause)}") from cause
        if scheme in _EXTRAS:
            raise MissingExtraError(f"{scheme}://", *_EXTRAS[scheme]) from None
        raise NormcliError(f"{scheme}:// needs another library: {error}") from None
    except ValueError as error:
        raise InputError("unreadable", _line(error)) from None
    except OSError as error:  # of a file system that connects at once, such as ftp
        raise InputError("remote", f"{_server(path)} does not answer: {_line(error)}") from None


def _is_s3(path: str) -> bool:
    return path.partition(":")[0].lower() in ("s3", "s3a")


def _is_http(path: str) -> bool:
    return path.partition(":")[0].lower() in _HTTP


def _server(path: str) -> str:
    scheme, _, rest = path.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def retried(path: str, action: Callable[[], T]) -> T:
    """Call an action that asks a server and return its result; after passing failures, pause and try again.

    Raises:
        InputError: "missing", "unreadable" (rejected by the server), or "remote" (no answer after retries).
    """
    server = _server(path)
    given_up = _failed_in_a_row.get(server, 0) >= _GIVE_UP_AFTER
    retries = 0 if given_up else _retries()
    for pause in [*(FIRST_PAUSE * 2**i for i in range(retries)), None]:
        try:
            result = action()
        except (InputError, MissingExtraError):
            raise
        except PermissionError as error:
            raise InputError("unreadable", f"the server rejects it: {_line(error)}") from None
        except Exception as raised:
            cause = _cause(raised)
            if isinstance(cause, FileNotFoundError):
                raise InputError("missing", "no such file on the server") from None
            status = getattr(cause, "status", None) or _status(cause)
            if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
                raise InputError("unreadable", f"the server rejects it ({status}): {_line(cause)}") from None
            if isinstance(cause, TypeError | AttributeError | ImportError):
                raise
            if type(cause).__name__ in ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"):
                raise InputError("unreadable", f"no credentials: {_line(cause)}") from None
            if pause is None:
                with _lock:
                    _failed_in_a_row[server] = _failed_in_a_row.get(server, 0) + 1
                raise InputError("remote", f"{server} does not answer: {_line(cause)}") from None
            time.sleep(pause)
        else:
            _failed_in_a_row.pop(server, None)
            return result
    raise AssertionError("unreachable")


def _retries() -> int:
    """Return the number of times that a request is repeated.

    Raises:
        UsageError: the variable that sets it is no number.
    """
    text = os.environ.get("NORMCLI_RETRIES") or "3"
    if not text.isdecimal():
        raise UsageError(f"NORMCLI_RETRIES: must be an integer, 0 or more, not {text!r}")
    return int(text)


def _cause(error: Exception) -> Exception:
    """Return the true cause of an error: fsspec's HTTP calls every failure to ask for a size a missing file."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    of_http = type(cause).__module__.partition(".")[0] in ("aiohttp", "asyncio")
    temporary = of_http or isinstance(cause, ConnectionError | TimeoutError)
    return cause if temporary and getattr(cause, "status", None) != 404 else error


def _status(error: Exception) -> int | None:
    """Return the HTTP status in a botocore error, or in the cause that s3fs attaches to one."""
    for cause in (error, error.__cause__):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(code, int):
                return code
    return None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def read(path: str, limit: int | None) -> bytes:
    """Read a complete remote file.

    Raises:
        InputError: missing, rejected, empty, over the limit, or no answer after retries.
    """
    system, name = _filesystem(path)
    most = http.LARGEST_FILE if limit is None else limit
    data = retried(path, lambda: _read(system, name, path, most))
    if not data:
        raise InputError("empty", "empty file")
    return data


def _read(system: Any, name: str, path: str, most: int) -> bytes:
    if _is_http(path):
        return http.read(system, name, most)
    if _is_s3(path):
        return s3.read(system, name, most)
    data: bytes = system.cat_file(name, start=0, end=most + 1)
    if len(data) > most:
        raise InputError("too-large", f"more than the limit of {most} bytes (--max-file-size)")
    return data


def read_at(path: str, offset: int, size: int) -> bytes:
    """Read a range of a remote file by one request.

    Raises:
        InputError: as `read`.
    """
    system, name = _filesystem(path)
    return retried(path, lambda: _read_range(system, name, path, offset, size))


def _read_range(system: Any, name: str, path: str, offset: int, size: int) -> bytes:
    if _is_http(path):
        return http.read_range(system, name, offset, size)
    if _is_s3(path):
        return s3.read_range(system, name, offset, size)
    data: bytes = system.cat_file(name, start=offset, end=offset + size)
    if len(data) > size:
        raise InputError("damaged", "the server sends more than the requested range")
    return data


def open_file(path: str) -> tuple[IO[bytes], int]:
    """Open a remote file for reading at any place; return it and its size.

    Raises:
        InputError: as `read`.
    """
    system, name = _filesystem(path)
    if _is_http(path):
        size = retried(path, lambda: http.facts(system, name)).size
    else:
        size = retried(path, lambda: system.info(name).get("size"))
    if size is None:
        raise InputError("unreadable", "the server returns no size, or no ranges")

    def read_piece(offset: int, length: int) -> bytes:
        return retried(path, lambda: _read_range(system, name, path, offset, length))

    return io.BufferedReader(RangeFile(read_piece, size), _BLOCK), size


def fingerprint(path: str) -> str:
    """Return the server's version of a file; "" where there is none."""
    system, name = _filesystem(path)
    system.invalidate_cache()  # of an earlier run in this process
    try:
        if _is_http(path):
            known = retried(path, lambda: http.facts(system, name))
            return _fingerprint({"size": known.size, **known.headers})
        return _fingerprint(retried(path, lambda: system.info(name)))
    except InputError:
        return ""


def _fingerprint(info: dict[str, Any]) -> str:
    version = next(
        (str(info[k]) for k in ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "mtime") if info.get(k)), ""
    )
    return f"{info.get('size')}:{version}"


def is_folder(path: str) -> bool:
    """Return True if a remote path is a folder, or a prefix with something below it.

    Raises:
        InputError: no answer after retries.
    """
    system, name = _filesystem(path)
    system.invalidate_cache()  # listings of an earlier run in this process
    if path.endswith("/"):
        return True
    if _is_http(path):
        return False  # any page could be one: a folder's address ends in /
    return bool(retried(path, lambda: system.isdir(name)))


def entries(path: str) -> Iterator[RemoteEntry]:
    """Yield the entries of a remote folder, sorted by name.

    Raises:
        InputError: as `read`.
    """
    system, name = _filesystem(path)
    if _is_http(path):
        for address in retried(path, lambda: http.entries(system, name)):
            yield RemoteEntry(address, address.endswith("/"), _fingerprint({}))
        return
    listing = retried(path, lambda: system.ls(name, detail=True))
    for info in sorted(listing, key=lambda info: str(info["name"])):
        if info["name"].rstrip("/") != name.rstrip("/"):
            yield RemoteEntry(system.unstrip_protocol(info["name"]), info["type"] == "directory", _fingerprint(info))
