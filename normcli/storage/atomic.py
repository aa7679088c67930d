"""Writing files that appear under their final name only when complete and durable."""

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from normcli import platforms
from normcli.errors import OutputError
from normcli.storage.temp_files import PARTIAL, remove_stale, temporary_name


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` on success, remove it on any error.

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
        with _copied_at_end(path) as temporary:
            yield temporary
        return
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


def atomic_write_buffers(temporary: str, final: str, parts: Sequence[Any], root: str | None = None) -> int:
    """Write buffers one after the other as one file, durably, or nothing; return the number of bytes.

    For many files: `temporary` is on the same file system, the folder of `final` is made when it is missing,
    and the caller syncs the folders at the end, once each.

    Args:
        temporary: name of the unfinished file.
        final: name of the finished file.
        parts: the buffers.
        root: folder above `final` between which and `final` no link may lead elsewhere; None checks none.

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
        raise_output_error(path, error)
    if link is not None:
        raise OutputError(f"cannot write {link}: is a link; remove it, which leaves what it links to as it is")


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


def write_all(handle: int, parts: Sequence[Any], at: int | None = None) -> int:
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
