"""`check` names convention, range, order and mistake, and never names a wrong one with confidence."""

import itertools
import json
import random
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli import stats
from normcli.cli.numbers import join_rows
from normcli.constants.identify import FAMILIES, CheckResult, check, sampling_error
from normcli.constants.parse_config import Number, number
from normcli.constants.presets import PRESETS
from normcli.errors import UsageError
from normcli.summary import Summary
from normcli.summary.remarks import CONVENTIONS
from tests.support.command import Run


def written(values: Sequence[float], digits: int) -> list[Number]:
    """Numbers as somebody would write them down: so many decimals."""
    return [number(f"{value:.{digits}f}") for value in values]


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """A colourful set of 40 images of several sizes and contrasts: its five conventions are apart."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(7)
    for i in range(40):
        center, spread = rng.uniform(40, 200, 3) * (1, 0.8, 0.6), rng.uniform(8, 60)
        size = (int(rng.integers(3, 9)), int(rng.integers(3, 9)), 3)
        pixels = np.clip(rng.normal(center, spread, size), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return stats(folder)


def numbers_of(summary: Summary, convention: str) -> tuple[list[float], list[float]]:
    found = summary.conventions[convention]
    mean, std = found["mean"], found["std"]
    assert mean is not None and std is not None
    return mean, std


def named_right(found: CheckResult, convention: str, words: str, order: str) -> bool:
    return found.verdict == "match" and convention in found.conventions and (found.range, found.order) == (words, order)


def cases(count: int) -> list[tuple[str, str, float, str, int, bool]]:
    rng = random.Random(3)
    every = list(
        itertools.product(CONVENTIONS, [("0-1", 1.0), ("0-255", 255.0)], ["RGB", "BGR"], [3, 4], [True, False])
    )
    return [(c, r, f, o, d, early) for c, (r, f), o, d, early in (rng.choice(every) for _ in range(count))]


def test_200_generated_cases_are_named_right(summary: Summary) -> None:
    right, wrong = 0, []
    for convention, words, factor, order, digits, early in cases(200):
        step = 1 if order == "RGB" else -1
        mean, std = (list(row[::step]) for row in numbers_of(summary, convention))
        if early:  # rounded in 0-1, then multiplied: 123.675 is .485 * 255
            given = [[number(f"{round(v, digits) * factor:.10g}") for v in row] for row in (mean, std)]
        else:
            given = [written([v * factor for v in row], digits) for row in (mean, std)]
        found = check(summary, *given)
        if named_right(found, convention, words, order):
            right += 1
            # whatever else is named rounds to the same digits
            for other in found.conventions:
                for row, digits_given in zip(numbers_of(summary, other), given, strict=True):
                    for v, g in zip(row[::step], digits_given, strict=True):
                        assert abs(v * factor - g.value) <= max(g.unit, factor * 10.0**-digits) * 0.51
        elif found.verdict in ("match", "close"):
            wrong.append((convention, words, order, digits, found))
    assert right >= 196
    assert wrong == []


def test_200_moved_cases_are_never_confidently_wrong(summary: Summary) -> None:
    """Constants of "another split": moved by up to 1%. Uncertain is allowed, a wrong name is not."""
    rng = random.Random(5)
    named = 0
    for convention, words, factor, order, _, _ in cases(200):
        step = 1 if order == "RGB" else -1
        mean, std = numbers_of(summary, convention)
        move = rng.uniform(-0.01, 0.01)
        given = [written([v * factor * (1 + move) for v in row[::step]], 4) for row in (mean, std)]
        found = check(summary, *given)
        assert found.fits and found.range == words and order in found.order
        assert convention in found.conventions
        named += found.verdict != "uncertain"
        if found.verdict != "uncertain":
            assert {FAMILIES[c] for c in found.conventions} == {FAMILIES[convention]}
    assert named >= 50  # and it does not hide behind "uncertain"


def test_constants_of_other_images_do_not_match(summary: Summary) -> None:
    rng = random.Random(11)
    for _ in range(100):
        mean = [rng.uniform(0, 0.15) for _ in range(3)]
        assert check(summary, written(mean, 4), written([0.05, 0.06, 0.05], 4)).verdict == "none"


MISTAKES: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "exchanged": lambda m, s: (s, m),
    "variance": lambda m, s: (m, [v * v for v in s]),
    "mean is in 0-255, std in 0-1": lambda m, s: ([255 * v for v in m], s),
    "mean is in 0-1, std in 0-255": lambda m, s: (m, [255 * v for v in s]),
    "1/std": lambda m, s: (m, [1 / v for v in s]),
    "mean is in the order RGB, std in BGR": lambda m, s: (m, s[::-1]),
    "the mean of channel 2 holds the mean of channel 1": lambda m, s: ([m[0], m[0], m[2]], s),
    "the mean of channel 3 holds the std of channel 3": lambda m, s: ([m[0], m[1], s[2]], s),
    "the std of channel 3 holds the std of channel 1": lambda m, s: (m, [s[0], s[1], s[0]]),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_named(words: str, summary: Summary) -> None:
    mean, std = MISTAKES[words](*numbers_of(summary, "pooled_population"))
    found = check(summary, written(mean, 5), written(std, 5))
    assert found.verdict == "mistake" and words in found.mistake
    assert not found.fits


def test_what_it_does_to_a_normalized_image(summary: Summary) -> None:
    mean, std = written([0.5, 0.4, 0.3], 4), written([0.25, 0.2, 0.3], 4)
    found = check(summary, mean, std)
    m = summary.mean
    assert found.normalized["mean"] == pytest.approx([(m[c] - mean[c].value) / std[c].value for c in range(3)])
    assert found.normalized["std"] == pytest.approx([summary.std[c] / std[c].value for c in range(3)])


def test_a_mean_alone_is_compared(summary: Summary) -> None:
    found = check(summary, written([255 * v for v in summary.mean[::-1]], 3))
    assert (found.verdict, found.range, found.order, found.ratio) == ("match", "0-255", "BGR", None)
    found = check(summary, written([1.01 * v for v in summary.mean], 4))
    assert (found.verdict, found.order) == ("close", "RGB")


def test_statistics_without_per_image_sums_say_so(summary: Summary) -> None:
    pooled = {"pooled_population": summary.conventions["pooled_population"]}
    old = summary.replace(conventions=pooled)
    found = check(old, written(summary.mean, 4), written(summary.std, 4))
    assert found.conventions == ["pooled_population"]
    assert any("contain no pooled sample, mean of image stds" in line for line in found.remarks)
    assert sampling_error(old) == 0


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([0.1], [0.1], "`mean`: 1 value for 3"),
        ([0.1, 0.2, 0.3], [0.1, 0.2], "`std`: 2 values for 3"),
        ([0.1, 0.2, 0.3], [0.1, 0.0, 0.2], r"`std`: must be above 0 .* 0 \(G\)"),
        ([0.1, 0.2, 0.3], [0.1, 0.2, -1.0], r"`std`: must be above 0 .* -1 \(B\)"),
    ],
)
def test_what_cannot_be_is_refused(mean: list[float], std: list[float], words: str, summary: Summary) -> None:
    with pytest.raises(UsageError, match=words):
        check(summary, written(mean, 3), written(std, 3))


def test_a_constant_channel_does_not_break_it(summary: Summary) -> None:
    gray: dict[str, list[float] | None] = {"mean": [0.5] * 3, "std": [0.0] * 3}
    flat = dict.fromkeys(CONVENTIONS, gray)
    still = summary.replace(mean=[0.5] * 3, std=[0.0] * 3, conventions=flat)
    assert check(still, written([0.5] * 3, 3), written([0.2] * 3, 3)).verdict == "none"
    assert check(still, written([0.4] * 3, 3)).distance is None


@pytest.mark.parametrize("text", ["x", "nan", "inf", "1e999", "--1"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a"):
        number(text)


def test_presets_are_sound() -> None:
    for name, preset in PRESETS.items():
        assert len(preset.mean) == len(preset.order)
        assert preset.std is None or len(preset.std) == len(preset.mean)
        assert preset.convention in (*CONVENTIONS, "fixed", "mean only"), name
        assert preset.range in ("0-1", "0-255") and preset.source


def test_numbers_after_mean_and_std_are_joined() -> None:
    assert join_rows(["--mean", ".1", ".2", "--std", "1", "f.json"]) == ["--mean=.1 .2", "--std=1", "f.json"]
    assert join_rows(["--mean"]) == ["--mean"]
    assert join_rows(["--mean", ".1,", ".2", "--std", ".1,.2", "7"]) == ["--mean=.1, .2", "--std=.1,.2", "7"]
    assert join_rows(["--std", ".5", "-0", "-", "-.5"]) == ["--std=.5", "-0", "-", "-.5"]
    assert join_rows(["--mean=.1,.2", "--", "--mean", "1"]) == ["--mean=.1,.2", "--", "--mean", "1"]


@pytest.fixture
def saved(summary: Summary, tmp_path: Path) -> Path:
    summary.save(tmp_path / "stats.json")
    return tmp_path


def test_the_command(saved: Path, run: Run, summary: Summary) -> None:
    mean, std = ([f"{v:.4f}" for v in row] for row in (summary.mean, summary.std))
    done = run("check", "stats.json", "--mean", *mean, "--std", *std)
    assert done.returncode == 0 and done.stdout.startswith(b"match: pooled, 0-1, RGB")
    done = run("check", "--mean", *std, "--std", *mean, "stats.json", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["verdict"] == "mistake"
    done = run("check", "stats.json", "--mean", ",".join(mean), "--std", ",".join(std), "--tolerance", "0")
    assert done.returncode == 0


def test_every_preset_is_recognized_by_its_values(saved: Path, run: Run) -> None:
    done = run("check", "stats.json", "--preset", "imagenet-255", "--json")
    assert json.loads(done.stdout)["preset"] == "imagenet-255"
    done = run("check", "stats.json", "--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".255")
    assert b"imagenet but for one std: 0.255 where it has 0.225" in done.stdout


def test_a_config_is_read(saved: Path, run: Run) -> None:
    config = run("show", "stats.json", "--format", "huggingface").stdout
    (saved / "preprocessor_config.json").write_bytes(config)
    done = run("check", "stats.json", "--config", "preprocessor_config.json")
    assert done.returncode == 0 and done.stdout.startswith(b"match: pooled")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], b"the constants to check"),
        (["--preset", "imagnet"], b"did you mean 'imagenet'"),
        (["--preset", "mnist"], b"mnist: mean: 1 value for 3"),
        (["--std", "1"], b"--std requires --mean"),
        (["--mean", "a"], b"not a number"),
        (["--config", "absent.py"], b"no such file"),
        (["--config", "stats.json", "--preset", "clip"], b"--preset cannot be combined with --config"),
        (["--preset", "clip", "--tolerance", "-1"], b"tolerance"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], words: bytes, saved: Path, run: Run) -> None:
    done = run("check", "stats.json", *arguments)
    assert done.returncode == 2 and done.stdout == b""
    assert words in done.stderr and done.stderr.count(b"\n") == 1


def test_imagenet(shared_data: Path, run: Run, tmp_path: Path) -> None:
    run("stats", shared_data / "imagenet-300", "--resize", 256, "--center-crop", 224, "-o", "s.json", "-q")
    done = run("check", "s.json", "--preset", "imagenet")
    assert done.returncode == 0
    assert done.stdout.startswith(
        b"close to your data (0.069 std off, tolerance 0.1): mean of per-image stds, 0-1, RGB"
    )


def test_mnist(shared_data: Path, run: Run, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(shared_data / "mnist-test.tar") as archive:
        archive.extractall(tmp_path / "mnist", filter="data")
    run("stats", tmp_path / "mnist", "-o", "s.json", "-q")
    done = run("check", "s.json", "--mean", "0.1307", "--std", "0.3081")
    assert done.returncode == 0
    assert done.stdout.startswith(b"close to your data (0.0") and b"): pooled, 0-1, L" in done.stdout


def test_the_advice_says_whether_to_use_them(summary: Summary) -> None:
    pooled = written(summary.mean, 6), written(summary.std, 6)
    assert check(summary, *pooled).advice == "use them"
    per_image = summary.conventions["mean_of_image_stds"]
    mean, std = per_image["mean"], per_image["std"]
    assert mean is not None and std is not None
    assert "only with weights that were trained with them" in check(summary, mean, std).advice
    assert check(summary, pooled[1], pooled[0]).advice.startswith("correct them; for a new model use mean ")
    other = check(summary, [0.9] * 3, [0.5] * 3)
    assert other.verdict == "none" and f"{summary.mean[0]:.4g}" in other.advice


def test_a_folder_or_a_container_is_counted_first(folder: Path, run: Run, tmp_path: Path) -> None:
    summary = stats(folder)
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(folder, "images")
    numbers = [f"{v:.6f}" for v in (*summary.mean, *summary.std)]
    for source in ("images", "images.tar"):
        done = run("check", source, "--mean", *numbers[:3], "--std", *numbers[3:])
        assert done.returncode == 0
        assert re.fullmatch(rf"counted {source}: 12 images, [\d.]+ s, [\d,.]+ images/s\n", done.stderr.decode())
        assert done.stdout.startswith(b"match: pooled") and done.stdout.endswith(b"advice: use them\n")
    by_glob = run("check", "images/cat/*.jpg", "images/dog", "-q", "--preset", "imagenet", "--json")
    both = stats([*sorted((folder / "cat").glob("*.jpg")), folder / "dog"])
    assert " ".join(f"{v:.4g}" for v in both.mean) in json.loads(by_glob.stdout)["advice"]
    assert by_glob.stderr == b""
    (tmp_path / "empty").mkdir()
    assert run("check", "empty", "--preset", "imagenet").returncode == 4


def test_the_python_twin_takes_presets_configs_and_sources(folder: Path, tmp_path: Path) -> None:
    summary = stats(folder)
    row, spread = [f"{v:.4f}" for v in summary.mean], [f"{v:.4f}" for v in summary.std]
    by_text = normcli.check(folder, " ".join(row), ",".join(spread))
    assert (by_text.verdict, by_text.advice) == ("match", "use them")
    assert normcli.check([folder], mean=np.array([float(v) for v in row]), std=" ".join(spread)) == by_text
    assert normcli.check(summary, preset="imagenet").preset == "imagenet"
    (tmp_path / "config.json").write_text(
        json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "a": {"mean": [0.3] * 3, "std": [0.2] * 3}})
    )
    found = normcli.check(summary, config=tmp_path / "config.json")
    assert found.verdict == "none" and any("2 different pairs" in remark for remark in found.remarks)
    assert normcli.check(folder, summary.mean, summary.std, include="*.*", workers=1).fits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "the constants to check are required: `mean` with `std`, `preset` or `config`"),
        ({"mean": [0.5] * 3, "preset": "imagenet"}, "`mean` cannot be combined with `preset`"),
        ({"config": "x.json", "preset": "imagenet"}, "`preset` cannot be combined with `config`"),
        ({"std": [0.5] * 3}, "`std` requires `mean`"),
        ({"preset": "imagnet"}, "did you mean 'imagenet'"),
        ({"mean": "x"}, "`mean`: 'x' is not a number"),
        ({"mean": [None]}, "`mean`: must be numbers"),
        ({"mean": 0.5}, "`mean`: 1 value for 3"),
        ({"config": "absent.json"}, "`config`: cannot read absent.json"),
        ({"preset": "mnist"}, "mnist: mean: 1 value for 3"),
    ],
)
def test_wrong_arguments_of_the_twin(arguments: dict[str, Any], message: str, summary: Summary) -> None:
    with pytest.raises(UsageError, match=message):
        normcli.check(summary, **arguments)


def test_orfeos_std_is_recognized(run: Run, tmp_path: Path) -> None:
    """ComputeImagesStatistics: variances of the images (divisor n-1), weighted by n-1, over N-M; the mean is pooled."""
    rng = np.random.default_rng(4)
    images = [rng.integers(40 * i, 40 * i + 60, size=(6 + 9 * i, 11, 3)).astype(np.uint8) for i in range(4)]
    for at, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{at}.png")
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(float)
    squares = sum(image.reshape(-1, 3).astype(float).var(axis=0, ddof=1) * (image[..., 0].size - 1) for image in images)
    std = np.sqrt(squares / (len(pixels) - len(images)))
    arguments = ["--mean", *map(repr, pixels.mean(axis=0).tolist()), "--std", *map(repr, np.asarray(std).tolist())]
    done = run("check", tmp_path, *arguments)
    assert done.returncode == 0
    assert done.stdout.startswith(b"match: within images, 0-255, RGB (pooled within images)")
