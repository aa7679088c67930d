"""Weights, noise and comparisons by blocks within a limit of memory: the bits of one call over the complete tensor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normcli.errors import TensorError
from normcli.tensor.compare import compare
from normcli.tensor.job import Job, run_job
from normcli.tensor.normalizers import find, resources
from normcli.tensor.normalizers.units import PairwiseSum, Units
from tests.support.memory import peak

Array = np.ndarray[Any, Any]
SHAPES = [(64, 300), (300, 64), (16, 3, 3, 3), (3, 3, 16, 32), (1, 1, 64, 128), (7, 5, 9), (5, 1, 1), (700, 1, 40)]


def numbers(shape: tuple[int, ...], dtype: str = "f8", seed: int = 0) -> Array:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=shape) * 10.0 ** draw.integers(-3, 3, shape)).astype(dtype)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 127, 129, 65_536, 65_537, 300_001])
def test_a_sum_in_parts_is_numpys(count: int) -> None:
    values, draw = numbers((count,)), np.random.default_rng(count)
    total, at = PairwiseSum(count), 0
    while at < count:
        step = int(draw.integers(1, 50_000))
        total.add(values[at : at + step])
        at += step
    assert total.result() == values.sum()


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_units_are_numpys(shape: tuple[int, ...]) -> None:
    x = numbers(shape)
    for axis in (None, *range(len(shape))):
        rest = tuple(a for a in range(len(shape)) if a != axis)
        row = x[:1].size * 8 * 8
        for limit in (row, 3 * row, None):
            with resources(memory_limit=limit):
                weight = Units(axis, x)
                assert np.array_equal(weight.sum(lambda at, v: v), x.sum(axis=rest, keepdims=True))
                largest = np.abs(x).max(axis=rest, keepdims=True)
                assert np.array_equal(weight.largest(lambda at, v: np.abs(v)), largest)
                scaled = weight.map(lambda at, v, by=largest: v * at(by))
                assert np.array_equal(scaled, x * largest)


WEIGHTS: dict[str, dict[str, Any]] = {
    "weight_norm": {},
    "centred_weight_norm": {"divisor": "std"},
    "weight_standardization": {"variant": "scaled-timm", "gamma": 1.7},
}


def written(folder: Path, limit: int | None, name: str, **job: Any) -> dict[str, bytes]:
    out = folder / f"{name}-{limit}.npz"
    run_job(Job(normalizer=name, output=str(out), memory_limit=limit, force=True, **job))
    with np.load(out) as made:
        return {key: made[key].tobytes() for key in made.files}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("shape", [(24, 40), (3, 3, 16, 32), (40, 5, 6)])
def test_weights_have_the_same_bits_for_every_limit(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    for i, array in enumerate((numbers(shape, "f4"), numbers(shape, "f4", 1))):
        np.save(tmp_path / f"{i}.npy", array)
    row, inputs = int(np.prod(shape[1:])) * 64, [str(tmp_path / "0.npy")]
    for dim in (-1, *range(len(shape))):
        jobs: list[dict[str, Any]] = [{"settings": {**WEIGHTS[name], "dim": dim}}]
        if name == "weight_norm":
            jobs.append({"settings": {"dim": dim}, "grad": [str(tmp_path / "1.npy")]})
        for job in jobs:
            made = [written(tmp_path, limit, name, inputs=inputs, **job) for limit in (None, 5 * row, 3 * row)]
            assert made[0] == made[1] == made[2], (name, dim)


def test_a_row_that_does_not_fit_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers((4, 1000)))
    with pytest.raises(TensorError, match="raise `memory_limit`"):
        written(tmp_path, 10_000, "weight_norm", inputs=[str(tmp_path / "x.npy")])


def test_a_row_of_zeros_is_numbered_from_the_start(tmp_path: Path) -> None:
    x = numbers((100, 50))
    x[70] = x[90] = 0
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(TensorError, match=r"row 70 has norm 0 and no direction \(2 of 100 such\)"):
        written(tmp_path, 50 * 64 * 10, "weight_norm", inputs=[str(tmp_path / "x.npy")])


@pytest.mark.parametrize(
    ("shape", "layout"), [((96, 5000), "NC"), ((48, 3, 60, 60), "NCHW"), ((48, 60, 60, 3), "NHWC")]
)
def test_noise_is_drawn_block_by_block(shape: tuple[int, ...], layout: str, tmp_path: Path) -> None:
    """The noise of all elements at once, as the formula has it, by a twin."""
    x, dy = numbers(shape, "f4"), numbers(shape, "f4", 1)
    for name, array in (("x", x), ("dy", dy)):
        np.save(tmp_path / f"{name}.npy", array)
    settings = {"seed": 7, "layout": layout}

    def results(**job: Any) -> list[dict[str, bytes]]:
        every = {"inputs": [str(tmp_path / "x.npy")], "settings": settings, **job}
        return [written(tmp_path, limit, "noisy_batch_norm", **every) for limit in (None, 20_000_000)]

    forward, backward = results(), results(grad=[str(tmp_path / "dy.npy")])
    assert forward[0] == forward[1] and backward[0] == backward[1]
    made = find("noisy_batch_norm").function(x, **settings).y
    columns = x[..., None] if x.ndim == 2 else x.reshape(*shape[:2], -1) if layout == "NCHW" else None
    if columns is None:
        columns = x.transpose(0, 3, 1, 2).reshape(shape[0], 3, -1)
    columns = columns.astype(np.float64)
    draw = np.random.Generator(np.random.PCG64([7, 0]))
    count = (columns.shape[1],)
    mu = draw.uniform(-0.5, 0.5, count)[None, :, None]
    sigma = draw.uniform(1, 1.25, count)[None, :, None]
    m = draw.uniform(mu - 0.1, mu + 0.1, columns.shape)
    s = draw.normal(np.broadcast_to(sigma, columns.shape), 0.1)
    mean, var = columns.mean((0, 2), keepdims=True), columns.var((0, 2), keepdims=True)
    wanted = s * (columns - mean) / np.sqrt(var + 1e-5) + m
    found = made.reshape(columns.shape) if layout != "NHWC" else made.transpose(0, 3, 1, 2).reshape(columns.shape)
    assert np.allclose(found, wanted, atol=1e-5)


def test_a_weight_larger_than_the_limit_stays_within_it(tmp_path: Path) -> None:
    """64 MB in float64, by columns: a sum of all rows and every block again."""
    np.save(tmp_path / "x.npy", np.ones((2000, 4000), np.float64))
    np.save(tmp_path / "s.npy", np.ones((4, 4)))
    small, _ = peak(tmp_path, "tensor", "weight-norm", "s.npy", "-o", "t.npy", "--dim", 1)
    used, done = peak(tmp_path, "tensor", "weight-norm", "x.npy", "-o", "y.npy", "--dim", 1, "--memory-limit", "20MB")
    assert done.returncode == 0, done.stderr
    assert used <= small + 40, f"{used} MB, {small} for a small one"


@pytest.mark.parametrize(("shape", "layout"), [((64, 8, 40, 50), "NCHW"), ((30, 60, 70, 8), "NHWC"), ((4, 3), "NC")])
@pytest.mark.parametrize("odd", [False, True])
def test_a_comparison_has_the_same_rows_for_every_limit(
    shape: tuple[int, ...], layout: str, odd: bool, tmp_path: Path
) -> None:
    """Beyond the limit it streams, where it was rejected before; the rows are those of NumPy in memory."""
    x, channels = numbers(shape, "f4"), shape[layout.index("C")]
    if odd:
        x.flat[3], x.flat[5] = np.nan, np.inf
    np.save(tmp_path / "x.npy", x)
    state = {"running_mean": np.zeros(channels), "running_var": np.ones(channels), "num_batches_tracked": np.array(3)}
    np.savez(tmp_path / "s.npz", **state)  # type: ignore[arg-type]
    for requests, given in ((None, None), (["batch_norm", "batch_renorm"], str(tmp_path / "s.npz"))):
        every = [
            compare(str(tmp_path / "x.npy"), requests, layout=layout, state=given, memory_limit=limit)
            for limit in (None, 20_000_000)
        ]
        assert [row.to_dict() for row in every[0]] == [row.to_dict() for row in every[1]]
        finite = x.astype(np.float64)[np.isfinite(x)]
        assert (every[1][0].mean, every[1][0].std) == (finite.mean(), finite.std())
        assert every[1][0].histogram == np.histogram(finite, 16)[0].tolist()


def test_a_comparison_larger_than_the_limit_stays_within_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((64, 16, 128, 128), np.float32))  # 67 MB; it took 300 and more
    np.save(tmp_path / "s.npy", np.ones((4, 16, 4, 4), np.float32))
    arguments = "--layout", "NCHW", "--with", "batch_norm,group_norm:groups=8"
    small, _ = peak(tmp_path, "tensor", "compare", "s.npy", *arguments)
    used, done = peak(tmp_path, "tensor", "compare", "x.npy", *arguments, "--memory-limit", "30MB")
    assert done.returncode == 0, done.stderr
    assert used <= small + 50, f"{used} MB, {small} for a small one"
    _, done = peak(tmp_path, "tensor", "compare", "x.npy", *arguments, "--memory-limit", "30MB", "--report", "a.html")
    assert done.returncode == 1 and b"a page of it needs" in done.stderr
