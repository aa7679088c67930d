"""Normalizers beside torch: 2 threads each, float32, medians of alternating runs in several processes.

Each side is measured in steady state: a turn is ten calls that are not timed and then thirty that are, and the
sides take turns. torch's threads spin for some milliseconds after each call, so a side that is timed right
after the other would pay for it. The last column sets the bytes that must move, one reading and one writing,
against a plain copy of the same tensor on one thread.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

import normcli.tensor.normalizers as nn
from benchmarks.timing import ROOT, Row, faster, show

THREADS = 2


def timed(sides: list[Callable[[], Any]], turns: int, calls: int = 30, untimed: int = 10) -> np.ndarray[Any, Any]:
    """Return the median seconds of a call of each side in each turn: (sides, turns)."""
    times = np.empty((len(sides), turns, calls))
    for turn in range(turns):
        for side, found in zip(sides, times, strict=True):
            for _ in range(untimed):
                side()
            for call in range(calls):
                start = time.perf_counter()
                side()
                found[turn, call] = time.perf_counter() - start
    return np.median(times, axis=2)


def cases(torch: Any) -> list[tuple[str, float, np.ndarray[Any, Any], Callable[[], Any], Callable[[], Any] | None]]:
    """Return name, target against torch, input, ours and torch's of each case."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((32, 64, 56, 56), dtype=np.float32)
    tokens = rng.standard_normal((6272, 1024), dtype=np.float32)
    w, b = np.ones(64, np.float32), np.zeros(64, np.float32)
    wide, shift = np.ones(1024, np.float32), np.zeros(1024, np.float32)
    nchw: dict[str, Any] = {"layout": "NCHW", "weight": w, "bias": b}
    ours: list[Callable[[], Any]] = [
        lambda: nn.batch_norm(image, **nchw),
        lambda: nn.instance_norm(image, **nchw),
        lambda: nn.group_norm(image, groups=8, **nchw),
        lambda: nn.layer_norm(tokens, weight=wide, bias=shift),
        lambda: nn.rms_norm(tokens, weight=wide),
    ]
    theirs: list[Callable[[], Any] | None] = [None] * len(ours)
    if torch is not None:
        f = torch.nn.functional
        ti, tt, tw, tb = map(torch.from_numpy, (image, tokens, w, b))
        tv, ts = map(torch.from_numpy, (wide, shift))
        mean, var = torch.zeros(64), torch.ones(64)
        theirs = [
            lambda: f.batch_norm(ti, mean, var, tw, tb, training=True),
            lambda: f.instance_norm(ti, weight=tw, bias=tb),
            lambda: f.group_norm(ti, 8, tw, tb),
            lambda: f.layer_norm(tt, (1024,), tv, ts),
            lambda: f.rms_norm(tt, (1024,), tv),
        ]
    names = ["batch_norm train (32,64,56,56)", "instance_norm (32,64,56,56)", "group_norm 8 (32,64,56,56)"]
    names += ["layer_norm (6272,1024)", "rms_norm (6272,1024)"]
    targets = [3.0, 3.0, 0.97, 0.97, 0.97]  # torch may be 3% faster
    inputs = [image, image, image, tokens, tokens]
    return list(zip(names, targets, inputs, ours, theirs, strict=True))


def main(arguments: list[str]) -> list[Row]:
    """Print two lines for each normalizer: against torch, and as a share of a plain copy's bandwidth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tensor", description=__doc__)
    parser.add_argument("--turns", type=int, default=4, help="turns of each side; 30 timed calls in each")
    parser.add_argument("--processes", type=int, default=7, help="in how many processes, one after the other")
    parser.add_argument("--one", action="store_true", help="measure in this process, print the ratios as JSON")
    chosen = parser.parse_args(arguments)
    torch = None if find_spec("torch") is None else importlib.import_module("torch")
    if chosen.one:
        print(json.dumps(measured(torch, chosen.turns)))
        return []
    if torch is None:
        print("absent peers: torch")
    command = [sys.executable, "-m", "benchmarks", "tensor", "--one", "--turns", str(chosen.turns)]
    runs = [json.loads(subprocess.check_output(command, cwd=ROOT)) for _ in range(chosen.processes)]
    return show(rows(torch, runs))


def measured(torch: Any, turns: int) -> dict[str, list[float]]:
    """Return for each case the times of a copy and of torch as multiples of ours, by medians over the turns."""
    if torch is not None:
        torch.set_num_threads(THREADS)
        torch.set_grad_enabled(False)
    found = {}
    with nn.resources(threads=THREADS):
        for name, _, data, ours, theirs in cases(torch):
            out = np.empty_like(data)
            sides: list[Callable[[], Any]] = [ours, lambda o=out, d=data: np.copyto(o, d)]  # type: ignore[misc]
            mine, *others = timed([*sides, *([theirs] if theirs else [])], turns)
            found[name] = [float(np.median(other / mine)) for other in others]
    return found


def rows(torch: Any, runs: list[dict[str, list[float]]]) -> Iterator[Row]:
    """Take the median of several processes: addresses of memory differ between them."""
    for name, target, *_ in cases(None):
        share, *peer = np.median([run[name] for run in runs], axis=0)
        if peer:
            version = torch.__version__.partition("+")[0]
            yield faster(name, f"torch {version}, 2 threads", 1.0, float(peer[0]), target)
        yield Row(name, "bandwidth of a plain copy", f"{share:.0%}", ">= 90%", bool(share >= 0.9))
