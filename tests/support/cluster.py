"""A Dask cluster of two workers on this machine, as a fixture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import needs
from tests.support.images import encoded, photograph


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = needs.module("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # None takes port 8787, and two test processes may run a cluster each
        silence_logs=50,
    ) as running:
        yield running


@pytest.fixture
def many(tmp_path: Path) -> Path:
    root = tmp_path / "many"
    root.mkdir()
    for i in range(150):
        (root / f"{i:03d}.png").write_bytes(encoded(photograph(60, 80, seed=i)))
    (root / "broken.png").write_bytes(b"\x89PNG")
    return root
