"""Entry point of the console script: prints --version at once, and leaves the rest to `normcli.cli`."""

import gc
import os
import sys
from typing import NoReturn

_MULTIPLYING = {"zca-whitening", "iter-norm", "cosine-norm"}  # normalizers that multiply large matrices


def main() -> None:
    """Run normcli with the arguments of this process and exit with its code."""
    if sys.argv[1:] == ["--version"]:  # 20 ms instead of 100: nothing but the interpreter is loaded
        from normcli import __version__

        try:
            os.write(1, f"normcli {__version__}\n".encode())
        except OSError as error:
            _end_of_version(error)
        return
    if not _MULTIPLYING & {word.replace("_", "-") for word in sys.argv[2:]}:
        # OpenBLAS's threads spin for 80 ms when NumPy is imported, and it asks for their memory for ever where there
        # is none
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Numba would import it for linear algebra that no kernel has: 0.17 s, and no end where memory is short
    sys.modules.setdefault("scipy", None)  # type: ignore[arg-type]
    gc.disable()  # looking through all that NumPy and typer make takes 5% of a run; a command enables it when it starts
    gc.set_threshold(20_000)
    try:
        from normcli.cli.main import run
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ImportError, MemoryError) as error:  # no descriptor or no memory for the first modules
        os.write(2, f"normcli: cannot start: {' '.join(str(error).split()) or type(error).__name__}\n".encode())
        os._exit(1)
    try:
        code = run()
    except MemoryError:  # not even for the line that reports it
        os.write(2, b"normcli: not enough memory\n")
        os._exit(1)
    _leave(code)


def _end_of_version(error: OSError) -> NoReturn:
    """Leave after a version that could not be written: nobody reads it, or stdout is full or closed."""
    if isinstance(error, BrokenPipeError):
        os._exit(141)
    from contextlib import suppress

    with suppress(OSError):
        os.write(2, f"normcli: cannot write: {(error.strerror or str(error)).lower()}\n".encode())
    os._exit(5)


def _leave(code: int) -> NoReturn:
    """End the process without the interpreter's own tidying, 20 ms: all that matters is written and closed."""
    if "logging" in sys.modules:
        sys.modules["logging"].shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = code or 141
        except (OSError, ValueError):  # a full disk, a closed stream
            code = code or 5
    os._exit(code)


if __name__ == "__main__":
    main()
