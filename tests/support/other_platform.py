"""`python tests/support/other_platform.py PLATFORM < COMMANDS`: normcli without the calls that a platform lacks.

COMMANDS is a JSON list of argument lists, run one after the other in this process; printed is a JSON object with
"codes", their exit codes, and "broken", what that platform would not have allowed. PLATFORM is "linux" (nothing is
missing), "macos" or "windows". Spawned workers run this file too, so nothing comes back in them.

On "windows" files are opened in text mode unless O_BINARY is given, folders cannot be opened, locks are those of
`msvcrt`, and a file that is open, or mapped, can be neither replaced nor removed.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = str(Path(__file__).parents[2] / "normcli")
LACKS = {
    "linux": "",
    "macos": "posix_fallocate posix_fadvise preadv pwritev sched_getaffinity sched_setaffinity copy_file_range splice "
    "fdatasync memfd_create eventfd O_DIRECT O_LARGEFILE O_NOATIME O_PATH O_TMPFILE O_RSYNC getrandom",
    "windows": "O_NONBLOCK O_NDELAY O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_SYNC O_DSYNC O_RSYNC O_ASYNC O_DIRECT "
    "O_LARGEFILE O_NOATIME O_NOCTTY O_PATH O_TMPFILE O_ACCMODE pread pwrite preadv pwritev readv writev "
    "posix_fallocate posix_fadvise register_at_fork fork forkpty getuid geteuid getgid getegid getgroups getpgid "
    "getpgrp getsid setsid setpgid killpg uname sched_getaffinity sched_setaffinity sched_yield fchmod fchown chown "
    "lchown fchdir chroot mkfifo mknod sendfile copy_file_range splice pathconf fpathconf statvfs fstatvfs sysconf "
    "confstr getloadavg nice openpty ttyname ctermid tcgetpgrp tcsetpgrp fdatasync lockf sync memfd_create eventfd "
    "posix_spawn posix_spawnp getxattr setxattr listxattr removexattr getrandom getresuid getresgid",
}
LACKS_MODULES = {"windows": ("fcntl", "resource", "termios", "pwd", "grp", "pty", "tty", "syslog")}
LACKS_SIGNALS = "SIGHUP SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGWINCH SIGKILL"
O_BINARY = 1 << 28
broken: list[str] = []


def become(platform: str) -> None:
    """Remove the names that the platform lacks."""
    if platform == "linux":
        return
    import multiprocessing.context
    import shutil
    import signal
    import subprocess  # noqa: F401 - these choose by what `os` has when they are imported
    import tempfile  # noqa: F401

    import llvmlite.binding  # noqa: F401
    import numpy  # noqa: F401

    if platform == "windows":
        become_strict()
        shutil._use_fd_functions = False  # type: ignore[attr-defined]
    for name in LACKS[platform].split():
        if hasattr(os, name):
            delattr(os, name)
    for name in LACKS_MODULES.get(platform, ()):
        sys.modules[name] = None  # type: ignore[assignment]
    if platform == "windows":
        for name in LACKS_SIGNALS.split():
            delattr(signal, name)
    multiprocessing.get_all_start_methods = lambda: ["spawn"]
    multiprocessing.context._concrete_contexts.pop("fork")  # type: ignore[attr-defined]
    if platform == "macos":
        sys.platform = "darwin"
        return
    os.environ["LOCALAPPDATA"] = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    from normcli import platforms

    platforms.IS_WINDOWS = True


def become_strict() -> None:
    """Make `os` reject the calls that Windows rejects, and count those that it would spoil."""
    import fcntl

    def caller() -> str:
        """Return the place in normcli or pathlib that called."""
        frame: Any = sys._getframe(2)
        while frame.f_code.co_filename.endswith(("pathlib.py", "shutil.py")):
            frame = frame.f_back
        return f"{frame.f_code.co_filename}:{frame.f_lineno}"

    def in_use(path: Any) -> bool:
        """Return True if this process has a file open or mapped."""
        path = os.path.realpath(os.fsdecode(path))
        files = set()
        for handle in os.listdir("/proc/self/fd"):  # noqa: PTH208
            with suppress(OSError):  # another thread has closed it meanwhile; os.path.realpath raises then
                files.add(os.readlink(f"/proc/self/fd/{handle}"))  # noqa: PTH115
        maps = Path("/proc/self/maps").read_text().splitlines()
        return path in files or any(line.endswith(path) for line in maps)

    def open_(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        if caller().startswith(PACKAGE) and path != os.devnull:
            if Path(path).is_dir():
                raise PermissionError(13, "Permission denied", path)
            if not flags & O_BINARY:
                broken.append(f"text mode: {caller()}")
        return true_open(path, flags & ~O_BINARY, mode, **options)

    def strict(name: str) -> Callable[..., None]:
        true: Callable[..., None] = getattr(os, name)

        def call(*paths: Any, **options: Any) -> None:
            for path in paths:
                if caller().startswith(PACKAGE) and Path(path).is_file() and in_use(path):
                    broken.append(f"{name} of an open file: {caller()}")
                    raise PermissionError(13, "Permission denied", path)
            true(*paths, **options)

        return call

    def locking(handle: int, mode: int, size: int) -> None:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, size, 0, os.SEEK_CUR)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    true_open = os.open
    os.open, os.O_BINARY = open_, O_BINARY  # type: ignore[attr-defined]
    for name in ("replace", "rename", "unlink", "remove"):
        setattr(os, name, strict(name))
    msvcrt: Any = ModuleType("msvcrt")
    msvcrt.locking, msvcrt.LK_NBLCK = locking, 2
    sys.modules["msvcrt"] = msvcrt


if __name__ in ("__main__", "__mp_main__"):  # the second in a worker
    become(sys.argv[1])


def main() -> None:
    from normcli.cli.main import run

    codes = []
    for command in json.load(sys.stdin):
        codes.append(run(command))
        sys.stdout.flush()
    json.dump({"codes": codes, "broken": broken}, sys.stderr)


if __name__ == "__main__":
    main()
