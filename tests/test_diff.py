"""`diff`: zero against itself, W1 and JS against plain twins, and the gate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli import stats
from normcli.constants.compare import diff, jensen_shannon, wasserstein
from normcli.errors import UsageError
from normcli.summary import Summary
from tests.support.command import ROOT, Run, run_here
from tests.support.images import photograph


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Summary, Summary]:
    """A set, and the same set 2% brighter."""
    for name, gain in (("a", 1.0), ("b", 1.02)):
        for seed in range(6):
            pixels = np.clip(np.rint(photograph(40, 50, 3, seed) * gain), 0, 255).astype(np.uint8)
            folder = tmp_path / name / ("even" if seed % 2 else "odd")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{seed}.png")
    return stats(tmp_path / "a", group_by="folder"), stats(tmp_path / "b", group_by="folder")


def test_a_set_against_itself_is_zero(pair: tuple[Summary, Summary]) -> None:
    found = diff(pair[0], pair[0])
    assert found.identical and found.distance == 0 and not found.exceeds(0)
    assert found.shift == [0, 0, 0] and found.ratio == [1, 1, 1]
    assert found.w1 == [0, 0, 0] and found.js == [0, 0, 0]
    assert not (found.counts or found.composition or found.groups or found.settings)


def test_a_brighter_copy(pair: tuple[Summary, Summary]) -> None:
    a, b = pair
    found = diff(a, b)
    assert not found.identical and found.exceeds(0.01) and not found.exceeds(1)
    for c in range(3):
        assert found.shift[c] == pytest.approx((b.mean[c] - a.mean[c]) / a.std[c])
        assert found.ratio[c] == pytest.approx(b.std[c] / a.std[c])
        # every pixel moves up, so the average move is the move of the mean
        assert found.w1[c] == pytest.approx(b.mean[c] - a.mean[c], abs=1e-12)
    assert set(found.groups) == {"even", "odd"}


def test_wasserstein_is_the_average_move_in_rank_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, q = (np.sort(rng.integers(0, 256, 300)) / 255 for _ in range(2))
        counts = (zip(*np.unique(x, return_counts=True), strict=True) for x in (p, q))
        levels = [[(float(v), float(n)) for v, n in pairs] for pairs in counts]
        assert wasserstein(*levels) == pytest.approx(np.abs(p - q).mean(), abs=1e-12)


def test_jensen_shannon_is_the_textbook_formula() -> None:
    rng = np.random.default_rng(1)
    p, q = (rng.integers(0, 50, 256).astype(float) for _ in range(2))
    levels = [[(i / 255, n) for i, n in enumerate(row) if n] for row in (p, q)]
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    want = sum(x[x > 0] @ np.log2(x[x > 0] / m[x > 0]) for x in (p, q)) / 2
    assert jensen_shannon(*levels) == pytest.approx(want)


def test_8_and_16_bits_of_the_same_pixels_are_alike(tmp_path: Path) -> None:
    pixels = photograph(30, 30, 1)[:, :, 0]
    for name, array in (("a", pixels), ("b", pixels.astype(np.uint16) * 257)):
        (tmp_path / name).mkdir()
        Image.fromarray(array).save(tmp_path / name / "x.png")
    found = diff(stats(tmp_path / "a"), stats(tmp_path / "b"))
    assert found.distance == 0 and found.js == [0.0]
    assert found.w1[0] < 1e-12
    assert found.composition["depth:16"] == (0, 1)


def test_what_cannot_be_compared_is_refused(pair: tuple[Summary, Summary]) -> None:
    a = pair[0]
    with pytest.raises(UsageError, match="channels"):
        diff(a, a.replace(channels=["L"], mean=[0.1], std=[0.1]))
    with pytest.raises(UsageError, match="raw units"):
        diff(a, a.replace(max_value=None, range="raw"))


def test_a_constant_channel_that_moved_is_over_every_limit(pair: tuple[Summary, Summary]) -> None:
    flat = pair[0].replace(std=[0.0, 0.0, 0.0])
    assert diff(flat, flat).distance == 0
    assert diff(flat, pair[1]).exceeds(1e9)


@pytest.fixture
def saved(pair: tuple[Summary, Summary], tmp_path: Path) -> Path:
    pair[0].save(tmp_path / "a.json")
    pair[1].save(tmp_path / "b.json")
    return tmp_path


def test_the_gate(saved: Path, run: Run) -> None:
    assert run("diff", "a.json", "a.json", "--max-shift", 0).returncode == 0
    done = run("diff", "a.json", "b.json", "--max-shift", 0.01)
    assert done.returncode == 1 and b"exceeds --max-shift 0.01" in done.stderr
    assert run("diff", "a.json", "b.json", "--max-shift", 0.5).returncode == 0
    done = run("diff", "a.json", "b.json", "--max-shift", 0.01, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["passed"] is False and found["schema"] == "normcli/diff/1"


def test_the_table(saved: Path, run: Run) -> None:
    done = run("diff", "a.json", "b.json")
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout.startswith(b"channel") and b"group" in done.stdout
    done = run("diff", "a.json", ROOT / "sample_data" / "expected-odd.json")
    assert done.returncode in (0, 2)  # floats among the sample images: raw units


def test_sources_are_counted_with_the_settings_of_the_file(tmp_path: Path, pair: tuple[Summary, Summary]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    small = stats(a, resize=8, color="gray", group_by="folder")
    small.save(tmp_path / "a.json")
    other = stats(b, resize=8, color="gray", group_by="folder")
    assert normcli.diff(tmp_path / "a.json", b) == normcli.diff(small, other)
    assert normcli.diff(b, small) == normcli.diff(other, small)
    assert normcli.diff(a, [b / "even", b / "odd"], resize=8, color="gray").channels == ["L"]
    assert set(normcli.diff(small, b, resize=9).settings) == {"resize"}
    seen: list[Summary] = []
    assert normcli.diff(a, a, on_statistics=seen.append).identical and [s.images for s in seen] == [6, 6]


def test_sources_on_the_command_line(pair: tuple[Summary, Summary], run: Run) -> None:
    done = run("diff", "a", "b", "--include", "*.png", "-j", "1", "--max-shift", "1")
    assert done.returncode == 0 and done.stdout.startswith(b"channel")
    assert done.stderr.startswith(b"counted a: 6 images, ") and done.stderr.count(b"\n") == 2
    assert run("diff", "a", "a", "-q").stderr == b""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.json", "absent.json"], b"absent.json: no such file"),
        (["a.json", "b.json", "--max-shift", "-1"], b"max-shift"),
        (["a.json", "b.json", "--max-shift", "nan"], b"max-shift"),
        (["-", "-"], b"only one"),
        (["a.json", "nowhere"], b"nowhere: no such file"),
        (["a.json", "b.json", "--resize", "8"], b"--resize requires a SOURCE"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], words: bytes, saved: Path, run: Run) -> None:
    done = run("diff", *arguments)
    assert done.returncode == 2 and done.stdout == b""
    assert words in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("side", [0, 1])
def test_channels_without_a_valid_pixel_are_named(side: int) -> None:
    """An IndexError; in groups, shifts of NaN, which are not JSON."""
    full = np.random.default_rng(4).normal(0, 1, (8, 9, 3))
    part = np.where(np.arange(3) == 1, np.nan, full)

    def counted(*images: Any) -> Summary:
        counter = normcli.Counter(nan="skip")
        for name, image in zip("ab", images, strict=False):
            counter.add(image, group=name)
        return counter.summary()

    pair = [counted(full), counted(part)]
    with pytest.raises(UsageError, match=f"channel G has no valid pixel in {'BA'[side]}"):
        normcli.diff(pair[side], pair[1 - side])
    pair = [counted(full, full), counted(part, full)]
    found = normcli.diff(pair[side], pair[1 - side])
    assert found.groups["a"].shift == [0.0, None, 0.0] and found.groups["a"].ratio == [1.0, None, 1.0]
    json.dumps(found.to_dict(), allow_nan=False)
    assert normcli.diff(pair[1], pair[1]).distance == 0


def test_a_channel_without_a_valid_pixel_is_shown(tmp_path: Path) -> None:
    counter = normcli.Counter(nan="skip")
    counter.add(np.where(np.arange(3) == 1, np.nan, np.random.default_rng(4).normal(0, 1, (8, 9, 3))))
    counter.summary().save(tmp_path / "a.json")
    done = run_here("show", tmp_path / "a.json", "--plot")
    assert done.code == 0 and "G  mean nan  std nan  peak 0.0% of pixels" in done.out
