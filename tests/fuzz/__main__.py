"""Coverage-guided fuzzing of our own parsers: `python -m tests.fuzz NAME [--minutes 10]`.

atheris (libFuzzer for Python) changes the seeds of a target and keeps what reaches new code. Whatever a parser
says is wrong with an input must be one of `normcli.errors`; any other exception, 5 s for one input and 1 GB of
memory are findings. A finding is written into the folder and the search goes on, so one run gives all of them.
"""

import argparse
import hashlib
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS, Target

SLOW = 5.0  # seconds for one input
MEMORY = 1024  # MB


class Slow(BaseException):
    """An input that takes too long; no `except Exception` of a parser stops it."""


def _too_slow(*_: Any) -> None:
    raise Slow(f"more than {SLOW:.0f} s")


class Findings:
    """The errors of a campaign, one for every place in the code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, int] = {}
        self.executions = 0

    def try_one(self, target: Target, data: bytes, path: Path) -> None:
        """Run one input; keep it if it is a finding."""
        self.executions += 1
        signal.setitimer(signal.ITIMER_VIRTUAL, SLOW)
        try:
            target.run(data, path)
        except (Exception, Slow) as error:
            self.keep(data, f"{type(error).__name__}: {error}", _place(error), traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def keep(self, data: bytes, what: str, place: str, trace: str) -> None:
        """Write down the first input of every place."""
        self.seen[place] = self.seen.get(place, 0) + 1
        if self.seen[place] > 1:
            return
        name = hashlib.sha256(place.encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.bin").write_bytes(data)
        (self.folder / f"{name}.txt").write_text(f"{place}\n{what}\n{trace}")
        sys.stderr.write(f"FINDING {place}: {what[:200]} ({len(data)} bytes)\n")


def _place(error: BaseException) -> str:
    """Return the last line of ours that an exception came through, and its type."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "normcli" in Path(f.filename).parts]
    where = f"{'/'.join(Path(ours[-1].filename).parts[-2:])}:{ours[-1].lineno}" if ours else "outside"
    return f"{type(error).__name__} at {where}"


def main(arguments: list[str]) -> None:
    """Fuzz one target, or list them."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", choices=sorted(TARGETS), help="target; without one they are listed")
    parser.add_argument("--minutes", type=float, default=10, help="processor minutes (default: 10)")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="keeps corpus and findings")
    given = parser.parse_args(arguments)
    if given.name is None:
        print("\n".join(f"{name:15}{target.help}" for name, target in sorted(TARGETS.items())))
        return
    try:
        import atheris
    except ImportError:
        raise SystemExit("atheris is absent: pip install atheris") from None
    _fuzz(atheris, given.name, TARGETS[given.name], given.minutes, (given.folder / given.name).resolve())


def _fuzz(atheris: Any, name: str, target: Target, minutes: float, folder: Path) -> None:
    with atheris.instrument_imports(include=list(target.modules), enable_loader_override=False):
        for module in target.modules:
            importlib.import_module(module)
    seeds, corpus = folder / "seeds", folder / "corpus"
    shutil.rmtree(seeds, ignore_errors=True)
    for path in (seeds, corpus):
        path.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (seeds / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    findings = Findings(folder / "findings")
    scratch = Path(tempfile.mkdtemp(prefix="normcli-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    started = time.monotonic()
    signal.signal(signal.SIGVTALRM, _too_slow)

    def one(data: bytes) -> None:
        findings.try_one(target, data, path)
        if time.process_time() > 60 * minutes:  # of the processor: a busy machine shortens nothing
            _report(name, findings, time.monotonic() - started, folder)
            shutil.rmtree(scratch, ignore_errors=True)
            os._exit(0)  # libFuzzer gives nothing back

    # what the timer does not stop, libFuzzer ends: C code that hangs (by the clock on the wall: a stopped process is
    # no finding), and memory
    options = ["-timeout=900", f"-rss_limit_mb={MEMORY}", "-max_len=65536", f"-artifact_prefix={folder}/"]
    options += ["-verbosity=0", "-detect_leaks=0"]
    path = scratch / f"input{target.suffix}"
    os.chdir(scratch)  # a relative name in an input leads nowhere else
    atheris.Setup([sys.argv[0], *options, str(corpus), str(seeds)], one)
    atheris.Fuzz()


def _report(name: str, findings: Findings, seconds: float, folder: Path) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    line = (
        f"{name}: {findings.executions} executions, {(used.ru_utime + used.ru_stime) / 60:.1f} processor minutes in "
        f"{seconds / 60:.1f}, {len(findings.seen)} findings, peak {used.ru_maxrss // 1024} MB\n"
    )
    sys.stderr.write(line)
    with (folder.parent / "figures.txt").open("a") as file:
        file.write(line)


if __name__ == "__main__":
    main(sys.argv[1:])
