"""Statistics of activations, and running statistics that are re-estimated, pooled and mixed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from normcli.errors import TensorError, UsageError
from normcli.tensor import safetensors, torch_file
from normcli.tensor.activations import ActivationRow, activation_stats
from normcli.tensor.job import Job, run_job
from normcli.tensor.normalizers import NORMALIZERS
from normcli.tensor.states import merge_states, mix_states
from tests.support.command import Run

Array = np.ndarray[Any, Any]


def reference(x: Array) -> dict[str, float | None]:
    """Compute the statistics of all elements by NumPy."""
    finite = x[np.isfinite(x)].astype(np.float64)
    centered = finite - finite.mean()
    median = np.median(np.abs(finite))
    return {
        "count": finite.size,
        "mean": finite.mean(),
        "rms": math.sqrt(np.mean(finite**2)),
        "std": finite.std(),
        "kurtosis": np.mean(centered**4) / finite.var() ** 2,
        "zeros": np.mean(finite == 0),
        "max_over_median": np.abs(finite).max() / median if median else None,
        "nan": np.isnan(x).sum(),
        "inf": np.isinf(x).sum(),
    }


def check(row: ActivationRow, x: Array) -> None:
    for key, value in reference(x).items():
        share = 1e-6 if key == "max_over_median" else 1e-9  # medians are exact in float32
        assert getattr(row, key) == (None if value is None else pytest.approx(value, rel=share, abs=1e-12)), key


def dumps(folder: Path, count: int = 12, dtype: Any = np.float32) -> list[Array]:
    folder.mkdir(exist_ok=True)
    arrays = []
    for i in range(count):
        x = np.random.default_rng(i).standard_normal((3 + i % 2, 5, 4, 6)).astype(dtype)
        x = np.maximum(x + np.arange(5)[:, None, None] - 2, 0).astype(dtype)  # with zeros, and unequal channels
        x[0, 1, 2, 3], x[0, 2, 0, 0] = 300, np.nan if i % 3 == 0 else 1
        x[1, 4, 1, 1] = np.inf if i == 5 else 0
        np.save(folder / f"b{i}.npy", x)
        arrays.append(x)
    return arrays


@pytest.mark.parametrize("limit", [None, 16_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_are_those_of_numpy(dtype: Any, limit: int | None, tmp_path: Path) -> None:
    arrays = dumps(tmp_path / "acts", dtype=dtype)
    rows = activation_stats([str(tmp_path / "acts")], memory_limit=limit)
    assert [Path(row.name).name for row in rows] == [f"b{i}.npy" for i in range(12)]  # b2 before b10
    for row, x in zip(rows, arrays, strict=True):
        check(row, x)
    every = np.concatenate(arrays)
    for pattern in (tmp_path / "acts", f"{tmp_path}/acts/b*.npy"):
        rows = activation_stats([str(pattern)], per="channel", layout="NCHW", memory_limit=limit)
        assert [row.name for row in rows] == list("01234")
        for channel, row in enumerate(rows):
            check(row, every[:, channel])


def test_tokens_and_channels_last(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((6, 7, 3))
    x[:, 0] *= 1000  # a token of massive activations
    np.savez(tmp_path / "x.npz", a=x[:2], b=x[2:])
    rows = activation_stats([str(tmp_path / "x.npz")], per="token", layout="NTC")
    for token, row in enumerate(rows):
        check(row, x[:, token])
    for channel, row in enumerate(activation_stats([str(tmp_path / "x.npz")], per="channel", layout="NTC")):
        check(row, x[..., channel])
    with pytest.raises(UsageError, match="--per token requires a --layout with T"):
        activation_stats([str(tmp_path / "x.npz")], per="token")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_the_magnitude_of_the_least_integer_is_positive(dtype: Any, tmp_path: Path) -> None:
    least = np.iinfo(dtype).min
    np.save(tmp_path / "x.npy", np.array([[least, least, 1, 0, least]], dtype))
    assert activation_stats([str(tmp_path / "x.npy")])[0].max_over_median == 1.0


def test_what_has_no_statistics(tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", np.array([1e300, 1e300]))
    assert activation_stats([str(tmp_path / "large.npy")])[0].max_over_median is None
    arrays = {"nan": np.full((2, 2), np.nan), "zero": np.zeros((2, 2)), "empty": np.zeros((0, 2)), "one": np.array(3.0)}
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    rows = {row.name.rpartition(":")[2]: row for row in activation_stats([str(tmp_path / "x.npz")])}
    assert (rows["nan"].count, rows["nan"].nan, rows["nan"].mean) == (0, 4, None)
    assert (rows["zero"].zeros, rows["zero"].kurtosis, rows["zero"].max_over_median) == (1.0, None, None)
    assert (rows["empty"].count, rows["empty"].mean) == (0, None)
    assert (rows["one"].mean, rows["one"].std) == (3.0, 0.0)
    np.save(tmp_path / "c.npy", np.ones((2, 2)) * 1j)
    with pytest.raises(TensorError, match=r"c\.npy"):
        activation_stats([str(tmp_path / "c.npy")])
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    np.save(tmp_path / "b.npy", np.ones((2, 4)))
    with pytest.raises(TensorError, match=r"b\.npy: has 4 channels, the tensors before 3"):
        activation_stats([str(tmp_path / "a.npy"), str(tmp_path / "b.npy")], per="channel")
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no tensor files in this folder"):
        activation_stats([str(tmp_path / "none")])
    with pytest.raises(TensorError, match="raise `memory_limit`"):
        activation_stats([str(tmp_path / "a.npy")], memory_limit=100)


def test_the_commands(tmp_path: Path, run: Run) -> None:
    arrays = dumps(tmp_path / "acts", 4)
    done = run("tensor", "stats", "acts", "--per", "channel", "--layout", "nchw", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 5 and rows[1]["count"] == sum(x[:, 1].size for x in arrays)
    text = run("tensor", "stats", "acts").stdout.decode().splitlines()
    assert text[0].split() == ["tensor", "mean", "rms", "std", "kurtosis", "zeros", "max/median", "NaN", "inf"]
    assert len(text) == 5
    # a folder is a sequence of batches as well; two shards are pooled; the domains are mixed
    whole = (*("tensor", "batch-norm"), *("--layout", "NCHW", "--recompute-state", "--save-state"))
    for i, x in enumerate(arrays):
        np.save(tmp_path / "acts" / f"b{i}.npy", np.nan_to_num(x, posinf=0))
    assert run(*whole, "all.npz", "acts").returncode == 0
    assert run(*whole, "a.npz", "acts/b0.npy", "acts/b1.npy").returncode == 0
    assert run(*whole, "b.npz", "acts/b2.npy", "acts/b3.npy").returncode == 0
    done = run("tensor", "merge", "a.npz", "b.npz", "-o", "ab.npz")
    assert (done.returncode, done.stderr) == (0, b"wrote ab.npz: 1 layer\n")
    with np.load(tmp_path / "all.npz") as wanted, np.load(tmp_path / "ab.npz") as made:
        assert made.files == wanted.files
        for key in ("running_mean", "running_var"):
            np.testing.assert_allclose(made[key], wanted[key], rtol=1e-12)
        for key in ("num_batches_tracked", "elements", "normalizer", "preset"):
            assert made[key] == wanted[key]
        assert int(wanted["elements"]) == sum(x.size for x in arrays) // 5
    done = run("tensor", "mix", "a.npz", "b.npz", "--alpha", 0.25, "-o", "mixed.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b, np.load(tmp_path / "mixed.npz") as mixed:
        for key in ("running_mean", "running_var"):
            np.testing.assert_allclose(mixed[key], 0.75 * a[key] + 0.25 * b[key], rtol=1e-14)
    done = run("tensor", "merge", "a.npz", "b.npz", "-o", "ab.npz")
    assert done.returncode == 2 and b"exists (--force overwrites it)" in done.stderr


@pytest.mark.parametrize("preset", ["torch", "keras"])
def test_shards_of_unequal_size_are_pooled_by_their_elements(preset: str, tmp_path: Path) -> None:
    for i, n in enumerate((3, 8, 5)):
        np.save(tmp_path / f"b{i}.npy", np.random.default_rng(i).standard_normal((n, 4, 3, 3)) * (i + 1) + i)
    settings: dict[str, Any] = {"normalizer": "batch_norm", "settings": {"layout": "NCHW"}, "preset": preset}
    names = [str(tmp_path / f"b{i}.npy") for i in range(3)]
    for suffix in (".npz", ".safetensors"):
        run_job(Job(inputs=names, recompute_state=True, save_state=str(tmp_path / f"all{suffix}"), **settings))
        for i, name in enumerate(names):
            run_job(Job(inputs=[name], recompute_state=True, save_state=str(tmp_path / f"s{i}{suffix}"), **settings))
        shards = [str(tmp_path / f"s{i}{suffix}") for i in range(3)]
        assert merge_states(shards, str(tmp_path / f"pooled{suffix}")) == 1
        pooled, wanted = (read(tmp_path / f"{name}{suffix}") for name in ("pooled", "all"))
        for key in ("running_mean", "running_var"):
            np.testing.assert_allclose(pooled[key], wanted[key], rtol=1e-12)
        assert {key: str(pooled[key]) for key in ("elements", "preset", "normalizer")} == {
            "elements": "144",
            "preset": preset,
            "normalizer": "batch_norm",
        }


def read(path: Path) -> dict[str, Any]:
    from normcli.tensor.files import read_state

    return read_state(str(path))


def test_checkpoints_of_ranks_are_pooled_and_mixed_layer_by_layer(tmp_path: Path) -> None:
    def state(seed: int) -> dict[str, Any]:
        draw = np.random.default_rng(seed)
        layers = ("layer1.bn", "layer2.bn")
        made: dict[str, Any] = {"layer1.conv.weight": np.ones((2, 2), np.float32)}
        for layer in layers:
            made |= {f"{layer}.running_mean": draw.standard_normal(3).astype(np.float32)}
            made |= {f"{layer}.running_var": draw.uniform(1, 2, 3).astype(np.float32)}
            made |= {f"{layer}.num_batches_tracked": np.array(5 + seed)}
        return made

    one, two = state(0), state(1)
    torch_file.write(tmp_path / "0.pt", one)
    safetensors.write(tmp_path / "1.safetensors", two)
    names = [str(tmp_path / "0.pt"), str(tmp_path / "1.safetensors")]
    with pytest.raises(UsageError, match="does not record how many elements"):
        merge_states(names, str(tmp_path / "pooled.pt"))
    assert merge_states(names, str(tmp_path / "pooled.pt"), elements=[10, 30]) == 2
    pooled = read(tmp_path / "pooled.pt")
    assert list(pooled) == sorted(pooled) and set(pooled) == set(one)
    a, b = (s["layer2.bn.running_mean"].astype(np.float64) for s in (one, two))
    mean = (10 * a + 30 * b) / 40
    np.testing.assert_array_equal(pooled["layer2.bn.running_mean"], mean.astype(np.float32))
    va, vb = (s["layer2.bn.running_var"].astype(np.float64) for s in (one, two))
    var = (9 * va + 29 * vb + 10 * (a - mean) ** 2 + 30 * (b - mean) ** 2) / 39
    np.testing.assert_allclose(pooled["layer2.bn.running_var"], var, rtol=1e-7)
    assert int(pooled["layer2.bn.num_batches_tracked"]) == 11
    shares = mix_states(names[0], names[1], str(tmp_path / "mixed.pt"), alpha=["0.5", "layer1.*=0"])
    assert shares == {"layer1.bn": 0.0, "layer2.bn": 0.5}
    mixed = read(tmp_path / "mixed.pt")
    np.testing.assert_array_equal(mixed["layer1.bn.running_mean"], one["layer1.bn.running_mean"])
    np.testing.assert_array_equal(mixed["layer2.bn.running_mean"], ((a + b) / 2).astype(np.float32))
    for alpha, message in ((["2"], "must be a number of 0 to 1"), (["head.*=0.5"], r"head\.\* matches no layer")):
        with pytest.raises(UsageError, match=message):
            mix_states(names[0], names[1], str(tmp_path / "no.pt"), alpha=alpha)
    torch_file.write(tmp_path / "other.pt", {"layer9.bn.running_mean": np.ones(3), "layer9.bn.running_var": np.ones(3)})
    with pytest.raises(TensorError, match=r"no tensor 'layer1\.bn\.running_mean'"):
        mix_states(names[0], str(tmp_path / "other.pt"), str(tmp_path / "no.pt"))
    assert not (tmp_path / "no.pt").exists()


AVERAGED = [
    name for name, one in NORMALIZERS.items() if one.state and one.exact is None and "update_rate" in one.settings
]


@pytest.mark.parametrize("name", AVERAGED)
def test_where_no_formula_merges_statistics_their_mean_over_batches_is_taken(name: str, tmp_path: Path) -> None:
    batches = [np.random.default_rng(i).standard_normal((6, 4, 5, 5)) * (i + 1) for i in range(3)]
    for i, x in enumerate(batches):
        np.save(tmp_path / f"b{i}.npy", x)
    settings: dict[str, Any] = {"layout": "NCHW"} | ({"variant": "B0"} if name == "evo_norm" else {})
    settings = {key: value for key, value in settings.items() if key in NORMALIZERS[name].settings}
    out = tmp_path / "state.npz"
    run_job(Job(normalizer=name, inputs=[str(tmp_path)], settings=settings, recompute_state=True, save_state=str(out)))
    states = [getattr(nn, name)(x, **settings, update_rate=1.0).state for x in batches]
    with np.load(out) as made:
        for key in NORMALIZERS[name].state:
            np.testing.assert_allclose(made[key], sum(s[key] for s in states) / 3, rtol=1e-12)
        assert int(made["num_batches_tracked"]) == 3
