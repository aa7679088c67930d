"""The data that the pages below docs name, made in the folder in which their blocks run."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from normcli import images
from normcli.options.shared import DecodeOptions
from normcli.tensor import safetensors, torch_file
from tests.support import needs, robots
from tests.support.command import ROOT
from tests.support.images import encoded, photograph


def prepare(name: str, folder: Path) -> None:
    """Make the data of a page: `photos`, the sample scenes or twelve small images; `sample_data`; and its own."""
    if name == "README.md":
        shutil.copytree(ROOT / "sample_data/scenes", folder / "photos")
    else:
        for number, path in enumerate(PHOTOS):
            pixels = photograph(channels=1 if number == 5 else 3, seed=number)
            save(folder / "photos" / path, (pixels * (0.4 + 0.05 * number)).astype(np.uint8))
    (folder / "sample_data").symlink_to(ROOT / "sample_data")
    if name in OF_PAGES:
        OF_PAGES[name](folder)


PHOTOS = [
    *(f"fruit/{name}" for name in ("01.jpg", "02.jpg", "lemon.png", "plums.jpg")),
    *(f"landscape/{name}" for name in ("dawn.jpg", "winter.jpg", "mist.jpg", "noon.jpg")),
    *(f"street/{name}" for name in ("dusk.jpg", "evening.png", "morning.jpg", "noon.jpg")),
]


def _comparison(folder: Path) -> None:
    for seed, (height, width) in enumerate([(40, 40), (60, 80), (48, 100), (120, 90)]):
        pixels = photograph(height, width, channels=1, seed=seed) * (0.3 + 0.2 * seed)
        save(folder / f"sizes/{seed}.png", pixels.astype(np.uint8))


def _conventions(folder: Path) -> None:
    data = needs.data()
    (folder / "imagenet-300").symlink_to(data / "imagenet-300")
    with tarfile.open(data / "mnist-test.tar") as archive:
        archive.extractall(folder / "mnist-test", filter="data")


def _faq(folder: Path) -> None:
    _microscopy(folder)
    for seed, split in enumerate(("train", "val", "test")):
        save(folder / f"dataset/{split}/cat/1.png", photograph(seed=seed))


def _nodata(folder: Path) -> None:
    """Make a raster with a nodata value that one band has more often, and masks of three labels."""
    tifffile = needs.module("tifffile")
    pixels = photograph(48, 64, seed=3)
    pixels[:5], pixels[5:9, :, 2] = 0, 0
    tifffile.imwrite(folder / "raster.tif", pixels, photometric="rgb", extratags=[(42113, 2, 0, "0", True)])
    for path in sorted((folder / "photos").rglob("*.*")):
        labels = np.zeros(images.decode(path.read_bytes(), DecodeOptions()).pixels.shape[:2], np.uint8)
        labels[: len(labels) // 2], labels[: len(labels) // 4] = 1, 2
        save(folder / "masks" / path.relative_to(folder / "photos").with_suffix(".png"), labels)


def _rasters(folder: Path) -> None:
    """Make a raster of three named bands of reflectances, stored as integers, with nodata and stored statistics."""
    tifffile = needs.module("tifffile")
    pixels = photograph(48, 64, seed=5).astype(np.uint16) * 30
    pixels[:5] = 0
    items = [
        f'<Item name="{name}" sample="{band}" role="{role}">{text}</Item>'
        for band, description in enumerate(("green", "red", "nir"))
        for name, role, text in (
            ("DESCRIPTION", "description", description),
            ("SCALE", "scale", "0.0001"),
            ("OFFSET", "offset", "-0.1"),
        )
    ]
    metadata = "".join(["<GDALMetadata>", *items, "</GDALMetadata>"])
    tags = [(42112, 2, 0, metadata, True), (42113, 2, 0, "0", True)]
    tifffile.imwrite(folder / "scene.tif", pixels, photometric="minisblack", planarconfig="contig", extratags=tags)


def _microscopy(folder: Path) -> None:
    for number in range(3):
        save(folder / f"microscopy/{number}.png", photograph(channels=1, seed=number).astype(np.uint16) * 16)


def _choosing(folder: Path) -> None:
    _faq(folder)
    shutil.copytree(folder / "photos/fruit", folder / "dataset/train/fruit")


def _troubleshooting(folder: Path) -> None:
    shutil.copytree(folder / "photos", folder / "damaged")
    whole = (folder / "damaged/fruit/02.jpg").read_bytes()
    (folder / "damaged/fruit/02.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "damaged/street/noon.jpg").write_bytes(b"")
    for name in ("documents/a.txt", "archives/photos.zip"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("no image")
    save(folder / "mixed/color.png", photograph())
    save(folder / "mixed/gray.png", photograph(channels=1))
    save(folder / "black/a.png", np.zeros((8, 8), np.uint8))
    np.save(folder / "images.npy", np.zeros((4, 5, 6, 7), np.uint8))


def save(path: Path, pixels: "np.ndarray[Any, Any]") -> None:
    """Write an image, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels, "JPEG" if path.suffix == ".jpg" else "PNG"))


