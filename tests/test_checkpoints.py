"""Checkpoints as torch writes them: layers by prefix, selections, and copies that torch loads strictly."""

import json
import pickle
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from normcli.errors import TensorError, UsageError
from normcli.tensor import files, safetensors, torch_file
from normcli.tensor.checkpoint import open_checkpoint
from normcli.tensor.job import Job, JobReport, run_job
from tests.support import needs
from tests.support.command import Run

Array = np.ndarray[Any, Any]
torch: Any = needs.module("torch")


def activations(channels: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).standard_normal((2, channels, 3, 3)) * 2 + 1).astype(np.float32)


def randomized(net: Any) -> Any:
    """The network with batch norms that change their input."""
    torch.manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.weight, 1, 0.3)
            torch.nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.1, 3)
            layer.num_batches_tracked.fill_(7)
    return net.eval()


def small() -> Any:
    """A network of a channels-last convolution, a batch norm and a linear layer."""
    torch.manual_seed(5)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    return randomized(net.to(memory_format=torch.channels_last))


def job(normalizer: str, inputs: list[Any], **settings: Any) -> JobReport:
    return run_job(Job(normalizer=normalizer, inputs=[str(name) for name in inputs], force=True, **settings))


def equal(a: Mapping[str, Any], b: Mapping[str, Any], *but: str) -> None:
    """Assert the same names in the same order, types, layouts and bits, but for some names."""
    assert list(a) == list(b)
    for name in a:
        if name in but or not isinstance(a[name], torch.Tensor):
            continue
        assert (a[name].dtype, a[name].shape, a[name].layout) == (b[name].dtype, b[name].shape, b[name].layout), name
        if a[name].layout == torch.strided:
            one, two = (t[name].detach().reshape(-1).view(torch.uint8) if t[name].dim() else t[name] for t in (a, b))
            assert torch.equal(one, two), name


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_every_batch_norm_by_its_prefix_is_that_of_torch(name: str, tmp_path: Path) -> None:
    needs.torchvision()
    models = needs.module("torchvision.models")
    net = randomized(getattr(models, name)())
    torch.save(net.state_dict(), tmp_path / "net.pt")
    layers = {key: layer for key, layer in net.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    assert len(layers) == {"resnet18": 20, "mobilenet_v2": 52}[name]
    for i, (key, layer) in enumerate(layers.items()):
        x = activations(layer.num_features, i)
        np.save(tmp_path / "x.npy", x)
        job(
            "batch_norm",
            [tmp_path / "x.npy"],
            settings={"layout": "NCHW", "mode": "eval"},
            state=f"{tmp_path}/net.pt:{key}.",
            output=str(tmp_path / "y.npy"),
        )
        with torch.no_grad():
            exact = layer.double()(torch.tensor(x, dtype=torch.float64)).float().numpy()
        y = np.load(tmp_path / "y.npy")
        assert np.abs(y.view(np.int32).astype(np.int64) - exact.view(np.int32)).max() <= 1, key
    last, layer = list(layers.items())[-1]
    job(
        "batch_norm",
        [tmp_path / "x.npy"],
        settings={"layout": "NCHW"},
        state=f"{tmp_path}/net.pt:{last}.",
        save_state=str(tmp_path / "new.pt"),
    )
    saved = torch.load(tmp_path / "new.pt", weights_only=True)
    fresh = getattr(models, name)()
    fresh.load_state_dict(saved, strict=True)
    equal(saved, net.float().state_dict(), f"{last}.running_mean", f"{last}.running_var", f"{last}.num_batches_tracked")
    layer.train()(torch.tensor(activations(layer.num_features, len(layers) - 1)))
    for statistic in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(saved[f"{last}.{statistic}"], getattr(layer, statistic), rtol=1e-6, atol=1e-6)


FORMS = ["state.pt", "nested.pt", "net.safetensors", "sharded/model.safetensors.index.json", "sharded/bin.index.json"]


def checkpoint(folder: Path, form: str) -> Path:
    """Write the small network in one of the forms."""
    state, path = small().state_dict(), folder / form
    path.parent.mkdir(exist_ok=True)
    if form == "state.pt":
        torch.save(state, path)
    elif form == "nested.pt":
        optimizer = torch.optim.SGD(small().parameters(), lr=0.1)
        torch.save({"epoch": 3, "state_dict": state, "optimizer": optimizer.state_dict(), "best": 10**20}, path)
    elif form == "net.safetensors":
        plain = {name: tensor.contiguous() for name, tensor in state.items()}
        needs.module("safetensors.torch").save_file(plain, path, metadata={"format": "pt"})
    else:
        names = list(state)
        suffix = ".bin" if "bin" in form else ".safetensors"
        homes = {name: f"part-{i // 5}{suffix}" for i, name in enumerate(names)}
        for file in sorted(set(homes.values())):
            part = {name: state[name].contiguous() for name in names if homes[name] == file}
            if suffix == ".bin":
                torch.save(part, path.parent / file)
            else:
                needs.module("safetensors.torch").save_file(part, path.parent / file, metadata={"format": "pt"})
        path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": homes}))
    return path


def loaded(path: Path) -> dict[str, Any]:
    """Return the state dict of a file by the library of its format."""
    if path.name.endswith(".index.json"):
        homes = json.loads(path.read_text())["weight_map"]
        parts = {file: loaded(path.parent / file) for file in set(homes.values())}
        return {name: parts[file][name] for name, file in homes.items()}
    if path.suffix == ".safetensors":
        return dict(needs.module("safetensors.torch").load_file(path))
    for mapped in (False, True):
        state = torch.load(path, weights_only=True, mmap=mapped)
    return dict(state.get("state_dict", state))


@pytest.mark.parametrize("form", FORMS)
def test_a_state_is_merged_back_into_a_copy(form: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, form)
    out = tmp_path / "out" / path.name
    out.parent.mkdir()
    np.save(tmp_path / "x.npy", activations(4))
    report = job(
        "batch_norm",
        [tmp_path / "x.npy"],
        settings={"layout": "NCHW"},
        state=f"{path}:1.",
        save_state=str(out),
        output=str(tmp_path / "y.npy"),
    )
    assert report.lines[-1] == f"wrote {out}: 8 batches; 1.running_mean, 1.running_var, 1.num_batches_tracked"
    net = small()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    y = net[1].double().train()(torch.tensor(activations(4), dtype=torch.float64)).detach().float().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), y, rtol=1e-6, atol=1e-6)
    saved = loaded(out)
    if not form.endswith(".safetensors"):  # whose library sorts names
        assert list(saved) == list(before)
    small().load_state_dict(saved, strict=True)
    changed = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    equal({n: saved[n] for n in before}, before, *changed)
    assert all(saved[name].dtype == before[name].dtype for name in changed)
    torch.testing.assert_close(saved["1.running_var"], net[1].running_var.float())
    if form == "nested.pt":
        complete = torch.load(out, weights_only=True)
        assert (complete["epoch"], complete["best"], list(complete)) == (
            *(3, 10**20),
            ["epoch", "state_dict", "optimizer", "best"],
        )
        assert complete["state_dict"]._metadata == small().state_dict()._metadata
        assert saved["0.weight"].stride() == before["0.weight"].stride()
    if form == "net.safetensors":
        assert safetensors.read(out)[1] == {"format": "pt"}


