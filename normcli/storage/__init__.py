"""Where bytes live: local paths, read by plain system calls and written whole or not at all; servers by fsspec.

A path with "://" in it is remote everywhere: `remote` takes it to fsspec, with retries.
"""

import base64
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from normcli.errors import InputError, OutputError
from normcli.storage.temp_files import PARTIAL, remove_leftovers, temporary_name

RECENT = 2_000_000_000  # ns: FAT tells times in 2 s, others in 1 s down to 4 ms
# s3://bucket/key, and fsspec's chains such as simplecache::s3://bucket/key
is_remote = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)").match


def read(path: str | Path, *, limit: int | None = None) -> bytes:
    """Read a whole regular file.

    Plain `os.open`/`os.read` take 27 us on a small file where `open().read()` takes 52.

    Args:
        path: a local path, or one with "://".
        limit: refuse a larger file, in bytes, before reading it.

    Raises:
        InputError: missing, unreadable, not a regular file, empty, over the limit, or changed while read.
    """
    if isinstance(path, str) and is_remote(path):
        from normcli.storage import remote

        return remote.read(path, limit)
    try:
        # without O_NONBLOCK the open of a FIFO waits for a writer, for ever
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise read_error(path, error) from None
    except ValueError:
        raise InputError("missing", "a NUL in the path (lists of find -print0 need -0)") from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise InputError("not-a-file", f"{file_kind(found.st_mode)}, not a regular file")
        size = found.st_size
        if limit is not None and size > limit:
            raise InputError("too-large", f"{size} bytes, more than the limit of {limit} (--max-file-bytes)")
        data = os.read(handle, size + 1)  # one more than promised: end of file shows in the same call
        if len(data) != size:
            data = _read_rest(handle, data, size, limit)
        after = os.fstat(handle)  # a write in place shows nowhere else; 0.5 us
        if size and (after.st_size, after.st_mtime_ns) != (size, found.st_mtime_ns):
            raise InputError("changed", "it changed while it was read")
    except OSError as error:
        raise read_error(path, error) from None
    finally:
        os.close(handle)
    if not data:
        raise InputError("empty", "empty file")
    return data


def read_stream(path: str | Path) -> bytes:
    """Read a file or a pipe, such as a shell's <(command), to its end.

    Raises:
        InputError: as `read`.
    """
    try:
        return read(path)
    except InputError as error:
        if error.reason != "not-a-file" or Path(path).is_dir():
            raise
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise read_error(path, error) from None


def _read_rest(handle: int, start: bytes, size: int, limit: int | None) -> bytes:
    """Go on after a short read: files over 2 GiB, /proc files of size 0, files that change while read."""
    parts, total = [start], len(start)
    while part := os.read(handle, 1 << 24):
        parts.append(part)
        total += len(part)
        if limit is not None and total > limit:
            raise InputError("too-large", f"more than the limit of {limit} bytes (--max-file-bytes)")
    if size and total != size:
        raise InputError("changed", f"{total} bytes read of a file of {size}: it changed while it was read")
    return b"".join(parts)


