"""Images of several depths, and constants of another range: the commands say so."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.errors import UsageError
from tests.support import needs
from tests.support.command import Run
from tests.support.images import photograph


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """The same four images in folders b8, b16, b12 (in 16 bits), f01 and f255, and in 8 and 16 bits in `mixed`."""
    tifffile = needs.module("tifffile")
    for seed in range(4):
        pixels = photograph(20, 24, 3, seed)
        deep = pixels.astype(np.uint16) * 257
        real = pixels.astype(np.float32)
        for name in ("b8", "mixed"):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{seed}.png")
        stored = {"b16": deep, "b12": deep >> 4, "f01": real / 255, "f255": real, "mixed": deep}
        for name, values in stored.items():
            (tmp_path / name).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / name / f"{seed}.tif", values, photometric="rgb")
    return tmp_path


def test_depths_counted_together_are_said(sets: Path, run: Run) -> None:
    done = run("stats", "mixed", "-o", "m.json")
    assert b"note: 8-bit and 16-bit images counted together: uint8 / 255, uint16 / 65535\n" in done.stderr
    assert b"counted together: uint8 / 255, uint16 / 4095\n" in run("stats", "mixed", "--max-value", 4095).stderr
    assert b"counted together" in run("show", "m.json").stderr
    for name in ("b8", "b16", "f01"):
        assert b"counted together" not in run("stats", name, "-o", f"{name}.json").stderr
    both = run("stats", "b8", "f01")
    assert b"note: 8-bit and float images counted together: uint8 / 255, float as stored\n" in both.stderr


def test_float_images_among_integers_are_compared_in_range_0_to_1(sets: Path, run: Run) -> None:
    done = run("stats", "b8", "f01", "-o", "m.json")
    assert done.stdout.startswith(b"8 images; 3,840 pixels; pooled population, range 0-1, RGB\n")
    assert b"note: percentiles of float images are to 8 significant bits\n" in done.stderr, done.stderr
    assert b"raw units" not in done.stderr
    compared = normcli.diff(sets / "m.json", sets / "b8")
    assert compared.distance is not None and compared.distance < 1e-6
    mean, std = (np.array(values) * 255 for values in (compared.mean, compared.std))
    found = normcli.check(sets / "m.json", mean[:, 1].round(2), std[:, 1].round(2))
    assert (found.verdict, found.range) == ("match", "0-255")
    with pytest.raises(UsageError, match="one file is in raw units"):
        normcli.diff(sets / "m.json", sets / "f255")


def test_a_preset_on_another_range_is_said(sets: Path, run: Run) -> None:
    for name, words in (("f255", b"are they of range 0-255?"), ("b12", b"is this 12-bit data? (--max-value 4095)")):
        done = run("apply", name, "-o", f"out-{name}", "--preset", "imagenet")
        assert done.returncode == 0 and words in done.stderr, done.stderr
    for name, option in (("b8", ()), ("b16", ()), ("f01", ()), ("b12", ("--max-value", 4095))):
        done = run("apply", name, "-o", f"in-{name}", "--preset", "imagenet", *option)
        assert done.returncode == 0 and b"note" not in done.stderr, done.stderr


def test_check_says_that_the_std_is_far_from_1(sets: Path, run: Run) -> None:
    run("stats", "f255", "-o", "f.json")
    words = b"note: normalized so, the std is 276 to 284, not 1: these images are in raw units, up to 248\n"
    assert words in run("check", "f.json", "--preset", "imagenet").stdout
    run("stats", "b8", "-o", "b.json")
    far = run("check", "b.json", "--mean", 0.5, 0.5, 0.5, "--std", 0.1, 0.1, 0.1).stdout
    assert b"the std is 2.43 to 2.55, not 1: these images are in range 0-1, up to 0.9725\n" in far
    assert b"not 1:" not in run("check", "b.json", "--preset", "imagenet").stdout


def test_diff_says_that_settings_or_units_differ(sets: Path, run: Run) -> None:
    for name, options in (("b8", ()), ("f01", ()), ("f255", ())):
        assert run("stats", name, "-o", f"{name}.json", *options).returncode == 0
    run("stats", "b8", "--resize", 10, "-o", "r.json")
    line = b"note: A and B were counted with different settings, which also cause differences\n"
    assert line in run("diff", "b8.json", "r.json").stdout
    same = run("diff", "b8.json", "b8.json").stdout
    assert line not in same and b"in every channel" not in same
    up, down = run("diff", "f01.json", "f255.json").stdout, run("diff", "f255.json", "f01.json").stdout
    assert b"note: B is 255 times A in every channel: the same range in other units?\n" in up
    assert b"note: B is 1/255 of A in every channel: the same range in other units?\n" in down
