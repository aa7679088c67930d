"""The snippets of exporters, executed or parsed, and their arithmetic on an image in NumPy."""

import csv as csv_module
import io
import json
import shlex
import sys
import tomllib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

from tests.support import needs

Array = np.ndarray[Any, Any]
Evaluate = Callable[..., Any]


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


def unit(x: Array, max_value: int | None = None) -> Array:
    return x / float(max_value or (np.iinfo(x.dtype).max if x.dtype.kind == "u" else 1))


def torchvision(text: str, x: Array, max_value: int | None = None) -> Any:
    def compose(steps: list[Callable[[Any], Any]]) -> Callable[[Array], Array]:
        to_tensor, last = steps
        return lambda image: last(to_tensor(image).numpy().transpose(1, 2, 0))

    if "import torch\n" in text:
        needs.module("torch")
    transforms = types.SimpleNamespace(Normalize=lambda mean, std: normalize(mean, std), Compose=compose)
    names = executed(text, torchvision={"transforms": transforms})
    return names["transform"](x) if "transform" in names else names["normalize"](unit(x))


def albumentations(text: str, x: Array, max_value: int | None = None) -> Any:
    def stand_in(mean: Any, std: Any, max_pixel_value: float) -> Callable[[Array], Array]:
        return lambda image: (image - np.array(mean) * max_pixel_value) / (np.array(std) * max_pixel_value)

    return executed(text, albumentations={"Normalize": stand_in})["normalize"](x)


def kornia(text: str, x: Array, max_value: int | None = None) -> Any:
    names = executed(text, kornia__augmentation={"Normalize": lambda mean, std: normalize(mean, std)})
    if "normalize_stored" not in names:
        return names["normalize"](unit(x))
    images = types.SimpleNamespace(float=lambda: x.astype(np.float64))
    return names["normalize_stored"](images)


def timm(text: str, x: Array, max_value: int | None = None) -> Any:
    return normalize(**executed(text)["data_config"])(unit(x))


def fastai(text: str, x: Array, max_value: int | None = None) -> Any:
    stand_in = types.SimpleNamespace(from_stats=lambda mean, std: normalize(mean, std))
    return executed(text, fastai__vision__all={"Normalize": stand_in})["normalize"](unit(x))


def keras(text: str, x: Array, max_value: int | None = None) -> Any:
    def stand_in(axis: int, mean: Any, variance: Any) -> Callable[[Array], Array]:
        return lambda image: (image - np.array(mean)) / np.maximum(np.sqrt(variance), 1e-7)

    layers = types.SimpleNamespace(Normalization=stand_in)
    return executed(text, keras={"layers": layers})["normalize"](x)


def keras_rescaling(text: str, x: Array, max_value: int | None = None) -> Any:
    layers = types.SimpleNamespace(
        Rescaling=lambda scale, offset: lambda image: image * np.array(scale) + np.array(offset)
    )
    return executed(text, keras={"layers": layers})["normalize"](x)


def huggingface(text: str, x: Array, max_value: int | None = None) -> Any:
    config = json.loads(text)
    assert config["do_normalize"] and (config["do_rescale"] or config["rescale_factor"] == 1)
    return normalize(config["image_mean"], config["image_std"])(x * config["rescale_factor"])


def opencv(text: str, x: Array, max_value: int | None = None) -> Any:
    names = executed(text)
    turned = (x[:, :, ::-1] - np.array(names["mean"])) * np.array(names["scalefactor"])
    return turned[:, :, ::-1]


def mmcv(text: str, x: Array, max_value: int | None = None) -> Any:
    config = executed(text)["img_norm_cfg"]
    loaded = x[:, :, ::-1]
    return normalize(config["mean"], config["std"])(loaded[:, :, ::-1] if config["to_rgb"] else loaded)


def dali(text: str, x: Array, max_value: int | None = None) -> Any:
    return normalize(**executed(text)["normalize"])(x)


def onnx(text: str, x: Array, max_value: int | None = None) -> Any:
    names = executed(text)
    kernel = np.random.default_rng(0).normal(size=(5, x.shape[2], 1, 1))
    bias = np.arange(5.0)
    weight, shifted = names["fold"](kernel, bias)
    folded = np.einsum("hwc,oc->hwo", x.astype(float), weight[:, :, 0, 0]) + shifted
    straight = np.einsum("hwc,oc->hwo", x * names["scale"] + names["bias"], kernel[:, :, 0, 0]) + bias
    np.testing.assert_allclose(folded, straight, rtol=1e-12, atol=1e-12)
    return x * names["scale"] + names["bias"]


def kaldi(text: str, x: Array, max_value: int | None = None) -> Any:
    sums, squares = (np.array(row.split(), float) for row in text.strip().strip("[]").strip().split("\n"))
    mean = sums[:-1] / sums[-1]
    variance = squares[:-1] / sums[-1] - mean**2
    assert squares[-1] == 0
    return normalize(mean, np.sqrt(variance))(unit(x, max_value))


def csv(text: str, x: Array, max_value: int | None = None) -> Any:
    rows = list(csv_module.DictReader(io.StringIO(text)))
    return normalize([float(r["mean"]) for r in rows], [float(r["std"]) for r in rows])(unit(x, max_value))


def mapping(read: Callable[[str], dict[str, Any]]) -> Evaluate:
    return lambda text, x, max_value=None: normalize(read(text)["mean"], read(text)["std"])(unit(x, max_value))


def env(text: str, x: Array, max_value: int | None = None) -> Any:
    values = dict(word.split("=", 1) for word in shlex.split(text, comments=True))
    return normalize(*([float(v) for v in values[f"DATASET_{k}"].split()] for k in ("MEAN", "STD")))(unit(x, max_value))


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
