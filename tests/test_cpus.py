"""`-j 0` means the same number for images and for tensors: the processors of the cgroup's quota, not of the machine."""

import io
import os
from typing import Any

import pytest

from normcli import engine, platforms
from normcli.tensor.normalizers import views


@pytest.mark.parametrize(("quota", "expected"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_images_and_tensors_use_the_processors_of_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(platforms, "open", lambda path: io.StringIO(quota), raising=False)
    workers = []

    def serial(function: Any, batches: Any, count: Any, weigh: Any) -> Any:
        workers.append(count)
        return iter(())

    monkeypatch.setitem(engine.ENGINES, "threads", serial)
    list(engine.run(len, [], engine="threads", workers=0))
    with views.resources(threads=None):
        assert [views.current_resources().threads, *workers] == [expected, expected]
