"""Every dialect is executed or parsed, and its arithmetic on an image is ours within one float32 rounding."""

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normcli import stats, transform
from normcli.constants import exporters
from normcli.constants.parse_config import read_constants
from normcli.errors import StatisticsFileError, UsageError
from normcli.summary import Summary
from normcli.summary.remarks import CONVENTIONS
from normcli.tally import Tally
from tests.support.command import ROOT, Run
from tests.support.images import photograph
from tests.support.snippets import EVALUATED, unit

Array = np.ndarray[Any, Any]


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


def assert_one_rounding(got: Array, want: Array) -> None:
    """Assert that values are equal as float32, or neighbors: one rounding of float64 to float32 differs by no more."""
    got32, want32 = got.astype(np.float32), want.astype(np.float32)
    assert (np.abs(got32.astype(float) - want32.astype(float)) <= np.spacing(np.abs(want32)).astype(float)).all()


# their loaders convert every image to 8 bits
EIGHT_BITS = ("timm", "fastai", "lerobot")
# formats in which mean and std are of the stored values
STORED = ("mmcv", "dali", "nnunet", "omero", "terratorch", "torchgeo", "stac", "gdal")
# those that describe the data: a constant channel is nothing to divide by there
DESCRIBE = ("csv", "yaml", "toml", "env", "lerobot", "openpi", "nnunet", "omero", "stac", "gdal", "markdown")


def test_every_dialect_has_a_row() -> None:
    assert set(EVALUATED) == set(exporters.EXPORTERS)


def test_the_comparison_sees_a_wrong_answer() -> None:
    with pytest.raises(AssertionError):
        assert_one_rounding(np.array([1.0 + 3e-7]), np.array([1.0]))


@pytest.mark.parametrize("convention", ["pooled_population", "mean_of_image_stds"])
@pytest.mark.parametrize("name", exporters.EXPORTERS)
def test_its_arithmetic_is_ours(name: str, convention: str, dataset: tuple[Summary, Array]) -> None:
    summary, image = dataset
    if name in EIGHT_BITS and image.dtype != np.uint8:
        with pytest.raises(UsageError, match="converts images to 8 bits"):
            exporters.export(summary, name, convention)
        return
    said = summary.conventions[convention]
    want = (unit(image) - np.array(said["mean"])) / np.array(said["std"])
    got = EVALUATED[name](exporters.export(summary, name, convention), image)
    if image.dtype != np.uint8 and name == "torchvision":  # its snippet gives float32 tensors, as ToTensor does
        np.testing.assert_allclose(got, want, rtol=0, atol=4e-6)
        return
    assert_one_rounding(got, want)
    applied = transform("contrast", stats=summary, convention=convention, output_layout="hwc", color="auto")(image)
    assert_one_rounding(got, applied)  # `apply --scheme contrast`


@pytest.mark.parametrize("name", exporters.EXPORTERS)
def test_it_states_the_convention(name: str, dataset: tuple[Summary, Array]) -> None:
    if name in EIGHT_BITS and dataset[1].dtype != np.uint8:
        return
    text = exporters.export(dataset[0], name, "root_mean_image_variance")
    text += exporters.format_note(dataset[0], name, "root_mean_image_variance") or ""
    assert "root mean image variance" in text.replace("_", " ")


# csv and kaldi are tables, the others say a scale or a variance in place of the std
NOT_READ = {"csv", "kaldi", "onnx", "keras", "keras-rescaling", "opencv"}


@pytest.mark.parametrize("name", sorted(set(exporters.EXPORTERS) - NOT_READ))
def test_exports_are_read_again_by_check(name: str, dataset: tuple[Summary, Array]) -> None:
    """`check --config` understands every output of `show --format`."""
    summary, image = dataset
    if name in EIGHT_BITS and image.dtype != np.uint8:
        return
    (found,) = read_constants(exporters.export(summary, name), name)
    factor = summary.max_value if name in STORED else 1
    assert found.std is not None and factor is not None
    assert [n.value for n in found.mean] == [m * factor for m in summary.mean]
    assert [n.value for n in found.std] == [s * factor for s in summary.std]


def counted(*images: Array, max_value: int | None = None, **settings: Any) -> Summary:
    tally = Tally()
    for image in images:
        tally.count(image)
    return Summary.of(tally, {"color": "auto", "alpha": "drop", "max_value": max_value, **settings}, {})