def test_weight_and_bias_come_along_unless_they_are_set(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "state.pt")
    np.save(tmp_path / "x.npy", activations(4))
    state = {name: tensor.double().numpy() for name, tensor in small().state_dict().items()}
    statistics = {key: state[f"1.{key}"] for key in ("running_mean", "running_var")}
    for parameters, weight, bias in (
        ({}, state["1.weight"], state["1.bias"]),
        ({"weight": "1", "bias": "0"}, None, None),
        ({"bias": f"{path}:1.weight"}, state["1.weight"], state["1.weight"]),
    ):
        job(
            "batch_norm",
            [tmp_path / "x.npy"],
            settings={"layout": "NCHW", "mode": "eval"},
            parameters=parameters,
            state=f"{path}:1.",
            output=str(tmp_path / "y.npy"),
        )
        settings: dict[str, Any] = {"layout": "NCHW", "mode": "eval", "state": statistics}
        wanted = nn.batch_norm(activations(4), **settings, weight=weight, bias=bias).y
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), wanted)


def test_a_prefix_that_matches_nothing_names_the_nearest(run: Run, tmp_path: Path) -> None:
    net = torch.nn.ModuleDict({"layer1": torch.nn.ModuleDict({"bn1": torch.nn.BatchNorm2d(4)})})
    torch.save(net.state_dict(), tmp_path / "net.pt")
    np.save(tmp_path / "x.npy", activations(4))
    eval_mode = ("--layout", "NCHW", "--mode", "eval", "-o", "y.npy")
    done = run("tensor", "batch-norm", "x.npy", *eval_mode, "--state", "net.pt:layer1.bn7.")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"normcli: net.pt: no tensor begins with 'layer1.bn7.' (did you mean 'layer1.bn1.'?)\n"
    assert not (tmp_path / "y.npy").exists()
    done = run("tensor", "batch-norm", "x.npy", *eval_mode, "--state", "net.pt:layer1.bn1")
    assert b"layer1.bn1 is a layer, not a tensor: a prefix ends with a dot, net.pt:layer1.bn1." in done.stderr
    done = run("tensor", "batch-norm", "x.npy", *eval_mode, "--state", "net.pt:layer1.bn1.")
    assert done.returncode == 0, done.stderr
    with pytest.raises(TensorError, match=r"no running_mean, which batch_norm needs; the prefix has weight, bias"):
        torch.save({"ln.weight": torch.ones(4), "ln.bias": torch.ones(4)}, tmp_path / "ln.pt")
        job("batch_norm", ["x.npy"], settings={"layout": "NCHW"}, state=f"{tmp_path}/ln.pt:ln.", output="y.npy")


