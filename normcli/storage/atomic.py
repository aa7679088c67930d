"""Writing files that appear under their final name only when complete and durable.

The name of an unfinished file contains a checksum of the machine (its boot and process namespace) and the number of
the process that writes, so that the next run for the same output knows which files nobody is writing any more, and
removes them; those of other machines are left alone.
"""

import json
import os
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

from normcli import platforms
from normcli.errors import NormcliError, OutputError, UsageError

PARTIAL = ".normcli-partial"
_STALE = 86400  # seconds after which a file is stale where processes cannot be asked for


def temporary_name(path: Path) -> Path:
    """Return a new name in the folder of `path` for an unfinished file."""
    return path.with_name(f"{_start(path)}{os.getpid()}-{os.urandom(4).hex()}{PARTIAL}")


def remove_stale(path: Path) -> None:
    """Remove unfinished files of `path` that killed runs left."""
    start = _start(path)
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not (entry.name.startswith(start) and entry.name.endswith(PARTIAL)):
                continue
            number = entry.name[len(start) :].partition("-")[0]
            if number.isdigit() and int(number) != os.getpid() and _is_stale(int(number), entry):
                with suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108


def _is_stale(process: int, entry: "os.DirEntry[str]") -> bool:
    exists = platforms.process_exists(process)
    if exists is None:  # Windows, which also removes no file that is open
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE
    return not exists


def _start(path: Path) -> str:
    return f".{path.name[:180]}.{_machine()}-"


