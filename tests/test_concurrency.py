"""Two runs at once, on one output, one journal, one cache; and any number of threads: the same bits."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.tensor.job import Job, run_job
from normcli.tensor.normalizers import NORMALIZERS
from tests.support.command import ROOT
from tests.support.faults import COMMANDS, Case, filled
from tests.support.images import encoded, photograph

THREADS = (1, 2, 3, 8, 32)


@contextmanager
def stopped(case: Case, command: list[str], function: str, word: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a run that stops itself (SIGSTOP) at its first call of a function of `os`; it continues after the block."""
    program = [sys.executable, str(ROOT / "tests/support/injected.py"), "SIGSTOP", function, "1", word, *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(program, cwd=case.folder, env=environment, stderr=subprocess.PIPE)
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status
        yield process
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()


def test_the_second_apply_on_one_output_is_refused_at_once(
    tmp_path: Path, undisturbed: dict[str, dict[str, bytes]]
) -> None:
    case = Case(filled(tmp_path), COMMANDS["apply"])
    with stopped(case, case.command, "fsync", "made") as first:
        for more, words in (([], b"unfinished run"), (["--resume"], b"another normcli"), (["--force"], b"another")):
            done = case.run(more=more)
            assert done.returncode == 2 and words in done.stderr and done.stderr.count(b"\n") == 1, done.stderr
    assert first.returncode == 0
    assert case.results() == undisturbed["apply"]


def test_the_second_stats_on_one_journal_is_refused_at_once(
    tmp_path: Path, undisturbed: dict[str, dict[str, bytes]]
) -> None:
    case = Case(filled(tmp_path), [*COMMANDS["stats"], "--resume"])
    with stopped(case, case.command, "open", "in/3.png") as first:
        done = case.run()
        assert done.returncode == 1 and b"another run is writing it" in done.stderr
        assert done.stderr.count(b"\n") == 1
    assert first.returncode == 0
    assert case.results() == undisturbed["stats"]


@pytest.mark.parametrize("name", ["stats", "tensor"])
def test_two_runs_on_one_file_leave_it_whole(
    name: str, tmp_path: Path, undisturbed: dict[str, dict[str, bytes]]
) -> None:
    """Neither takes the other's unfinished file for a leftover; whichever ends last stands."""
    case = Case(filled(tmp_path), COMMANDS[name])
    function = {"stats": "fsync", "tensor": "pwrite"}[name]
    with stopped(case, case.command, function, "made") as first:
        assert len(case.leftovers()) == 1
        assert case.run().returncode == 0
        assert case.results() == undisturbed[name] and len(case.leftovers()) == 1
    assert first.returncode == 0
    assert case.results() == undisturbed[name] and case.leftovers() == []


@pytest.mark.parametrize("runs", [2, pytest.param(6, marks=pytest.mark.campaign)])
def test_cold_starts_on_one_cache(runs: int, tmp_path: Path) -> None:
    """All compile, all write the cache; all are right, and so is the next, which reads it."""
    folder = filled(tmp_path)
    for i in range(3):  # 16 bits are counted by a kernel from the first image on
        (folder / f"in/deep{i}.png").write_bytes(
            encoded(photograph(channels=1, seed=i)[:, :, 0].astype(np.uint16) * 250)
        )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def start(number: int) -> "subprocess.Popen[bytes]":
        command = COMMANDS["tensor"] if number % 2 else ["stats", "in", "-o", "s.json", "-q"]
        command = [str(number).join(word.split("made/")) if word.startswith("made/") else word for word in command]
        command = [f"{number}.json" if word == "s.json" else word for word in command]
        return subprocess.Popen(
            [sys.executable, "-m", "normcli", *command], cwd=folder, env=environment, stderr=subprocess.PIPE
        )

    processes = [start(number) for number in range(2 * runs)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, b"")
    assert list((tmp_path / "cache").rglob("*.o"))
    for number in (100, 101):
        process = start(number)
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len({(folder / f"{n}.json").read_bytes() for n in (*range(0, 2 * runs, 2), 100)}) == 1
    assert len({(folder / f"{n}y.npy").read_bytes() for n in (*range(1, 2 * runs, 2), 101)}) == 1


@pytest.mark.parametrize("engine", ["threads", pytest.param("processes", marks=pytest.mark.campaign)])
def test_any_number_of_workers_counts_and_maps_the_same_bits(engine: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(80):
        (folder / f"{i}.png").write_bytes(encoded(photograph(20, 30, channels=1 if i % 7 == 0 else 3, seed=i)))
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(9, 8, 3)).astype(np.float32))
    expected = normcli.stats([folder, folder / "x.npy"], open_options={"layout": "hwc"}, engine="serial").to_json()
    normcli.apply(folder, tmp_path / "serial", color="rgb", engine="serial")
    written = {p.name: p.read_bytes() for p in (tmp_path / "serial").iterdir()}
    for workers in THREADS:
        found = normcli.stats(
            [folder, folder / "x.npy"], open_options={"layout": "hwc"}, engine=engine, workers=workers
        )
        assert found.to_json() == expected, workers
        out = tmp_path / str(workers)
        normcli.apply(folder, out, color="rgb", engine=engine, workers=workers)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == written, workers


SETTINGS: dict[str, dict[str, Any]] = {
    "batch_norm": {"layout": "NCHW"},
    "group_norm": {"layout": "NCHW", "groups": 4},
    "layer_norm": {"layout": "NCHW", "axes": "image"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_any_number_of_threads_normalizes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    assert name in {one.replace("-", "_") for one in NORMALIZERS}
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(3, 2, size=(37, 8, 33, 31)).astype(np.float32))
    results = set()
    for threads in (*THREADS, 1):
        job = Job(
            normalizer=name,
            inputs=[str(tmp_path / "x.npy")],
            output=str(tmp_path / "y.npy"),
            settings=SETTINGS[name],
            threads=threads,
            force=True,
        )
        run_job(job)
        results.add((tmp_path / "y.npy").read_bytes())
    assert len(results) == 1