def test_parametrizations_of_torch(tmp_path: Path) -> None:
    from torch.nn.utils.parametrizations import spectral_norm, weight_norm

    torch.manual_seed(2)
    net = torch.nn.ModuleDict({"s": spectral_norm(torch.nn.Linear(5, 4)), "w": weight_norm(torch.nn.Linear(5, 4))})
    with torch.no_grad():
        net["w"].parametrizations.weight.original0.mul_(3)
    torch.save(net.state_dict(), tmp_path / "new.pt")
    old = {name.replace("parametrizations.weight.0._", "weight_"): value for name, value in net.state_dict().items()}
    spellings = {"original1": "weight_v", "original0": "weight_g", "original": "weight_orig"}
    for new, hook in spellings.items():
        old = {name.replace(f"parametrizations.weight.{new}", hook): value for name, value in old.items()}
    assert {"s.weight_orig", "s.weight_u", "w.weight_g", "w.weight_v"} < set(old)
    torch.save(old, tmp_path / "old.pt")
    net.eval()
    for name in ("new.pt", "old.pt"):
        file = tmp_path / name
        job("weight_norm", [f"{file}:w."], output=str(tmp_path / "w.npy"))
        np.testing.assert_allclose(np.load(tmp_path / "w.npy"), net["w"].weight.detach().numpy(), rtol=1e-6)
        settings = {"method": "torch", "mode": "eval"}
        job("spectral_norm", [f"{file}:s."], settings=settings, state=f"{file}:s.", output=str(tmp_path / "s.npy"))
        np.testing.assert_allclose(np.load(tmp_path / "s.npy"), net["s"].weight.detach().numpy(), rtol=1e-6)
    job(
        "spectral_norm",
        [f"{tmp_path}/new.pt:s."],
        settings={"method": "torch"},
        state=f"{tmp_path}/new.pt:s.",
        save_state=str(tmp_path / "moved.pt"),
    )
    moved = torch.load(tmp_path / "moved.pt", weights_only=True)
    net["s"].train()(torch.ones(1, 5))
    for vector in ("_u", "_v"):
        key = f"s.parametrizations.weight.0.{vector}"
        torch.testing.assert_close(moved[key], net.state_dict()[key])


