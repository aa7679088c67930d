"""Images as the model sees them: pixels of torchvision v2, timm and transformers, run for real, against ours.

On a few photographs of odd sizes, and, as a campaign, on the 300 of ../shared with mean and std of the result.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli import images
from normcli.constants import exporters
from normcli.constants.like import resolve
from normcli.images.geometry import place
from normcli.options.shared import DecodeOptions
from normcli.options.stats import StatsOptions
from tests.support import needs
from tests.support.images import encoded, photograph
from tests.support.libraries import LIBRARIES, Picture

Array = np.ndarray[Any, Any]
Look = Callable[[Image.Image], Array]

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about each other

# name of a case -> options, and what the library makes of a Pillow image: (H,W,C) in levels
TORCHVISION: dict[str, dict[str, Any]] = {
    "256, 224": {"resize": 256, "center_crop": 224},
    "bicubic, 232, odd": {"resize": 232, "center_crop": 225, "interpolation": "bicubic"},
    "lanczos": {"resize": 100, "interpolation": "lanczos"},
    "nearest": {"resize": 130, "interpolation": "nearest"},
    "squash": {"resize": "160x200"},
    "longest": {"resize": "longest:300"},
    "both bounds": {"resize": "200,longest:250"},
    "padded crop": {"resize": 150, "center_crop": "201x180", "pad": 0},
    "enlarged": {"resize": 700},
}
TIMM: dict[str, dict[str, Any]] = {
    f"{mode} {share}": {"crop_pct": share, "interpolation": "bicubic", "crop_mode": mode}
    for mode in ("center", "squash", "border")
    for share in (0.875, 0.9, 0.95, 1.0)
}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("CLIP", "ViT", "Siglip", "DeiT", "Levit", "PoolFormer", "MobileNetV2", "Bit")},
    "ConvNext": {"size": {"shortest_edge": 224}},
    "Sam": {"size": {"longest_edge": 256}, "pad_size": {"height": 256, "width": 256}},
    "Detr": {"size": {"shortest_edge": 200, "longest_edge": 260}, "do_pad": False},
}


def compose(options: dict[str, Any]) -> Any:
    needs.torchvision()
    v2 = needs.module("torchvision.transforms.v2")
    resize, crop = options["resize"], options.get("center_crop")
    filters = v2.InterpolationMode
    mode = getattr(filters, str(options.get("interpolation", "bilinear")).upper())
    shorter, _, longest = str(resize).partition("longest:")
    size: Any = resize
    if "x" in str(resize):
        size = tuple(map(int, resize.split("x")))
    elif longest:
        size = int(shorter[:-1]) if shorter else None
    steps = [v2.Resize(size, interpolation=mode, max_size=int(longest) if longest else None, antialias=True)]
    if crop is not None:
        steps.append(v2.CenterCrop(crop if isinstance(crop, int) else tuple(map(int, crop.split("x")))))
    return v2.Compose(steps)


def of_torchvision(name: str, tmp_path: Path) -> tuple[DecodeOptions, Look]:
    transform = compose(TORCHVISION[name])
    return StatsOptions(**TORCHVISION[name]).part(DecodeOptions), lambda image: np.asarray(transform(image))


def of_tensors(name: str, tmp_path: Path) -> tuple[DecodeOptions, Look]:
    torch = needs.module("torch")
    options, _ = of_torchvision(name, tmp_path)
    transform = compose(TORCHVISION[name])

    def look(image: Image.Image) -> Array:
        tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        return np.asarray(transform(tensor)).transpose(1, 2, 0)

    return options, look


def like(tmp_path: Path, text: str) -> DecodeOptions:
    (tmp_path / "like").write_text(text)
    return resolve(StatsOptions(like=tmp_path / "like")).part(DecodeOptions)


def of_timm(name: str, tmp_path: Path) -> tuple[DecodeOptions, Look]:
    needs.torchvision()
    config = {"input_size": (3, 224, 224), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), **TIMM[name]}
    transform = needs.module("timm.data").create_transform(**config)
    steps = [step for step in transform.transforms if type(step).__name__ not in ("MaybeToTensor", "Normalize")]

    def look(image: Image.Image) -> Array:
        for step in steps:
            image = step(image)
        return np.asarray(image)

    return like(tmp_path, json.dumps({"architecture": "a", "pretrained_cfg": config})), look


def of_transformers(name: str, tmp_path: Path, backend: str = "Pil") -> tuple[DecodeOptions, Look]:
    needs.torchvision()
    kind = getattr(needs.module("transformers"), f"{name}ImageProcessor{backend}")
    processor = kind(**TRANSFORMERS[name])
    config = json.dumps(processor.to_dict(), default=str)
    plain = kind(**TRANSFORMERS[name], do_rescale=False, do_normalize=False)

    def look(image: Image.Image) -> Array:
        return np.moveaxis(np.rint(plain(image, return_tensors="np")["pixel_values"][0]), 0, -1)

    return like(tmp_path, config), look


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    """Photographs of odd sides, upright and wide, and of few colors."""
    shapes = [(375, 500), (501, 333), (240, 241), (97, 640), (213, 214)]
    return [encoded(photograph(height, width, 3, seed)) for seed, (height, width) in enumerate(shapes)]


def largest(photographs: list[bytes], options: DecodeOptions, look: Look) -> int:
    """Return the largest difference in levels."""
    worst = 0
    for data in photographs:
        ours = images.decode(data, options).pixels.astype(int)
        theirs = look(Image.open(io.BytesIO(data)).convert("RGB"))
        assert ours.shape == theirs.shape
        worst = max(worst, int(np.abs(ours - theirs).max()))
    return worst


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_on_pillow_images_is_equal(name: str, photographs: list[bytes], tmp_path: Path) -> None:
    assert largest(photographs, *of_torchvision(name, tmp_path)) == 0


@pytest.mark.parametrize("name", ["256, 224", "bicubic, 232, odd", "squash"])
def test_torchvision_on_tensors_is_two_levels_off_at_most(name: str, photographs: list[bytes], tmp_path: Path) -> None:
    assert largest(photographs, *of_tensors(name, tmp_path)) <= 2


@pytest.mark.parametrize("name", TIMM)
def test_timm_is_equal(name: str, photographs: list[bytes], tmp_path: Path) -> None:
    assert largest(photographs, *of_timm(name, tmp_path)) == 0


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_on_pillow_images_is_equal(name: str, photographs: list[bytes], tmp_path: Path) -> None:
    assert largest(photographs, *of_transformers(name, tmp_path)) == 0


@pytest.mark.parametrize("name", ["CLIP", "ViT"])
def test_transformers_on_tensors_is_two_levels_off_at_most(name: str, photographs: list[bytes], tmp_path: Path) -> None:
    assert largest(photographs, *of_transformers(name, tmp_path, "")) <= 2


def test_the_presets_of_torchvision_print_what_they_do(photographs: list[bytes], tmp_path: Path) -> None:
    needs.torchvision()
    models = needs.module("torchvision.models")
    functional = needs.module("torchvision.transforms.functional")
    for weights in (models.ResNet50_Weights.IMAGENET1K_V2, models.ViT_L_16_Weights.IMAGENET1K_SWAG_LINEAR_V1):
        preset = weights.transforms()

        def look(image: Image.Image, preset: Any = preset) -> Array:
            image = functional.resize(image, preset.resize_size, preset.interpolation, antialias=preset.antialias)
            return np.asarray(functional.center_crop(image, preset.crop_size))

        assert largest(photographs, like(tmp_path, repr(preset)), look) == 0


def test_the_comparison_sees_a_shift(photographs: list[bytes], tmp_path: Path) -> None:
    options, look = of_torchvision("256, 224", tmp_path)
    assert largest(photographs, options, lambda image: np.roll(look(image), 1, axis=1)) > 1


def test_sides_are_those_of_transformers_and_ultralytics() -> None:
    needs.torchvision()
    bounded = needs.module("transformers.image_transforms").get_size_with_aspect_ratio
    options = StatsOptions(resize="200,longest:333", like="huggingface").part(DecodeOptions)
    for width in range(20, 900, 7):
        for height in (20, 31, 200, 333, 457, 800):
            assert place(width, height, options).size == bounded((height, width), 200, 333)[::-1]


# geometries -> the exporters whose own transforms have them: all others print a function
EXPORTED: dict[str, dict[str, Any]] = {
    "short and crop": {"resize": 40, "center_crop": 32, "interpolation": "bicubic"},
    "even rest": {"resize": 41, "center_crop": 33},
    "squash": {"resize": "32x32"},
    "squash and crop": {"resize": "40x40", "center_crop": 36, "interpolation": "lanczos"},
    "two sides": {"resize": "24x40"},
    "crop": {"center_crop": "20x30"},
    "padded crop": {"center_crop": "120x30", "pad": 0},
    "longest": {"resize": "longest:40"},
    "bounds": {"resize": "30,longest:40", "interpolation": "nearest"},
    "letterbox": {"resize": "longest:48", "pad": 114, "like": "ultralytics"},
    "box": {"resize": "40x56", "pad": "9,8,7:corner", "interpolation": "bicubic"},
    "border": {"resize": "longest:48", "center_crop": 40, "pad": "124,116,104", "like": "timm"},
    "CLIP": {"resize": 41, "center_crop": 32, "like": "huggingface", "interpolation": "bicubic"},
    "SAM": {"resize": "longest:48", "pad": "0:corner", "like": "huggingface"},
    "DETR": {"resize": "30,longest:40", "like": "huggingface"},
    "mmdet": {"resize": "30,longest:40", "like": "mmcv"},
    "mmyolo": {"resize": "longest:48", "pad": "114", "like": "mmcv"},
}
# tools without a Pillow function, in which a geometry may be missing
OWN = {
    "timm": ("short and crop", "even rest", "squash", "squash and crop", "two sides"),
    "huggingface": ("squash", "squash and crop", "two sides", "CLIP", "DETR"),
}
ONE_LEVEL = {"huggingface": 1.0}  # its processors resize tensors


@pytest.mark.parametrize("name", ["torchvision", "albumentations", "kornia", "keras", "opencv", "fastai", *OWN])
def test_what_an_exporter_prints_gives_what_apply_gives(name: str, tmp_path: Path) -> None:
    for channels in (3, 1):
        folder = tmp_path / f"{channels}"
        folder.mkdir()
        stored = photograph(61, 90, channels, 4)
        (folder / "a.png").write_bytes(encoded(stored))
        for case, options in EXPORTED.items():
            if (name in OWN and case not in OWN[name]) or (channels == 1 and "," in str(options.get("pad"))):
                continue
            summary = normcli.stats(folder, **options)
            normcli.apply(folder, tmp_path / f"{channels} {case}", stats=summary, dtype="float64", **options)
            want = np.load(tmp_path / f"{channels} {case}" / "a.png.npy").transpose(1, 2, 0)
            got = LIBRARIES[name](exporters.export(summary, name), Picture(folder / "a.png", stored))
            assert got.shape == want.shape, case
            tolerance = 4e-6 + ONE_LEVEL.get(name, 0.0) / 255 / min(summary.std) * 1.001
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance, err_msg=f"{case} {channels}")


WITHOUT_COMMENT = ("csv", "kaldi", "lerobot", "openpi")  # formats that have no place for one


def test_a_geometry_that_a_tool_has_not_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photograph(61, 90)))
    summary = normcli.stats(tmp_path / "a.png", resize="longest:48", pad=114, like="ultralytics")
    assert "timm has no such geometry: resize longest:48, pad 114" in exporters.export(summary, "timm")
    config = json.loads(exporters.export(summary, "huggingface"))
    assert config["do_resize"] is config["do_center_crop"] is False
    assert "resize longest:48, pad 114, rounded as ultralytics" in config["_comment"]
    for name in exporters.EXPORTERS:
        text = exporters.export(summary, name)
        assert "longest:48" in text or name in WITHOUT_COMMENT, name


def test_tensors_of_16_bits_are_resized_by_torchvision(tmp_path: Path) -> None:
    needs.torchvision()
    deep = photograph(61, 90, 3, 4).astype(np.uint16) * 257
    np.save(tmp_path / "a.npy", deep[None])
    options: Any = {"resize": 40, "center_crop": 32, "interpolation": "bicubic"}
    summary = normcli.stats(tmp_path / "a.npy", **options)
    normcli.apply(tmp_path / "a.npy", tmp_path / "out", stats=summary, to="stack", **options)
    want = np.load(tmp_path / "out" / "stack.npy")[0].transpose(1, 2, 0)
    got = LIBRARIES["torchvision"](exporters.export(summary, "torchvision"), Picture(tmp_path / "a.npy", deep))
    np.testing.assert_allclose(got, want, rtol=0, atol=1.5 / 65535 / min(summary.std) + 1e-5)


def three_hundred() -> Iterator[tuple[bytes, Image.Image]]:
    for path in sorted(needs.data("imagenet-300").iterdir()):
        data = path.read_bytes()
        yield data, Image.open(io.BytesIO(data)).convert("RGB")


CAMPAIGN: dict[str, tuple[Callable[..., tuple[DecodeOptions, Look]], tuple[str, ...], int]] = {
    "torchvision v2, Pillow, 256 224": (of_torchvision, ("256, 224",), 0),
    "torchvision v2, uint8 tensor, 256 224": (of_tensors, ("256, 224",), 5),
    "torchvision v2, uint8 tensor, bicubic": (of_tensors, ("bicubic, 232, odd",), 5),
    "timm bicubic 0.9 center": (of_timm, ("center 0.9",), 0),
    "timm bicubic 0.9 squash": (of_timm, ("squash 0.9",), 0),
    "timm bicubic 0.9 border": (of_timm, ("border 0.9",), 0),
    "CLIPImageProcessorPil": (of_transformers, ("CLIP",), 0),
    "ViTImageProcessorPil": (of_transformers, ("ViT",), 0),
    "CLIPImageProcessor": (lambda name, path: of_transformers(name, path, ""), ("CLIP",), 5),
    "ViTImageProcessor": (lambda name, path: of_transformers(name, path, ""), ("ViT",), 5),
}


@pytest.mark.campaign
@pytest.mark.parametrize("case", CAMPAIGN)
def test_three_hundred_photographs(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, arguments, levels = CAMPAIGN[case]
    options, look = make(*arguments, tmp_path)
    histograms = np.zeros((2, 3, 256), np.int64)
    worst = different = samples = 0
    for data, image in three_hundred():
        ours = images.decode(data, options).pixels
        pair = np.broadcast_to(ours, (*ours.shape[:2], 3)), look(image).astype(np.uint8)
        difference = np.abs(pair[0].astype(int) - pair[1])
        worst, different = max(worst, int(difference.max())), different + int(np.count_nonzero(difference))
        samples += difference.size
        for side, pixels in enumerate(pair):
            for channel in range(3):
                histograms[side, channel] += np.bincount(pixels[:, :, channel].ravel(), minlength=256)
    level = np.arange(256) / 255
    means = histograms @ level / histograms.sum(axis=2)
    stds = np.sqrt(histograms @ level**2 / histograms.sum(axis=2) - means**2)
    shifts = [float(np.abs(rows[0] - rows[1]).max()) for rows in (means, stds)]
    summary = normcli.stats(
        needs.data("imagenet-300"), **{key: value for key, value in options.as_dict().items() if key != "max_pixels"}
    )
    np.testing.assert_allclose([summary.mean, summary.std], [means[0], stds[0]], rtol=0, atol=1e-12)
    with capsys.disabled():
        share = 100 * different / samples
        print(f"\n{case}: {worst} levels, {share:.3f}% of samples; mean {shifts[0]:.1e}, std {shifts[1]:.1e}")
    assert worst <= levels
    assert max(shifts) <= 1e-6
