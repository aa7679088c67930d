"""Runs of `normcli apply` that are killed, or stopped by a full disk."""

import random
import resource
import signal
import subprocess
import time
from pathlib import Path

from tests.support.command import APPLY, ENVIRONMENT
from tests.support.outputs import finals, tree


def killed_at_random(arguments: list[str], undisturbed: dict[str, bytes], out: Path, kills: int, seed: int) -> int:
    """Start, kill -9 after a random time, check, resume, as often as asked; return how many kills met a run."""
    rng = random.Random(seed)
    started = time.perf_counter()
    subprocess.run([*APPLY, *arguments], env=ENVIRONMENT, check=False, capture_output=True)
    whole = time.perf_counter() - started
    subprocess.run(["rm", "-rf", str(out)], check=True)
    met = 0
    for _ in range(kills):
        process = subprocess.Popen([*APPLY, *arguments, "--resume"], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.2, 1.1) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            met += 1
        process.wait()
        for name, data in finals(out).items():
            assert data == undisturbed[name], f"{name} is partial"
        if process.returncode == 3:  # complete: begin again
            assert finals(out) == undisturbed
            subprocess.run(["rm", "-rf", str(out)], check=True)
    done = subprocess.run([*APPLY, *arguments, "--resume"], env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 3, done.stderr
    assert tree(out) == undisturbed
    return met


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))


# for `limited`: a module that was edited would be compiled into a file that is cut short, without an error
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}
