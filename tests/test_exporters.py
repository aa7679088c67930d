"""Every dialect is executed or parsed, and its arithmetic on an image is ours within one float32 rounding."""

import csv as csv_module
import io
import json
import math
import shlex
import sys
import tomllib
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from normcli import stats, transform
from normcli.constants import exporters
from normcli.constants.parse_config import read_constants
from normcli.errors import StatisticsFileError, UsageError
from normcli.summary import Summary
from normcli.summary.remarks import CONVENTIONS
from tests.support import needs
from tests.support.command import ROOT, Run
from tests.support.images import photograph

Array = np.ndarray[Any, Any]
Evaluate = Callable[[str, Array], Array]


@pytest.fixture(scope="module", params=["RGB", "L", "L;16"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Array]:
    """Statistics of a few images, and one image (H,W,C) of them as stored."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("set")
    for seed in range(4):
        picture = photograph(20, 24, 3 if request.param == "RGB" else 1, seed)
        if request.param == "L;16":
            picture = (picture.astype(np.uint16) * 257) ^ np.uint16(seed)
        Image.fromarray(picture if request.param == "RGB" else picture[:, :, 0]).save(folder / f"{seed}.png")
    return stats(folder), picture


def executed(text: str, **modules: dict[str, Any]) -> dict[str, Any]:
    """Run a snippet with stand-ins for the libraries that it imports; give its names."""
    names: dict[str, Any] = {}
    kept = dict(sys.modules)
    try:
        for dotted, contents in modules.items():
            parts = dotted.split("__")
            for depth in range(1, len(parts) + 1):
                name = ".".join(parts[:depth])
                module = sys.modules[name] = types.ModuleType(name)
                if depth > 1:
                    setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], module)
            for key, value in contents.items():
                setattr(module, key, value)
        exec(compile(text, "snippet", "exec"), names)
    finally:
        sys.modules.clear()
        sys.modules.update(kept)
    return names


def normalize(mean: Any, std: Any) -> Callable[[Array], Array]:
    return lambda x: (x - np.array(mean)) / np.array(std)


def unit(x: Array) -> Array:
    return x / float(np.iinfo(x.dtype).max)


def torchvision(text: str, x: Array) -> Array:
    transforms = types.SimpleNamespace(Normalize=lambda mean, std: normalize(mean, std))
    return executed(text, torchvision={"transforms": transforms})["normalize"](unit(x))


def albumentations(text: str, x: Array) -> Array:
    def stand_in(mean: Any, std: Any, max_pixel_value: float) -> Callable[[Array], Array]:
        return lambda image: (image - np.array(mean) * max_pixel_value) / (np.array(std) * max_pixel_value)

    return executed(text, albumentations={"Normalize": stand_in})["normalize"](x)


def kornia(text: str, x: Array) -> Array:
    return executed(text, kornia__augmentation={"Normalize": lambda mean, std: normalize(mean, std)})["normalize"](
        unit(x)
    )


def timm(text: str, x: Array) -> Array:
    return normalize(**executed(text)["data_config"])(unit(x))


def fastai(text: str, x: Array) -> Array:
    stand_in = types.SimpleNamespace(from_stats=lambda mean, std: normalize(mean, std))
    return executed(text, fastai__vision__all={"Normalize": stand_in})["normalize"](unit(x))


def keras(text: str, x: Array) -> Array:
    def stand_in(axis: int, mean: Any, variance: Any) -> Callable[[Array], Array]:
        return lambda image: (image - np.array(mean)) / np.maximum(np.sqrt(variance), 1e-7)

    layers = types.SimpleNamespace(Normalization=stand_in)
    return executed(text, keras={"layers": layers})["normalize"](x)


def keras_rescaling(text: str, x: Array) -> Array:
    layers = types.SimpleNamespace(
        Rescaling=lambda scale, offset: lambda image: image * np.array(scale) + np.array(offset)
    )
    return executed(text, keras={"layers": layers})["normalize"](x)


def huggingface(text: str, x: Array) -> Array:
    config = json.loads(text)
    assert config["do_rescale"] and config["do_normalize"]
    return normalize(config["image_mean"], config["image_std"])(x * config["rescale_factor"])


def opencv(text: str, x: Array) -> Array:
    names = executed(text)
    turned = (x[:, :, ::-1] - np.array(names["mean"])) * np.array(names["scalefactor"])
    return turned[:, :, ::-1]


def mmcv(text: str, x: Array) -> Array:
    config = executed(text)["img_norm_cfg"]
    loaded = x[:, :, ::-1]
    return normalize(config["mean"], config["std"])(loaded[:, :, ::-1] if config["to_rgb"] else loaded)


def dali(text: str, x: Array) -> Array:
    return normalize(**executed(text)["normalize"])(x)


def onnx(text: str, x: Array) -> Array:
    names = executed(text)
    kernel = np.random.default_rng(0).normal(size=(5, x.shape[2], 1, 1))
    bias = np.arange(5.0)
    weight, shifted = names["fold"](kernel, bias)
    folded = np.einsum("hwc,oc->hwo", x.astype(float), weight[:, :, 0, 0]) + shifted
    straight = np.einsum("hwc,oc->hwo", x * names["scale"] + names["bias"], kernel[:, :, 0, 0]) + bias
    np.testing.assert_allclose(folded, straight, rtol=1e-12, atol=1e-12)
    return x * names["scale"] + names["bias"]


def kaldi(text: str, x: Array) -> Array:
    sums, squares = (np.array(row.split(), float) for row in text.strip().strip("[]").strip().split("\n"))
    mean = sums[:-1] / sums[-1]
    variance = squares[:-1] / sums[-1] - mean**2
    assert squares[-1] == 0
    return normalize(mean, np.sqrt(variance))(unit(x))


def csv(text: str, x: Array) -> Array:
    rows = list(csv_module.DictReader(io.StringIO(text)))
    return normalize([float(r["mean"]) for r in rows], [float(r["std"]) for r in rows])(unit(x))


def mapping(read: Callable[[str], dict[str, Any]]) -> Evaluate:
    return lambda text, x: normalize(read(text)["mean"], read(text)["std"])(unit(x))


def env(text: str, x: Array) -> Array:
    values = dict(word.split("=", 1) for word in shlex.split(text, comments=True))
    return normalize(*([float(v) for v in values[f"DATASET_{k}"].split()] for k in ("MEAN", "STD")))(unit(x))


EVALUATED: dict[str, Evaluate] = {
    "csv": csv,
    "yaml": mapping(yaml.safe_load),
    "toml": mapping(tomllib.loads),
    "env": env,
    "torchvision": torchvision,
    "albumentations": albumentations,
    "kornia": kornia,
    "timm": timm,
    "fastai": fastai,
    "keras": keras,
    "keras-rescaling": keras_rescaling,
    "huggingface": huggingface,
    "opencv": opencv,
    "mmcv": mmcv,
    "dali": dali,
    "onnx": onnx,
    "kaldi": kaldi,
}


def assert_one_rounding(got: Array, want: Array) -> None:
    """Equal as float32, or neighbours: what rounding float64 once to float32 can differ by."""
    got32, want32 = got.astype(np.float32), want.astype(np.float32)
    assert (np.abs(got32.astype(float) - want32.astype(float)) <= np.spacing(np.abs(want32)).astype(float)).all()


def test_every_dialect_has_a_row() -> None:
    assert set(EVALUATED) == set(exporters.EXPORTERS)


def test_the_comparison_sees_a_wrong_answer() -> None:
    with pytest.raises(AssertionError):
        assert_one_rounding(np.array([1.0 + 3e-7]), np.array([1.0]))


@pytest.mark.parametrize("convention", ["pooled_population", "mean_of_image_stds"])
@pytest.mark.parametrize("name", exporters.EXPORTERS)
def test_its_arithmetic_is_ours(name: str, convention: str, dataset: tuple[Summary, Array]) -> None:
    summary, image = dataset
    said = summary.conventions[convention]
    want = (unit(image) - np.array(said["mean"])) / np.array(said["std"])
    got = EVALUATED[name](exporters.export(summary, name, convention), image)
    assert_one_rounding(got, want)
    applied = transform("contrast", stats=summary, convention=convention, output_layout="hwc", color="auto")(image)
    assert_one_rounding(got, applied)  # `apply --scheme contrast`


@pytest.mark.parametrize("name", exporters.EXPORTERS)
def test_it_states_the_convention(name: str, dataset: tuple[Summary, Array]) -> None:
    text = exporters.export(dataset[0], name, "root_mean_image_variance")
    text += exporters.format_note(dataset[0], name, "root_mean_image_variance") or ""
    assert "root mean image variance" in text.replace("_", " ")


# csv and kaldi are tables, the others say a scale or a variance in place of the std
NOT_READ = {"csv", "kaldi", "onnx", "keras", "keras-rescaling", "opencv"}


@pytest.mark.parametrize("name", sorted(set(exporters.EXPORTERS) - NOT_READ))
def test_what_is_said_is_read_again(name: str, dataset: tuple[Summary, Array]) -> None:
    """`check --config` understands what `show --format` prints."""
    summary, _ = dataset
    (found,) = read_constants(exporters.export(summary, name), name)
    factor = summary.max_value if name in ("mmcv", "dali") else 1
    assert found.std is not None and factor is not None
    assert [n.value for n in found.mean] == [m * factor for m in summary.mean]
    assert [n.value for n in found.std] == [s * factor for s in summary.std]


def test_raw_units_are_said_as_stored(dataset: tuple[Summary, Array]) -> None:
    summary = replace(dataset[0], max_value=None)
    assert "raw units" in exporters.export(summary, "mmcv")
    assert json.loads(exporters.export(summary, "huggingface"))["do_rescale"] is False


def test_a_constant_channel_is_refused_where_it_would_divide(dataset: tuple[Summary, Array]) -> None:
    summary = replace(dataset[0], std=[0.0] * len(dataset[0].std))
    for name in exporters.EXPORTERS:
        if name in ("csv", "yaml", "toml", "env"):
            assert exporters.export(summary, name)
        else:
            with pytest.raises(UsageError, match="std 0"):
                exporters.export(summary, name)


def test_unknown_names_suggest_the_nearest(dataset: tuple[Summary, Array]) -> None:
    with pytest.raises(UsageError, match="did you mean 'torchvision'"):
        exporters.export(dataset[0], "torchvison")
    with pytest.raises(UsageError, match="did you mean 'pooled_sample'"):
        exporters.export(dataset[0], "torchvision", "pooled_samples")


def test_a_convention_that_is_not_held_is_one_line(dataset: tuple[Summary, Array]) -> None:
    only = {"pooled_population": dataset[0].conventions["pooled_population"]}
    summary = replace(dataset[0], conventions=only)
    assert exporters.export(summary, "toml")
    with pytest.raises(UsageError, match="contain no mean of image stds"):
        exporters.export(summary, "toml", "mean_of_image_stds")


@pytest.mark.parametrize("dataset", ["RGB", "L"], indirect=True)
@pytest.mark.parametrize("library", ["cv2", "albumentations", "torchvision", "keras", "timm"])
def test_the_real_library_agrees(library: str, dataset: tuple[Summary, Array]) -> None:
    """Where a library happens to be installed, it runs the snippet itself."""
    module = needs.module(library)
    summary, image = dataset
    want = (unit(image) - np.array(summary.mean)) / np.array(summary.std)
    names: dict[str, Any] = {}
    said = {"cv2": "opencv", "timm": "timm"}.get(library, library)
    exec(exporters.export(summary, said), names)
    if library == "cv2":
        parameters = module.dnn.Image2BlobParams(scalefactor=names["scalefactor"], mean=names["mean"])
        blob = module.dnn.blobFromImageWithParams(np.ascontiguousarray(image[:, :, ::-1]), parameters)
        got = blob[0].transpose(1, 2, 0)[:, :, ::-1]
    elif library == "albumentations":
        got = names["normalize"](image=image)["image"].reshape(image.shape)
    elif library == "keras":
        got = np.asarray(names["normalize"](image[None].astype(np.float32)))[0]
    else:
        transforms = needs.module("torchvision.transforms")

        normalize = names.get("normalize") or transforms.Normalize(**names["data_config"])
        got = normalize(transforms.ToTensor()(image)).numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(got, want, rtol=0, atol=4e-6)  # they calculate in float32


def test_show_and_stats_print_it(run: Run, tmp_path: Path) -> None:
    done = run("stats", ROOT / "sample_data" / "digits", "-o", "s.json", "--format", "toml")
    assert done.returncode == 0
    shown = run("show", "s.json", "--format", "toml")
    assert shown.stdout == done.stdout and shown.stderr == b""
    assert tomllib.loads(done.stdout.decode())["mean"] == Summary.load(tmp_path / "s.json").mean
    assert run("show", "s.json", "--format", "json").stdout == (tmp_path / "s.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "pytorch"], b"unknown format 'pytorch'"),
        (["--format", "toml", "--json"], b"--json"),
        (["--convention", "poled_population"], b"did you mean 'pooled_population'"),
        (["--format", "json", "--convention", "pooled_sample"], b"--convention"),
    ],
)
def test_wrong_names_are_one_line(arguments: list[str], words: bytes, run: Run) -> None:
    done = run("show", ROOT / "sample_data" / "expected.json", *arguments)
    assert done.returncode == 2 and done.stdout == b""
    assert words in done.stderr and done.stderr.count(b"\n") == 1


def test_the_table_speaks_every_convention(run: Run) -> None:
    file = ROOT / "sample_data" / "expected.json"
    for name in CONVENTIONS:
        done = run("show", file, "--convention", name)
        assert name.replace("_", " ").encode() in done.stdout.split(b"\n")[0]


def test_plot_draws_every_channel(run: Run) -> None:
    done = run("show", ROOT / "sample_data" / "expected.json", "--plot", env={"PYTHONIOENCODING": "utf-8"})
    text = done.stdout.decode()
    assert done.returncode == 0 and "█" in text
    assert all(f"\n{c}  mean " in text for c in "RGB")


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", "def f(:", "mean", '{"mean": "x"}', "mean = f(1)(2)", "\0"])
def test_files_without_constants_are_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="no mean and std found"):
        read_constants(text, "config")


@pytest.mark.parametrize(
    "text",
    [
        "T.Compose([T.ToTensor(), T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])",
        "MEAN = (0.485, 0.456, 0.406)\nSTD = (0.229, 0.224, 0.225)\nx = Normalize(mean=MEAN, std=STD)",
        "A.Normalize(mean=np.array([.485, .456, .406]), std=torch.tensor([.229, .224, .225]))",
        "cfg = dict(type='Normalize', mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], to_rgb=True)",
        '{"a": [{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}]}',
        "data:\n  mean: [0.485, 0.456, 0.406]\n  std: [0.229, 0.224, 0.225]\n",
        "mean:\n  - 0.485\n  - 0.456\n  - 0.406\nstd:\n  - 0.229\n  - 0.224\n  - 0.225\n",
        "normalize = {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}",
    ],
)
def test_constants_in_the_wild_are_found(text: str) -> None:
    found = read_constants(text, "config")
    assert len(found) == 1
    assert [n.value for n in found[0].mean] == [0.485, 0.456, 0.406]
    assert [n.value for n in found[0].std or ()] == [0.229, 0.224, 0.225]


def test_arithmetic_in_the_wild_keeps_its_digits() -> None:
    (found,) = read_constants("T.Normalize([x / 255 for x in [125.3, 123.0, 113.9]], [0.1 * 255, 2, 3])", "x")
    assert math.isclose(found.mean[0].value, 125.3 / 255) and math.isclose(found.mean[0].unit, 0.1 / 255)
    assert found.std is not None and math.isclose(found.std[0].value, 25.5)


def test_a_config_is_never_executed(tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'ran')!r}, 'w')\nNormalize(mean=[exec('1/0'), 1, 2], std=[1, 2, 3])\nmean = [1]"
    read_constants(text, "x")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_state_is_one_line(dataset: tuple[Summary, Array]) -> None:
    from normcli.summary.distribution import distribution

    with pytest.raises(StatisticsFileError, match="damaged"):
        distribution(replace(dataset[0], state={"buckets": [{"dtype": "uint8"}]}))