def mixed() -> dict[str, Any]:
    """A state dict with tensors of every kind that cannot be computed with."""
    return {
        "a.weight": torch.randn(4, 3, generator=torch.manual_seed(0)),
        "a.bias": torch.ones(4),
        "b.weight": torch.randn(4, 3).double(),
        "steps": torch.tensor(3),
        "scale.weight": torch.ones(4, 2).to(torch.float8_e4m3fn),
        "wave": torch.ones(2, 2, dtype=torch.complex64),
    }


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_selection_leaves_the_rest_of_the_file_as_it_is(suffix: str, tmp_path: Path, run: Run) -> None:
    state = mixed() | ({"sparse": torch.eye(3).to_sparse()} if suffix == ".pt" else {})
    path = tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        needs.module("safetensors.torch").save_file(state, path, metadata={"made": "here"})
    done = run("tensor", "weight-standardization", f"net{suffix}:[ab].*", "--min-rank", 2, "-o", f"out{suffix}")
    assert done.returncode == 0, done.stderr
    assert b"passed through unchanged: " in done.stderr and b"a.bias" in done.stderr
    saved = loaded(tmp_path / f"out{suffix}")
    equal({n: saved[n] for n in state}, state, "a.weight", "b.weight")
    for name in ("a.weight", "b.weight"):
        np.testing.assert_array_equal(saved[name].numpy(), nn.weight_standardization(state[name].numpy()))
    # a selected tensor of such a type is named, and passes through
    done = run("tensor", "weight-standardization", f"net{suffix}:*.weight", "-o", f"all{suffix}", "-q")
    assert done.returncode == 3
    assert (
        done.stderr.count(b"\n") == 1 and b"scale.weight" in done.stderr and b"passed through unchanged" in done.stderr
    )
    equal({n: loaded(tmp_path / f"all{suffix}")[n] for n in state}, state, "a.weight", "b.weight")
    done = run("tensor", "weight-standardization", f"net{suffix}:*.wight", "-o", f"no{suffix}")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"no tensor matches '*.wight' (did you mean '" in done.stderr


def test_a_type_that_changes_is_written_into_a_new_storage(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "nested.pt")
    settings = {"dtype": "float16"}
    job("weight_standardization", [f"{path}:0.weight*"], settings=settings, output=str(tmp_path / "half.pt"))
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    assert (saved["epoch"], saved["best"]) == (3, 10**20)
    assert saved["optimizer"] == torch.load(path, weights_only=True)["optimizer"]
    assert saved["state_dict"]["0.weight"].dtype == torch.float16
    equal(saved["state_dict"], small().state_dict(), "0.weight")
    with zipfile.ZipFile(tmp_path / "half.pt") as archive:
        assert archive.testzip() is None
        keys = [name for name in archive.namelist() if "/data/" in name]
    assert len(keys) == len(small().state_dict())  # the old storage is gone


def test_elements_that_two_names_share_change_for_both_or_not_at_all(tmp_path: Path) -> None:
    shared = torch.randn(4, 3)
    torch.save({"embed.weight": shared, "head.weight": shared, "x.bias": torch.ones(2)}, tmp_path / "tied.pt")
    with pytest.raises(TensorError, match=r"head\.weight: shares its elements with embed\.weight"):
        job("weight_norm", [f"{tmp_path}/tied.pt:head.*"], output=str(tmp_path / "y.pt"))
    assert not (tmp_path / "y.pt").exists()
    job("weight_norm", [f"{tmp_path}/tied.pt:*.weight"], output=str(tmp_path / "y.pt"))
    saved = torch.load(tmp_path / "y.pt", weights_only=True)
    assert saved["embed.weight"].data_ptr() == saved["head.weight"].data_ptr()
    np.testing.assert_array_equal(saved["head.weight"].numpy(), nn.weight_norm(shared.numpy()))


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


