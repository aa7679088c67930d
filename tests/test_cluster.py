"""A Dask cluster of two workers: the same bits, also when a worker is killed half-way."""

import os
import signal
import socket
import threading
import time
from pathlib import Path
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


def test_nothing_runs_on_once_it_is_called_off(cluster: Any, tmp_path: Path) -> None:
    def slow(batch: list[int]) -> list[int]:
        time.sleep(0.3)
        (tmp_path / str(batch[0])).touch()
        return batch

    batches = ([n] for n in range(100))
    results = engine.run(slow, batches, engine=f"dask:{cluster.scheduler_address}")
    assert next(results) == [0]
    results.close()  # type: ignore[attr-defined]
    left = set(tmp_path.iterdir())
    time.sleep(0.7)
    assert set(tmp_path.iterdir()) == left and len(left) < 8


def test_the_last_task_is_waited_for_too(cluster: Any, tmp_path: Path) -> None:
    def slow(batch: list[int]) -> list[int]:
        (tmp_path / "begun").touch()
        time.sleep(1)
        (tmp_path / "done").touch()
        return batch

    def interrupt() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    assert main is not None
    results = engine.run(slow, iter([[1]]), engine=f"dask:{cluster.scheduler_address}")
    with pytest.raises(KeyboardInterrupt):
        threading.Thread(target=interrupt).start()
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
