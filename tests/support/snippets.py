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
from xml.etree import ElementTree

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


def lerobot(text: str, x: Array, max_value: int | None = None) -> Any:
    """Normalize images (C,H,W) in 0-1 by entries (C,1,1), as LeRobot's MEAN_STD does but for its 1e-8."""
    entry = {name: np.array(row) for name, row in json.loads(text)["observation.image"].items()}
    planes = unit(x, max_value).transpose(2, 0, 1)
    assert {entry[name].shape for name in entry} == {(x.shape[2], 1, 1), (1,)}
    assert (entry["min"] <= entry["q01"]).all() and (entry["q99"] <= entry["max"]).all()
    return ((planes - entry["mean"]) / entry["std"]).transpose(1, 2, 0)


def openpi(text: str, x: Array, max_value: int | None = None) -> Any:
    entry = json.loads(text)["norm_stats"]["image"]
    assert sorted(entry) == ["mean", "q01", "q99", "std"]
    return normalize(entry["mean"], entry["std"])(unit(x, max_value))


def nnunet(text: str, x: Array, max_value: int | None = None) -> Any:
    """Normalize as CTNormalization does but for its clipping, with the entry of each channel."""
    channels = json.loads(text)["foreground_intensity_properties_per_channel"]
    entries = [channels[str(c)] for c in range(x.shape[2])]
    for entry in entries:
        order = [entry[name] for name in ("min", "percentile_00_5", "median", "percentile_99_5", "max")]
        assert order == sorted(order)
    return normalize([entry["mean"] for entry in entries], [entry["std"] for entry in entries])(x)


def omero(text: str, x: Array, max_value: int | None = None) -> Any:
    attributes = json.loads(text)
    for channel in attributes["omero"]["channels"]:
        window = channel["window"]
        assert window["min"] <= window["start"] <= window["end"] <= window["max"]
    return normalize(attributes["normcli"]["mean"], attributes["normcli"]["std"])(x)


def bioimageio(text: str, x: Array, max_value: int | None = None) -> Any:
    out = x.astype(float)
    for step in yaml.safe_load(text)["preprocessing"]:
        options = step["kwargs"]
        if step["id"] == "scale_linear":
            out = out * options["gain"] + options["offset"]
        elif step["id"] == "fixed_zero_mean_unit_variance":
            out = normalize(options["mean"], options["std"])(out)
        else:
            assert step == {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    return out


def terratorch(text: str, x: Array, max_value: int | None = None) -> Any:
    options = yaml.safe_load(text)["data"]["init_args"]
    assert options["dataset_bands"] == options["output_bands"] and len(options["output_bands"]) == x.shape[2]
    return normalize(options["means"], options["stds"])(x * options["constant_scale"])


def torchgeo(text: str, x: Array, max_value: int | None = None) -> Any:
    names = executed(
        text,
        torch={"tensor": np.array},
        kornia__augmentation={"Normalize": lambda mean, std: normalize(mean, std)},
    )
    assert list(names["MEAN"]) == list(names["STD"]) == names["bands"]
    return names["normalize"](x)


def stac(text: str, x: Array, max_value: int | None = None) -> Any:
    (asset,) = json.loads(text)["assets"].values()
    bands = [band["statistics"] for band in asset["raster:bands"]]
    return normalize([band["mean"] for band in bands], [band["stddev"] for band in bands])(x)


def gdal(text: str, x: Array, max_value: int | None = None) -> Any:
    bands = [
        {item.attrib["key"]: float(item.text or "") for item in band.iter("MDI")}
        for band in ElementTree.fromstring(text).iter("PAMRasterBand")
    ]
    return normalize([b["STATISTICS_MEAN"] for b in bands], [b["STATISTICS_STDDEV"] for b in bands])(x)


def markdown(text: str, x: Array, max_value: int | None = None) -> Any:
    rows = [line.strip("| ").split(" | ") for line in text.split("\n") if line.startswith("|")]
    copied = yaml.safe_load(text.partition("```yaml")[2].partition("```")[0])
    assert [float(row[1]) for row in rows[2:]] == copied["mean"] and [float(row[2]) for row in rows[2:]] == copied[
        "std"
    ]
    return normalize(copied["mean"], copied["std"])(unit(x, max_value))


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
    "lerobot": lerobot,
    "openpi": openpi,
    "nnunet": nnunet,
    "omero": omero,
    "bioimageio": bioimageio,
    "terratorch": terratorch,
    "torchgeo": torchgeo,
    "stac": stac,
    "gdal": gdal,
    "markdown": markdown,
}
