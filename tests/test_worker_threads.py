"""Threads that share the rows of a tensor: each row once; failures reach the caller; nobody waits for a late one."""

import threading
from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from normcli.kernels.rows import DONE, TAKEN, THREADS, row_moments
from normcli.tensor.normalizers import resources, views
from normcli.tensor.normalizers.views import SharedCall, WorkerThreads, new_turns, share_turns


@pytest.mark.parametrize("threads", [1, 2, 7, 64])
@pytest.mark.parametrize("shape", [(1, 5), (33, 8193), (5000, 100), (70, 70_000)])
def test_every_row_is_taken_once(shape: tuple[int, int], threads: int) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tables, turns = np.full((3, shape[0]), np.nan), new_turns(threads)
    call = row_moments.prepare(x, turns, *tables)
    others = [threading.Thread(target=call) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    call()
    for thread in others:
        thread.join()
    assert turns[DONE] == shape[0] <= turns[TAKEN] and turns[THREADS] == threads
    np.testing.assert_allclose(tables[0], x.mean(axis=1, dtype=np.float64), atol=1e-12)


def test_a_call_does_not_wait_for_a_thread_that_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(1500, 1024)).astype(np.float32)
    images = x.reshape(3, 4, 500, 256)
    with resources(threads=1):
        expected = nn.layer_norm(x), nn.batch_norm(images, layout="NCHW").y, nn.lp_batch_norm(images, layout="NCHW").y
    workers, busy, end = WorkerThreads(), threading.Event(), threading.Event()
    monkeypatch.setattr(views, "_workers", workers)
    job = workers.submit(lambda: busy.set() or end.wait(), 1)  # type: ignore[arg-type,func-returns-value]
    busy.wait()
    with resources(threads=2):
        found = nn.layer_norm(x), nn.batch_norm(images, layout="NCHW").y, nn.lp_batch_norm(images, layout="NCHW").y
    end.set()
    job.finish()
    for y, z in zip(found, expected, strict=True):
        assert y.tobytes() == z.tobytes()


def test_a_late_thread_makes_no_call() -> None:
    calls: list[int] = []
    job = SharedCall(lambda: calls.append(1), 2)
    job.run()
    assert job.withdraw() == 1
    job.run()
    job.finish()
    assert calls == [1]


class Shared:
    """A kernel in Python whose rows are all computed by the other thread, which may fail."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure, self.begun, self.caller = failure, threading.Event(), threading.current_thread()

    def prepare(self, turns: Any) -> Any:
        def call() -> None:
            if threading.current_thread() is self.caller:
                self.begun.wait()
                return
            self.begun.set()
            if self.failure:
                raise self.failure
            np.linalg.svd(np.random.default_rng(0).normal(size=(150, 150)))  # the caller ends before
            turns[DONE] = 9

        return call


def test_a_call_waits_for_the_rows_of_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in (0, 100):
        monkeypatch.setattr(views, "PATIENCE", patience)
        turns = new_turns(2)
        share_turns(Shared(), turns, 9, turns)  # type: ignore[arg-type]
        assert turns[DONE] == 9


def test_a_failure_of_another_thread_reaches_the_caller() -> None:
    turns = new_turns(2)
    with pytest.raises(MemoryError, match="no room"):
        share_turns(Shared(MemoryError("no room")), turns, 9, turns)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_the_type_of_a_weight_changes_no_bit(name: str) -> None:
    """float32 stays so in the kernel; sums with it, as in the variant gemma, are of float64."""
    draw = np.random.default_rng(0)
    x, w, b = (draw.normal(size=shape).astype(np.float32) for shape in ((40, 300), 300, 300))
    one = nn.find(name)
    for variant in ({},) if name == "layer_norm" else ({}, {"variant": "gemma"}, {"variant": "llama"}):
        for given in ({"weight": w}, {"bias": b}, {"weight": w, "bias": b}):
            wide = {key: value.astype(np.float64) for key, value in given.items()}
            assert one.function(x, **given, **variant).tobytes() == one.function(x, **wide, **variant).tobytes()
            assert one.vjp
            found, expected = (one.vjp(x, x[::-1], **kind, **variant)["dx"] for kind in (given, wide))
            assert found.tobytes() == expected.tobytes()