COLOR = photograph(12, 14, 3, 5)
DEEP = COLOR.astype(np.uint16) * 257 ^ 5
# image, `max_value`, and the stored value that maps to 1.0
DEPTHS: dict[str, tuple[Array, int | None, int | None]] = {
    "8-bit": (COLOR, None, 255),
    "8-bit, of no effect": (COLOR, 4095, 255),
    "16-bit": (DEEP, None, 65535),
    "12-bit": (DEEP >> 4, 4095, 4095),
    "float, raw": (COLOR.astype(np.float32) * np.float32(1.5), None, None),
    "float": (COLOR.astype(np.float32) / 255, 1, 1),
    "float, 400": (COLOR.astype(np.float32) * np.float32(1.5), 400, 400),
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", exporters.EXPORTERS)
def test_every_depth_is_scaled_or_rejected(name: str, depth: str) -> None:
    image, max_value, divisor = DEPTHS[depth]
    summary = counted(image, max_value=max_value)
    if name in EIGHT_BITS and image.dtype != np.uint8:
        with pytest.raises(UsageError, match=r"converts images to 8 bits.*use --format torchvision"):
            exporters.export(summary, name)
        return
    stored = image.astype(np.float64) if image.dtype == np.float32 else image
    want = (unit(stored, divisor) - np.array(summary.mean)) / np.array(summary.std)
    text = exporters.export(summary, name)
    got = EVALUATED[name](text, stored, divisor)
    rounding = 1e-5 if "import torch\n" in text else 0  # a tensor is float32
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=rounding + 1e-9)
    if name != "csv":
        stated = text + (exporters.format_note(summary, name) or "")
        known = ("range 0-1", "range 0-255") if image.dtype == np.uint8 else ("raw units",)
        assert any(words in stated for words in (known if divisor in (None, 255) else (f"/ {divisor}", f"0-{divisor}")))
    if image.dtype != np.uint8:
        assert "image_dataset_from_directory" not in text and "cv2.imread returns" not in text


MIXED = {
    "8- and 16-bit": ((COLOR, DEEP), None, (255, 65535)),
    "8- and 12-bit": ((COLOR, DEEP >> 4), 4095, (255, 4095)),
    "8-bit and raw float": ((COLOR, COLOR.astype(np.float32) / 100), None, (255, 1)),
    "16-bit and float": ((DEEP, DEEP.astype(np.float32) / 65535), None, (65535, 1)),
}


@pytest.mark.parametrize("depth", MIXED)
@pytest.mark.parametrize("name", exporters.EXPORTERS)
def test_mixed_depths_are_scaled_one_by_one_or_rejected(name: str, depth: str) -> None:
    images, max_value, divisors = MIXED[depth]
    summary = counted(*images, max_value=max_value)
    if name not in ("csv", "yaml", "toml", "env", "torchvision", "kaldi", "openpi", "markdown"):
        with pytest.raises(UsageError, match=r"converts images to 8 bits|have different stored ranges"):
            exporters.export(summary, name)
        return
    text = exporters.export(summary, name)
    for image, divisor in zip(images, divisors, strict=True):
        want = (unit(image, divisor) - np.array(summary.mean)) / np.array(summary.std)
        np.testing.assert_allclose(EVALUATED[name](text, image, divisor), want, rtol=1e-9, atol=1e-5)
    if name == "yaml":
        assert 'range: "0-1"' in text and f"uint8 / {divisors[0]}" in text.replace("uint16", "uint8")


def test_an_image_of_another_depth_is_an_error_of_the_snippet() -> None:
    """Pillow opens 16-bit color as 8 bits: divided by 65535 it would be black."""
    with pytest.raises(KeyError, match="uint8"):
        EVALUATED["torchvision"](exporters.export(counted(DEEP), "torchvision"), COLOR)


def test_the_16_bit_snippet_reads_a_file_of_pillow(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(DEEP[:, :, 0]).save(tmp_path / "deep.png")
    summary = stats(tmp_path)
    with Image.open(tmp_path / "deep.png") as picture:
        got = EVALUATED["torchvision"](exporters.export(summary, "torchvision"), picture)
    want = (DEEP[:, :, :1] / 65535 - summary.mean[0]) / summary.std[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_image_processors_do_not_resize_deep_images() -> None:
    with pytest.raises(UsageError, match=r"resize 8-bit images only.*16-bit"):
        exporters.export(counted(DEEP, resize=8), "huggingface")
    config = json.loads(exporters.export(counted(DEEP), "huggingface"))
    assert config["do_convert_rgb"] is False and "NumPy arrays of stored values, range 0-65535" in config["_comment"]


def test_a_constant_channel_is_refused_where_it_would_divide(dataset: tuple[Summary, Array]) -> None:
    summary = dataset[0].replace(std=[0.0] * len(dataset[0].std))
    for name in exporters.EXPORTERS:
        if name in EIGHT_BITS and dataset[1].dtype != np.uint8:
            continue
        if name in DESCRIBE:
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
    summary = dataset[0].replace(conventions=only)
    assert exporters.export(summary, "toml")
    with pytest.raises(UsageError, match=r"^.*contain no mean of image stds.*\Z"):
        exporters.export(summary, "toml", "mean_of_image_stds")


def test_show_and_stats_print_it(run: Run, tmp_path: Path) -> None:
    done = run("stats", ROOT / "sample_data" / "odd" / "digits", "-o", "s.json", "--format", "toml")
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
    with pytest.raises(UsageError, match=r"^.*no mean and std found.*\Z"):
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

    with pytest.raises(StatisticsFileError, match=r"^.*damaged.*\Z"):
        distribution(dataset[0].replace(state={"buckets": [{"dtype": "uint8"}]}))


@pytest.mark.parametrize("name", ["table", "json"])
def test_formats_of_the_commands_are_not_those_of_python(name: str) -> None:
    with pytest.raises(UsageError, match=f"format '{name}' is none of code or config .`to_json`"):
        Summary.load(ROOT / "sample_data" / "expected.json").format(name)