def network(seed: int = 0) -> dict[str, Any]:
    """Return the state dict of the network of the pages about tensors."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int, mean: float = 0.0, std: float = 0.2) -> Any:
        return draw.normal(mean, std, shape).astype(np.float32)

    state: dict[str, Any] = {"conv1.weight": normal(16, 3, 3, 3)}
    for name in ("bn1", "bn2"):
        if name == "bn2":
            state |= {"conv2.weight": normal(16, 16, 3, 3, std=0.1), "conv2.bias": normal(16)}
        state |= {f"{name}.weight": normal(16, mean=1), f"{name}.bias": normal(16), f"{name}.running_mean": normal(16)}
        state[f"{name}.running_var"] = draw.uniform(0.5, 2, 16).astype(np.float32)
        state[f"{name}.num_batches_tracked"] = np.array(1000)
    return state | {"fc.weight": normal(4, 16), "fc.bias": normal(4)}


def _fold(folder: Path) -> None:
    torch_file.write(folder / "net.pt", network())
    draw = np.random.default_rng(1)
    shapes = {"ln1.weight": (8,), "ln1.bias": (8,), "ln2.weight": (8,), "ln2.bias": (8,), "fc1.weight": (16, 8)}
    shapes |= {f"{name}.weight": (8, 8) for name in "qkv"}
    block = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.write(folder / "block.safetensors", block)


def _re_estimate(folder: Path) -> None:
    torch_file.write(folder / "net.pt", network())
    (folder / "activations").mkdir()
    for number in range(12):
        batch = np.random.default_rng(number).normal(0.5, 0.7, (8, 16, 16, 16)).astype(np.float32)
        np.save(folder / f"activations/b{number}.npy", batch)


def _port(folder: Path) -> None:
    """Write the outputs of all layers of the network, and of a port whose batch norms have another epsilon."""
    state = network()
    torch_file.write(folder / "net.pt", state)
    images = np.random.default_rng(3).normal(size=(2, 3, 12, 12))
    for name, eps in (("reference.npz", 1e-5), ("port.npz", 1e-3)):
        outputs: dict[str, Any] = {"images": images.astype(np.float32)}
        x = images
        for number in "12":
            patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
            x = np.einsum("ncijkl,ockl->noij", patches, state[f"conv{number}.weight"].astype(np.float64))
            x += state.get(f"conv{number}.bias", np.zeros(16))[:, None, None]
            outputs[f"conv{number}"] = x.astype(np.float32)
            x = outputs[f"conv{number}"].astype(np.float64)
            bn = {key: state[f"bn{number}.{key}"].astype(np.float64)[:, None, None] for key in _KEYS}
            x = (x - bn["running_mean"]) / np.sqrt(bn["running_var"] + eps) * bn["weight"] + bn["bias"]
            outputs[f"bn{number}"] = x.astype(np.float32)
            x = np.maximum(x, 0)
        np.savez(folder / name, **outputs)


_KEYS = ("weight", "bias", "running_mean", "running_var")


def _robot(folder: Path) -> None:
    frames = robots.episodes()
    robots.write(folder / "robot", "v3.0", frames, camera=True)
    (folder / "robot/meta/stats.json").write_text(json.dumps(robots.averaged(frames)))


OF_PAGES: dict[str, Callable[[Path], None]] = {
    "docs/choosing.md": _choosing,
    "docs/comparison.md": _comparison,
    "docs/conventions.md": _conventions,
    "docs/faq.md": _faq,
    "docs/how-to/fold.md": _fold,
    "docs/how-to/lerobot.md": _robot,
    "docs/how-to/nodata.md": _nodata,
    "docs/how-to/port-a-model.md": _port,
    "docs/how-to/openpi.md": _robot,
    "docs/how-to/rasters.md": _rasters,
    "docs/how-to/re-estimate-bn.md": _re_estimate,
    "docs/troubleshooting.md": _troubleshooting,
}
