"""apply on a Dask cluster of two workers: the bytes of the serial run, also when a worker is killed half-way."""

import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

import normcli
from tests.support import needs, packing
from tests.support.command import Run
from tests.support.outputs import tree

needs.module("distributed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of distributed's own sockets at the end
SINKS = ["npy", "stack", "tar", "parquet", "png"]


def settings_of(to: str) -> dict[str, Any]:
    if to == "parquet":
        needs.module("pyarrow")
    sharded = to in ("tar", "parquet")
    return {"scheme": "contrast", "to": to, **({"shard_size": "500KB"} if sharded else {})}


@pytest.mark.parametrize("to", SINKS)
def test_a_worker_killed_half_way_changes_nothing(
    to: str,
    cluster: Any,
    many: Path,
    tmp_path: Path,
) -> None:
    settings = settings_of(to)
    statistics = normcli.stats(many)
    normcli.apply(many, tmp_path / "plain", stats=statistics, engine="serial", **settings)
    killed: list[int] = []

    def kill_one(done: Any) -> None:
        if not killed:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    normcli.apply(
        many,
        tmp_path / "out",
        stats=statistics,
        engine=f"dask:{cluster.scheduler_address}",
        on_progress=kill_one,
        **settings,
    )
    assert killed
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
    found = normcli.verify(tmp_path / "out", engine=f"dask:{cluster.scheduler_address}")
    assert vars(found) == vars(normcli.verify(tmp_path / "plain"))
    back = normcli.restore(tmp_path / "out", tmp_path / "back", engine=f"dask:{cluster.scheduler_address}")
    assert back.images == 150


@pytest.mark.parametrize("row", ["tar", "tar.gz", "zip", "parquet"])
def test_from_containers(row: str, cluster: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    sources = packing.ROWS[row][1](folder, tmp_path / "packed")
    normcli.apply(sources, tmp_path / "plain", engine="serial")
    normcli.apply(sources, tmp_path / "out", engine=f"dask:{cluster.scheduler_address}")
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")


@pytest.mark.parametrize("to", ["npy", "tar"])
def test_broken_off_and_resumed_elsewhere(to: str, cluster: Any, many: Path, tmp_path: Path) -> None:
    settings = settings_of(to) | {"scheme": "unit"}
    normcli.apply(many, tmp_path / "plain", engine="serial", **settings)
    seen = 0

    def stop(done: Any) -> None:
        nonlocal seen
        seen += done.inputs
        if seen > 70:
            raise KeyboardInterrupt

    there: dict[str, Any] = {"engine": f"dask:{cluster.scheduler_address}"}
    with pytest.raises(KeyboardInterrupt):
        normcli.apply(many, tmp_path / "out", on_progress=stop, **there, **settings)
    shutil.copytree(tmp_path / "out", tmp_path / "twin")
    assert normcli.apply(many, tmp_path / "out", resume=True, **there, **settings).reused > 20
    assert normcli.apply(many, tmp_path / "twin", resume=True, engine="threads", **settings).reused > 20
    assert tree(tmp_path / "out") == tree(tmp_path / "twin") == tree(tmp_path / "plain")


def test_a_local_cluster_from_the_command(folder: Path, run: Run, tmp_path: Path) -> None:
    for engine in ("dask", "threads"):
        done = run("apply", "images", "-o", engine, "--engine", engine, "-j", "2", "-q")
        assert done.returncode == 0 and done.stderr == b"", done.stderr
        assert run("verify", engine, "--engine", engine, "-j", "2", "-q").returncode == 0
    assert tree(tmp_path / "dask") == tree(tmp_path / "threads")


def test_an_address_that_answers_nothing_leaves_nothing(folder: Path, run: Run, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = run("apply", folder, "-o", "out", "-s", "unit", "--engine", f"dask:{address}")
    assert done.returncode == 6 and done.stderr.count(b"\n") == 1, done.stderr
    assert b"no Dask scheduler answers" in done.stderr and not (tmp_path / "out").exists()