def test_tensors_in_tuples_are_those_of_the_file(tmp_path: Path, run: Run) -> None:
    x = torch.randn(2, 4, 3, generator=torch.manual_seed(0))
    torch.save((x, {"k": x + 1.0}, [x * 2.0]), tmp_path / "t.pt")
    done = run("tensor", "list", "t.pt", "--json")
    assert [row["name"] for row in json.loads(done.stdout)["files"][0]["tensors"]] == ["0", "1.k", "2.0"]
    for more in ((), ("--dtype", "float64")):  # into the storage that is there, and into a new one
        done = run("tensor", "rms-norm", "t.pt:1*", "--axes=-1", "-o", "out.pt", "-f", *more)
        assert done.returncode == 0, done.stderr
        first, second, third = torch.load(tmp_path / "out.pt", weights_only=True)
        expected = nn.rms_norm((x + 1.0).numpy(), axes="-1", dtype="float64" if more else None)
        np.testing.assert_array_equal(second["k"].numpy(), expected)
        assert isinstance(third, list) and torch.equal(first, x) and torch.equal(third[0], x * 2.0)
    torch.save({"w": x, "same": (x,)}, tmp_path / "shared.pt")  # the tuple's tensor changed too, without a word
    done = run("tensor", "rms-norm", "shared.pt:w*", "--axes=-1", "-o", "no.pt")
    assert done.returncode == 1 and b"shares its elements with same.0" in done.stderr


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    for i, value in enumerate(
        ({"weight": torch.ones(2, 2), "hook": Evil(tmp_path / "marker")}, Evil(tmp_path / "marker"))
    ):
        path = tmp_path / f"evil{i}.pt"
        torch.save(value, path)
        with pytest.raises(TensorError, match=r"other objects than tensors in it \(.*\); only weights are read"):
            job("weight_norm", [path], output=str(tmp_path / "y.pt"))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(tmp_path / "marker")))
    with pytest.raises(TensorError):
        job("weight_norm", [tmp_path / "plain.pt"], output=str(tmp_path / "y.pt"))
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(TensorError, match="TorchScript"):
        job("weight_norm", [tmp_path / "script.pt"], output=str(tmp_path / "y.pt"))
    assert not (tmp_path / "marker").exists() and not (tmp_path / "y.pt").exists()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", ""])
def test_an_index_that_leads_out_of_its_folder_is_rejected(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a.weight": name}}))
    with pytest.raises(TensorError, match="outside of its folder"):
        job("weight_norm", [path], output=str(tmp_path / "y.safetensors"))
    path.write_text("[1]")
    with pytest.raises(TensorError, match="no weight_map"):
        job("weight_norm", [path], output=str(tmp_path / "y.safetensors"))
    path.write_text(json.dumps({"weight_map": {"a.weight": "gone.safetensors"}}))
    with pytest.raises(TensorError, match=r"gone\.safetensors is missing"):
        job("weight_norm", [path], output=str(tmp_path / "y.safetensors"))


def test_a_copy_of_several_files_is_not_written_over_them(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "sharded/model.safetensors.index.json")
    with open_checkpoint(path) as source, pytest.raises(UsageError, match="name an index in another folder"):
        source.save_copy(str(path.with_name("new.index.json")), {})
    with open_checkpoint(path) as source:
        source.save_copy(str(tmp_path / "one.safetensors"), {"1.extra": np.zeros(2, np.float32)})
    names = list(loaded(path))
    assert set(loaded(tmp_path / "one.safetensors")) == {*names, "1.extra"}


def test_what_this_program_writes_is_what_torch_writes(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "a": activations(3),
        "b": np.arange(5),
        "c": np.array(3, np.int64),
        "d": np.zeros((0, 2), np.float16),
        "e": np.array([True, False]),
    }
    torch_file.write(tmp_path / "x.pt", arrays)
    for mapped in (False, True):
        saved = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mapped)
        assert list(saved) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(saved[name].numpy(), array)
    torch_file.write(tmp_path / "y.pt", {"": arrays["a"]})
    np.testing.assert_array_equal(torch.load(tmp_path / "y.pt", weights_only=True).numpy(), arrays["a"])


