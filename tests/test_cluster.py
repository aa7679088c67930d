"""A Dask cluster of two workers: the same bits, also when a worker is killed half-way."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import normcli
from normcli import engine
from normcli.errors import MissingExtraError, NormcliError, UsageError
from normcli.runs.stats import cache_path
from normcli.runs.stats_checkpoint import StatsCheckpoint
from tests.support import needs, packing
from tests.support.command import Run
from tests.support.images import encoded, photograph
from tests.support.incremental import content, first

distributed = needs.module("distributed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of distributed's own sockets at the end


def test_an_incremental_run(cluster: Any, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normcli.storage.files.RECENT", 0)
    place = tmp_path / "s.json"
    on: dict[str, Any] = {"engine": f"dask:{cluster.scheduler_address}"}
    normcli.stats(many, output=place, incremental=True, **on)
    first(many, tmp_path / "local.json", engine="serial")
    assert content(cache_path(tmp_path / "local.json")) == content(cache_path(place))
    (many / "000.png").unlink()
    (many / "new.png").write_bytes(encoded(photograph(seed=3)))
    told: list[Any] = []
    updated = normcli.stats(many, output=place, incremental=True, on_update=told.append, **on)
    assert told[0][:4] == (150, 1, 0, 1)
    assert updated.to_json() == normcli.stats(many).to_json()


@pytest.mark.parametrize("row", ["folder", "tar", "tar.gz", "zip", "parquet"])
def test_the_same_state_as_without_it(row: str, cluster: Any, folder: Path, tmp_path: Path) -> None:
    sources = [folder]
    if row != "folder":
        (tmp_path / "packed").mkdir()
        sources = packing.ROWS[row][1](folder, tmp_path / "packed")
    found = normcli.stats(sources, engine=f"dask:{cluster.scheduler_address}", group_by="folder")
    assert found.to_json() == normcli.stats(folder, group_by="folder").to_json()


def test_failures_come_in_order(cluster: Any, many: Path) -> None:
    (many / "0000.png").write_bytes(b"")
    found: list[Any] = []
    normcli.stats(many, engine=f"dask:{cluster.scheduler_address}", on_failure=found.append)
    assert [Path(failure.key).name for failure in found] == ["0000.png", "broken.png"]


def test_a_worker_killed_half_way_changes_nothing(cluster: Any, many: Path) -> None:
    killed: list[int] = []

    def kill_one(done: Any) -> None:
        if not killed:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    found = normcli.stats(many, engine=f"dask:{cluster.scheduler_address}", on_progress=kill_one)
    assert killed
    assert found.to_json() == normcli.stats(many).to_json()


class Gate:
    """Two pipes: tasks on workers announce their start at `begun`, and wait at `gate` until the engine waits for them.

    The engine waits once it has seen that they still run, in one thread, and joins that thread, in another.
    """

    def __init__(self, folder: Path) -> None:
        self.begun, self.gate = folder / "begun", folder / "gate"
        for path in (self.begun, self.gate):
            os.mkfifo(path)
        self._opened: list[int] = []
        self._joined = threading.Event()

    def on_poll(self, seconds: float) -> None:
        """Take the place of `time.sleep`, which the engine calls while tasks run."""
        if self._joined.wait(seconds):
            self.open()

    def on_join(self) -> None:
        self._joined.set()

    def open(self) -> None:
        """Let all tasks through, from now on."""
        self._opened = self._opened or [os.open(self.gate, os.O_RDWR)]

    def close(self) -> None:
        """Open the gate for tasks that still wait, and close the pipe."""
        self.open()
        os.close(self._opened[0])


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(tmp_path)

    class Joined(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            gate.on_join()
            super().join(timeout)

    monkeypatch.setattr("normcli.engine.dask.time", SimpleNamespace(sleep=gate.on_poll))
    monkeypatch.setattr("normcli.engine.dask.threading", SimpleNamespace(Thread=Joined))
    yield gate
    gate.close()


def unfinished(dask_worker: Any) -> list[str]:
    """Return the tasks that a worker is still to run, or runs."""
    return [
        str(key) for key, task in dask_worker.state.tasks.items() if task.state in ("ready", "executing", "waiting")
    ]


def test_nothing_runs_on_once_it_is_called_off(cluster: Any, tmp_path: Path, gate: Gate) -> None:
    path = gate.gate

    def slow(batch: list[int]) -> list[int]:
        (tmp_path / f"{batch[0]}.begun").touch()
        if batch[0]:
            os.close(os.open(path, os.O_RDONLY))
        (tmp_path / f"{batch[0]}.done").touch()
        return batch

    batches = ([n] for n in range(100))
    results = engine.run(slow, batches, engine=f"dask:{cluster.scheduler_address}")
    assert next(results) == [0]
    results.close()  # type: ignore[attr-defined]
    begun, done = ({file.stem for file in tmp_path.glob(f"*.{name}")} for name in ("begun", "done"))
    assert begun == done and len(begun) < 8
    with distributed.Client(cluster, set_as_default=False) as client:
        assert [task for tasks in client.run(unfinished).values() for task in tasks] == []
        assert not any(client.processing().values())
    assert {file.stem for file in tmp_path.glob("*.begun")} == begun


def test_the_last_task_is_waited_for_too(cluster: Any, tmp_path: Path, gate: Gate) -> None:
    begun, path = gate.begun, gate.gate

    def slow(batch: list[int]) -> list[int]:
        begun.write_bytes(b"1")  # once `interrupt` reads it
        os.close(os.open(path, os.O_RDONLY))
        (tmp_path / "done").touch()
        return batch

    def interrupt() -> None:
        assert begun.read_bytes() == b"1"
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    assert main is not None
    results = engine.run(slow, iter([[1]]), engine=f"dask:{cluster.scheduler_address}")
    with pytest.raises(KeyboardInterrupt):
        threading.Thread(target=interrupt, daemon=True).start()
        next(results)
    assert (tmp_path / "done").exists()


def test_a_worker_that_answers_nothing_is_not_waited_for(tmp_path: Path) -> None:
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as cluster:
        results = engine.run(list, ([n] for n in range(9)), engine=f"dask:{cluster.scheduler_address}")
        assert next(results) == [0]
        pid = next(iter(cluster.workers.values())).pid
        os.kill(pid, signal.SIGSTOP)
        closing = threading.Thread(target=results.close)  # type: ignore[attr-defined]
        closing.start()
        closing.join(60)
        os.kill(pid, signal.SIGCONT)
        assert not closing.is_alive()


def test_a_sample_and_a_checkpoint_on_the_cluster(
    cluster: Any, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = cluster.scheduler_address
    for options in ({"margin": 0.1}, {"sample": "30"}):
        there = normcli.stats(many, engine=f"dask:{address}", **options)
        assert there.to_json() == normcli.stats(many, **options).to_json()
    monkeypatch.setattr(StatsCheckpoint, "remove", StatsCheckpoint.close)
    kept = normcli.stats(many, engine=f"dask:{address}", output=tmp_path / "s.json", resume=True)
    assert kept.to_json() == normcli.stats(many, output=tmp_path / "s.json", resume=True).to_json()


def test_a_local_cluster_from_the_command(folder: Path, run: Run) -> None:
    done = run("stats", folder, "--engine", "dask", "-j", "2", "--json", "-q")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == normcli.stats(folder).to_json()


def test_an_address_that_answers_nothing(folder: Path, run: Run, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (silent.getsockname()[1], 9):  # accepts and says nothing; refuses
            done = run("stats", folder, "--engine", f"dask:127.0.0.1:{port}", "-o", "a.json")
            assert (done.returncode, done.stdout) == (6, b"")
            assert done.stderr.count(b"\n") == 1 and b"no Dask scheduler answers at 127.0.0.1" in done.stderr
    assert not (tmp_path / "a.json").exists()


def test_what_cannot_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="must be threads, without"):
        normcli.stats(folder, engine="threads:127.0.0.1:1")
    with pytest.raises(NormcliError, match="no Dask scheduler"):
        normcli.stats(folder, engine="dask:nonsense://x")
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"normcli\[dask\]"):
        normcli.stats(folder, engine="dask")