def read_error(path: str | Path, error: OSError) -> InputError:
    """Make the error for a file that the system would not read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError("missing", "dangling link" if os.path.islink(path) else "no such file")  # noqa: PTH114
    if error.errno in (23, 24):  # ENFILE, EMFILE: says nothing of this file
        return InputError("unreadable", "too many open files (ulimit -n)")
    return InputError("unreadable", (error.strerror or str(error)).lower())


def fingerprint(path: str) -> str:
    """What changes with a file: size and time, or what the server calls its version; "" where it is not there."""
    if is_remote(path):
        from normcli.storage import remote

        return remote.fingerprint(path)
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return ""
    return f"{found.st_size}:{found.st_mtime_ns}"


def version(path: str) -> str:
    """What no later write to a local file leaves as it is; "" where that cannot be told of it.

    Size, time of the content, and time of the inode, which also tells of files that were swapped, or written and
    dated back. A file written just now can be written again within the same tick of its clock, and then has the
    same times with other bytes (git calls it racily clean): it has no version yet.
    """
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return ""
    newest = max(found.st_mtime_ns, found.st_ctime_ns)
    return "" if newest > time.time_ns() - RECENT else f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def file_kind(mode: int) -> str:
    """Name the kind of a file from its mode.

    >>> import stat
    >>> file_kind(stat.S_IFIFO)
    'FIFO'
    """
    kinds = (
        (stat.S_ISDIR, "folder"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
        (stat.S_ISREG, "regular file"),
    )
    return next((name for test, name in kinds if test(mode)), "special file")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success put it there durably, on any error remove it.

    The file appears under its final name only when complete: temporary name, fsync, rename, fsync of the
    folder. The mode is what `open` would have given.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("all of it")
    ...     (Path(folder) / "a.txt").read_text()
    'all of it'

    Raises:
        OutputError: the folder or file cannot be written, or the disk is full.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file():
        with _through(path) as temporary:
            yield temporary
        return
    remove_leftovers(path)
    temporary = temporary_name(path)
    try:
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise_output_error(path, error)


@contextmanager
def _through(path: Path) -> Iterator[Path]:
    """For /dev/stdout, /dev/null, a FIFO: nothing can be renamed over them; all bytes go in at the end."""
    import tempfile  # it imports random, 4 ms that most runs do not need

    if path.is_dir():
        raise OutputError(f"cannot write {path}: is a folder")
    try:
        with tempfile.TemporaryDirectory(prefix="normcli-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            with temporary.open("rb") as file, path.open("wb") as target:
                shutil.copyfileobj(file, target)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise_output_error(path, error)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems refuse to sync a folder; the rename stands
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def raise_output_error(path: str | Path, error: OSError) -> NoReturn:
    """Raise the OutputError for a write that failed.

    Raises:
        OutputError: always.
    """
    if isinstance(error, OutputError) or error.errno is None:  # not of the system: a library that does not load
        raise error
    raise OutputError(f"cannot write {os.fspath(path)}: {(error.strerror or str(error)).lower()}") from error


def require_writable(path: str | Path) -> None:
    """Find out before the work whether a file could be written.

    Raises:
        OutputError: it is a folder, or its folder does not exist or takes no files.
    """
    import tempfile

    path = Path(path)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: is a folder")
    if path.exists() and not path.is_file():
        return
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=PARTIAL):
            pass
    except OSError as error:
        raise_output_error(path, error)


def write_file(path: str | Path, data: bytes) -> None:
    """Write a whole file, durably, or nothing.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_buffers(temporary: str, final: str, parts: Sequence[Any]) -> int:
    """Write buffers one after the other as a whole file, durably, or nothing; give the number of bytes.

    For many files: `temporary` is on the same file system, the folder of `final` is made when it is missing,
    and whoever calls syncs the folders at the end, once each.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        try:
            # 0o666: the umask decides, as for `open`
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                size = write_all(handle, parts)
                os.fsync(handle)
            finally:
                os.close(handle)
            try:
                os.replace(temporary, final)  # noqa: PTH105
            except FileNotFoundError:
                os.makedirs(os.path.dirname(final), exist_ok=True)  # noqa: PTH103, PTH120
                os.replace(temporary, final)  # noqa: PTH105
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
    except OSError as error:
        raise_output_error(final, error)
    return size


def write_all(handle: int, parts: Sequence[Any], at: int | None = None) -> int:
    """Write buffers to a file descriptor, at its position or at an offset, however many calls it takes."""
    total = 0
    for part in parts:
        rest = memoryview(part).cast("B")
        while rest:
            done = os.write(handle, rest) if at is None else os.pwrite(handle, rest, at + total)
            total += done
            rest = rest[done:]
    return total


def sync_folders(folders: set[str]) -> None:
    """Make renames into these folders durable."""
    for folder in folders:
        _sync_folder(Path(folder))


@contextmanager
def text_writer(path: str | Path) -> Iterator[IO[Any]]:
    """Open a text file that appears, whole, when the block ends.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        yield file


def path_fields(path: str) -> dict[str, str]:
    """A path for JSON: "path", and "path_b64" with the bytes where they are not UTF-8.

    >>> path_fields("a.png")
    {'path': 'a.png'}
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raw = path.encode("utf-8", "surrogateescape")
        return {"path": raw.decode("utf-8", "replace"), "path_b64": base64.b64encode(raw).decode()}
    return {"path": path}
