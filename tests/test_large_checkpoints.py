"""Checkpoints larger than memory: listed, selected and rewritten within --memory-limit."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from normcli.storage import torch_pickle
from normcli.tensor import torch_file
from normcli.tensor.job import Job, run_job
from tests.support import needs
from tests.support.memory import peak

Array = np.ndarray[Any, Any]
ZEROS = bytes(1 << 24)


class SparseFile(io.FileIO):
    """A file in which blocks of zeros take no space."""

    def write(self, data: Any) -> int:
        if data is ZEROS:
            self.seek(len(ZEROS), io.SEEK_CUR)
            return len(ZEROS)
        return super().write(data)


def sizes(count: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of `count` weights of 256 MiB, and of two small tensors."""
    return {"head.weight": (6, 5), "head.bias": (6,)} | {f"blocks.{i}.fc.weight": (8192, 8192) for i in range(count)}


def small() -> dict[str, Array]:
    generator = np.random.default_rng(0)
    return {name: generator.random(shape, np.float32) for name, shape in sizes(0).items()}


def write_safetensors(path: Path, count: int) -> None:
    entries, end = {}, 0
    for name, shape in sizes(count).items():
        size = int(np.prod(shape)) * 4
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for array in small().values():
            file.write(array.tobytes())
        file.truncate(8 + len(header) + end)


def write_torch(path: Path, count: int) -> None:
    nodes = {n: torch_file.tensor_node(str(i), "FloatStorage", s) for i, (n, s) in enumerate(sizes(count).items())}
    texts = {"data.pkl": torch_pickle.serialize({"state_dict": nodes, "step": 7}), "byteorder": b"little"}
    with SparseFile(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in texts.items():
            archive.writestr(f"net/{name}", data)
        for i, (name, shape) in enumerate(sizes(count).items()):
            with archive.open(f"net/data/{i}", "w", force_zip64=True) as member:
                if name in small():
                    member.write(small()[name].tobytes())
                else:
                    for _ in range(int(np.prod(shape)) * 4 // len(ZEROS)):
                        member.write(ZEROS)
        archive.writestr("net/version", b"3\n")


WRITERS = {".safetensors": write_safetensors, ".pt": write_torch}
SIZES = [pytest.param(n, marks=pytest.mark.campaign) for n in (1, 24)]  # 256 MiB, and 6 GiB


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_checkpoint_larger_than_memory(suffix: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    WRITERS[suffix](path, count)
    assert path.stat().st_size > count << 28
    limit, most = ("1G", 1000) if count > 1 else ("100M", 400)
    shown = "list", f"net{suffix}", "--json"
    used, done = peak(tmp_path, "tensor", *shown, "--memory-limit", limit, timeout=900)
    rows = {row["name"]: row for row in json.loads(done.stdout)["files"][0]["tensors"]}
    assert list(rows) == list(sizes(count)) and used < most
    assert rows["blocks.0.fc.weight"]["std"] == 0 and rows["head.weight"]["mean"] == pytest.approx(
        float(small()["head.weight"].mean(dtype=np.float64)), rel=1e-12
    )
    pattern = f"net{suffix}:head.*"
    standardize = "tensor", "weight-standardization"
    used, done = peak(
        tmp_path, *standardize, pattern, "--min-rank", 2, "-o", f"out{suffix}", "--memory-limit", limit, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert used < most
    assert (tmp_path / f"out{suffix}").stat().st_size > count << 28
    check(tmp_path / f"out{suffix}", count)
    # weights that do not fit, by blocks of rows, all of them changed
    np.save(tmp_path / "x.npy", np.zeros((2, 2)))
    settings = ("--variant", "timm", "--dtype", "float32")
    used, done = peak(
        tmp_path, *standardize, f"net{suffix}", *settings, "-o", f"all{suffix}", "--memory-limit", limit, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert used < most
    check(tmp_path / f"all{suffix}", count, variant="timm")


def check(path: Path, count: int, **settings: Any) -> None:
    """Assert that the library of the format finds all tensors, and the small ones as they must be."""
    torch = needs.module("torch")
    wanted = nn.weight_standardization(small()["head.weight"], **settings)
    if path.suffix == ".pt":
        loaded = torch.load(path, mmap=True, weights_only=True)
        assert loaded["step"] == 7
        state = loaded["state_dict"]
        assert list(state) == list(sizes(count))
        weight, bias, last = (
            state[name].numpy() for name in ("head.weight", "head.bias", f"blocks.{count - 1}.fc.weight")
        )
    else:
        with needs.module("safetensors").safe_open(path, "np") as file:
            assert set(file.keys()) == set(sizes(count))
            weight, bias = (file.get_tensor(name) for name in ("head.weight", "head.bias"))
            last = file.get_slice(f"blocks.{count - 1}.fc.weight")[:4]
    np.testing.assert_array_equal(weight, wanted)
    np.testing.assert_array_equal(bias, small()["head.bias"])
    assert last.shape[1] == 8192 and not last[:4].any()


@pytest.mark.parametrize("normalizer", ["weight_norm", "centred_weight_norm", "weight_standardization"])
def test_blocks_of_rows_have_the_same_bits(normalizer: str, tmp_path: Path) -> None:
    shape = (24, 5, 3, 3)
    np.savez(tmp_path / "w.npz", a=np.random.default_rng(1).standard_normal(shape).astype(np.float32), b=np.ones(3))
    parameters: dict[str, str] = {}
    settings: dict[str, Any] = {}
    if normalizer != "weight_standardization":
        np.save(tmp_path / "g.npy", np.arange(1.0, 25))
        parameters = {"g": str(tmp_path / "g.npy")}
    results = []
    for limit in (None, 100_000, 5_760, 14_400):
        out = tmp_path / f"{limit}.npz"
        job = Job(
            normalizer=normalizer,
            inputs=[f"{tmp_path}/w.npz"],
            output=str(out),
            settings=settings,
            parameters=parameters,
            memory_limit=limit,
        )
        run_job(job)
        with np.load(out) as made:
            results.append(made["a"])
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