@cache
def _machine() -> str:
    return f"{zlib.crc32(platforms.machine_identity().encode()):08x}"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` on success, remove it on any error.

    The file appears under its final name only when complete: temporary name, fsync, rename, fsync of the
    folder. The mode is that of `open`.

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
    if path.exists() and not path.is_file():  # /dev/stdout is a link to a pipe, whose target has no name
        with _copied_at_end(path) as temporary:
            yield temporary
        return
    if path.is_symlink():
        path = path.resolve()
    remove_stale(path)
    temporary = temporary_name(path)
    try:
        try:
            yield temporary
            platforms.sync_file(temporary)
            temporary.replace(path)
            platforms.sync_folder(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise_output_error(path, error)


@contextmanager
def _copied_at_end(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose bytes all go to /dev/stdout, /dev/null or a FIFO, which no file can replace."""
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


def atomic_write_buffers(
    temporary: str, final: str, parts: Sequence[Any], root: str | None = None, *, sync: bool = True
) -> int:
    """Write buffers one after the other as one file, durably, or nothing; return the number of bytes.

    For many files: `temporary` is on the same file system, the folder of `final` is made when it is missing,
    and the caller syncs the folders at the end, once each.

    Args:
        temporary: name of the unfinished file.
        final: name of the finished file.
        parts: the buffers.
        root: folder above `final` between which and `final` no link may lead elsewhere; None checks none.
        sync: wait until the disk holds the bytes; else a power failure can leave an empty file.

    Raises:
        OutputError: the file cannot be written, or a link leads out of `root`.
    """
    if root is not None:
        require_no_link(root, final)
    try:
        try:
            handle = platforms.open_binary(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                size = write_all(handle, parts)
                if sync:
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


def require_no_link(root: str, path: str) -> None:
    """Check that no folder between `root` and a file below it is a link: it would take the file elsewhere. 2 us each.

    Raises:
        OutputError: naming the link.
    """
    at = len(root) + 1
    while (at := path.find("/", at)) > 0:
        if platforms.is_link(path[:at]):
            raise OutputError(f"cannot write {path}: {path[:at]} is a link, and outputs are written below {root} only")
        at += 1


def make_work_folder(path: str) -> None:
    """Make the folder of unfinished files, or check one that an earlier run left.

    Raises:
        OutputError: it cannot be made, or it is a link or holds one: files elsewhere would be overwritten or removed.
    """
    try:
        if not platforms.is_link(path):
            os.makedirs(path, exist_ok=True)  # noqa: PTH103
        link = (
            path
            if platforms.is_link(path)
            else next(filter(_is_shared, (entry.path for entry in os.scandir(path))), None)
        )
    except OSError as error:
        raise_output_error(os.path.dirname(path), error)  # noqa: PTH120 - the folder that the user knows
    if link is not None:
        raise OutputError(f"cannot write {link}: is a link (remove it; its target stays)")


def remove_work_folder(path: str) -> None:
    """Remove the folder of unfinished files, when all of them are finished.

    Raises:
        OutputError: it cannot be removed; the next run removes it.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)  # what else is in it
        if os.path.exists(path):  # noqa: PTH110
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"cannot remove {path}, all else is written: {reason}") from error


def _is_shared(path: str) -> bool:
    """Return True for a link, and for a file that has another name: whoever writes it writes that too."""
    with suppress(FileNotFoundError):  # another run has just finished with it
        status = os.lstat(path)
        return platforms.is_link(path) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1)
    return False


def write_file(path: str | Path, data: bytes) -> None:
    """Write one file, durably, or nothing.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def text_writer(path: str | Path) -> Iterator[IO[Any]]:
    """Open a text file that appears, complete, when the block ends.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        yield file


def write_all(handle: int, parts: Iterable[Any], at: int | None = None) -> int:
    """Write buffers to a file descriptor, at its position or at an offset, however many calls it takes."""
    total = 0
    for part in parts:
        rest = memoryview(part).cast("B")
        while rest:
            count = os.write(handle, rest) if at is None else platforms.pwrite(handle, rest, at + total)
            total += count
            rest = rest[count:]
    return total


def sync_folders(folders: set[str]) -> None:
    """Make renames into these folders durable."""
    for folder in folders:
        platforms.sync_folder(folder)


def raise_output_error(path: str | Path, error: OSError) -> NoReturn:
    """Raise the OutputError for a write that failed.

    Raises:
        OutputError: always.
    """
    if isinstance(error, OutputError) or error.errno is None:  # not of the system: a library that does not load
        raise error
    reason = (error.strerror or str(error)).lower()
    raise OutputError(f"cannot write {os.fspath(path)}: {reason}{platforms.replacement_hint(error)}") from error


def require_writable(path: str | Path) -> None:
    """Check before the work that a file can be written.

    Raises:
        OutputError: it is a folder, or its folder does not exist or takes no files.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: is a folder")
    if path.exists() and not path.is_file():
        return
    remove_stale(path)
    temporary = temporary_name(path)  # a later run removes it, should it stay
    try:
        os.close(platforms.open_binary(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        temporary.unlink()
    except OSError as error:
        raise_output_error(path, error)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Check that a file can be written, before the work.

    Raises:
        UsageError: it exists and must not be overwritten, or its folder does not exist.
        OutputError: it cannot be written.
    """
    if path.is_file() and not overwrite:
        raise UsageError(f"{path}: exists (`force` overwrites it)")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: folder {path.parent} does not exist")
    require_writable(path)


def check_outputs(*paths: Path | None, force: bool, other: Path | None = None) -> None:
    """Check files before the work: none is overwritten without `force`, each can be written, and all differ.

    Args:
        paths: files to write; None and "-" are passed over.
        force: overwrite an existing file.
        other: an output that is checked elsewhere, and must differ from the others.

    Raises:
        UsageError: a file exists, its folder does not, or two outputs are one file.
        OutputError: a file cannot be written.
    """
    paths_so_far = set() if other is None or str(other) == "-" else {other.resolve()}
    for path in paths:
        if path is None or str(path) == "-":
            continue
        if path.resolve() in paths_so_far:
            raise UsageError(f"{path}: two outputs cannot be one file")
        check_output(path, overwrite=force)
        if not path.exists() or path.is_file():
            paths_so_far.add(path.resolve())


@contextmanager
def jsonl_writer(path: str | Path | None) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """Open a JSONL file that appears when it is complete; yield a function that writes one record, None for no path.

    Raises:
        OutputError: it cannot be written.
    """
    if path is None:
        yield None
        return
    stopped = None
    with text_writer(path) as file:
        try:
            yield lambda record: _write_record(file, record)
        except NormcliError as error:  # no usable image, too many failures: then the list matters most
            stopped = error
    if stopped is not None:
        raise stopped


def _write_record(file: Any, record: dict[str, Any]) -> None:
    file.write(json.dumps(record) + "\n")