def test_damaged_checkpoints_end_in_one_line(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "good.pt")
    good = (tmp_path / "good.pt").read_bytes()
    generator = np.random.default_rng(0)
    rejected = 0
    for i in range(300):
        data = bytearray(good)
        for at in generator.integers(0, len(good), 3):
            data[at] ^= int(generator.integers(1, 256))
        if i % 3 == 0:
            data = data[: int(generator.integers(0, len(good)))]
        path = tmp_path / "bad.pt"
        path.write_bytes(data)
        try:
            with files.open_tensors(str(path)) as tensors:
                for tensor in tensors.values():
                    files.read_array(tensor)
        except TensorError as error:
            assert "\n" not in str(error)
            rejected += 1
    assert rejected > 100


def test_an_old_format_of_torch_is_read_by_torch(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "x.npy", activations(4))
    settings = {"layout": "NCHW", "mode": "eval"}
    state = f"{tmp_path}/old.pt:1."
    job("batch_norm", [tmp_path / "x.npy"], settings=settings, state=state, output=str(tmp_path / "y.npy"))
    wanted = small()[1].double()(torch.tensor(activations(4), dtype=torch.float64)).detach().float().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), wanted, rtol=1e-6)


def test_checkpoints_need_no_torch(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "net.pt")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from normcli.tensor.job import Job, run_job\n"
        "run_job(Job(normalizer='weight_norm', inputs=['net.pt:0.weight*'], output='y.pt'))"
    )
    import sys

    from tests.support.command import ENVIRONMENT

    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, check=True)
    small().load_state_dict(torch.load(tmp_path / "y.pt", weights_only=True), strict=True)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_list_shows_names_shapes_types_and_statistics(suffix: str, tmp_path: Path, run: Run) -> None:
    state = mixed() | {"odd": torch.tensor([1.0, float("nan"), float("inf"), 5.0])}
    if suffix == ".pt":
        state |= {"t": torch.arange(6.0).reshape(2, 3).t(), "sparse": torch.eye(3).to_sparse()}
        torch.save({"state_dict": state, "momentum": {"a": torch.ones(2)}}, tmp_path / "net.pt")
    else:
        needs.module("safetensors.torch").save_file(state, tmp_path / "net.safetensors")
    done = run("tensor", "list", f"net{suffix}", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    rows = {row["name"]: row for row in json.loads(done.stdout)["files"][0]["tensors"]}
    assert set(rows) == {*state, *(["momentum.a"] if suffix == ".pt" else [])}
    if suffix == ".pt":
        assert list(rows) == [*state, "momentum.a"] and not rows["momentum.a"]["in_state_dict"]
    for name, row in rows.items():
        tensor = state.get(name, torch.ones(2))
        if row["mean"] is None:
            assert name in ("scale.weight", "wave", "sparse") and tuple(row["shape"]) == tuple(tensor.shape)
            continue
        assert tuple(row["shape"]) == tuple(tensor.shape) and str(tensor.dtype) == f"torch.{row['dtype']}"
        x = tensor.double().numpy()
        assert (row["nan"], row["inf"]) == (int(np.isnan(x).sum()), int(np.isinf(x).sum()))
        x = x[np.isfinite(x)]
        np.testing.assert_allclose([row["mean"], row["std"]], [x.mean(), x.std()], rtol=1e-12, atol=1e-15)
    text = run("tensor", "list", f"net{suffix}:*.weight", "--headers").stdout.decode()
    assert [line.split() for line in text.splitlines()] == [
        ["name", "shape", "dtype"],
        *sorted(
            (
                ["a.weight", "4x3", "float32"],
                ["b.weight", "4x3", "float64"],
                ["scale.weight", "4x2", "float8_e4m3fn" if suffix == ".pt" else "F8_E4M3"],
            ),
            key=lambda line: list(rows).index(line[0]),
        ),
    ]
    absent = run("tensor", "list", f"net{suffix}:c.weight")
    assert absent.returncode == 1 and b"no tensor 'c.weight' (did you mean '" in absent.stderr
