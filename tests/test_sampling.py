"""Samples: the choice depends on names and seed alone, and the stated intervals hold."""

import json
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import UsageError
from normcli.runs.image_sizes import SizeClasses
from normcli.runs.intervals import Intervals
from normcli.runs.sample import SamplePlan, StoppingRule, checkpoints
from normcli.summary import Summary
from tests.support.command import Run
from tests.support.images import encoded, photograph

Rows = np.ndarray[Any, Any]  # weight, E[x], E[x^2] of every image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(120):
        shade = photograph(10 + i % 7, 12, seed=i) // (1 + i % 3)
        (root / f"{i:03d}.png").write_bytes(encoded(shade))
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "note.txt").write_text("x")
    return root


@pytest.mark.parametrize("options", [{"sample": "40"}, {"sample": "25%"}, {"margin": 0.2}])
def test_the_same_sample_from_every_engine(pictures: Path, options: dict[str, Any]) -> None:
    texts = {
        normcli.stats(pictures, engine=engine, workers=workers, seed=4, **options).to_json()
        for engine, workers in (("serial", 1), ("threads", 1), ("threads", 5), ("processes", 2))
    }
    assert len(texts) == 1
    document = json.loads(texts.pop())
    assert document["sample"]["read"] < document["sample"]["of"] == 121
    assert Summary.from_json(json.dumps(document)).convention_text.startswith("estimate from ")
    assert document["settings"]["sample"]["seed"] == 4


def test_a_number_and_a_share_are_kept_to(pictures: Path) -> None:
    for sample, read in (("40", 40), ("25%", 31), ("4", 4), ("500", 121), ("100%", 121)):
        summary = normcli.stats(pictures, sample=sample)
        assert summary.images + summary.failed == read == (summary.sample or {})["read"]
        assert summary.skipped == 1
    assert normcli.stats(pictures, sample="40", seed=1).mean != normcli.stats(pictures, sample="40", seed=2).mean


def test_all_that_was_read_is_no_estimate(pictures: Path) -> None:
    every = normcli.stats(pictures, margin=1e-6)
    assert every.state == normcli.stats(pictures).state
    assert every.convention_text == "pooled population, range 0-1, RGB"
    assert every.settings == normcli.stats(pictures).settings
    assert (every.sample or {})["mean_interval"] == [[m, m] for m in every.mean]


def test_what_is_wrong_in_listing_is_told_whatever_is_sampled(pictures: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(pictures, "pictures")
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 2])
    for options in ({"sample": "3"}, {"margin": 0.3}):
        summary = normcli.stats(tmp_path / "a.tar", **options)
        assert summary.failures.get("truncated", 0) >= 1


def test_small_passes_over_the_listing_give_the_same_order(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = normcli.stats(pictures, margin=0.15, seed=3).to_json()
    monkeypatch.setattr("normcli.runs.sample._PASS", 7)
    assert normcli.stats(pictures, margin=0.15, seed=3).to_json() == once


@pytest.mark.parametrize(
    "options",
    [
        {"sample": "0"},
        {"sample": "-3"},
        {"sample": "x"},
        {"sample": "0%"},
        {"sample": "101%"},
        {"margin": 0},
        {"margin": -1.0},
        {"sample": "3", "margin": 0.1},
        {"sample": "3", "confidence": 1.0},
        {"sample": "3", "confidence": 99.0},
    ],
)
def test_settings_that_cannot_be(pictures: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        normcli.stats(pictures, **options)


def test_a_merge_of_samples_says_that_it_is_an_estimate(pictures: Path) -> None:
    parts = [normcli.stats(pictures, sample="20", seed=1, shard=f"{i}/2") for i in (1, 2)]
    assert (parts[0] + parts[1]).convention_text.startswith("estimate from samples")
    with pytest.raises(UsageError, match="settings differ: sample"):
        parts[0] + normcli.stats(pictures)


def test_the_command_says_how_many_it_read(pictures: Path, run: Run) -> None:
    done = run("stats", pictures, "--margin", "0.2")
    assert done.returncode in (0, 3)
    assert b"estimate from" in done.stdout
    assert b"joint 99% intervals: mean +- " in done.stderr


def populations(rng: np.random.Generator) -> dict[str, Rows]:
    """Sets of images as hard as real ones: skewed, rare, of classes, of mixed sizes."""
    count = int(rng.integers(1_000, 8_000))
    ones = np.ones(count)

    def rows(weight: Rows, mean: Rows, std: Rows) -> Rows:
        mean = mean.clip(0, 1)
        return np.stack([weight, mean, std**2 + mean**2], axis=1)

    classes = rng.integers(0, 10, count)
    sizes = rng.lognormal(10, 1.0, count)
    return {
        "normal": rows(ones, rng.normal(0.45, 0.15, count), rng.uniform(0.1, 0.3, count)),
        "skewed": rows(ones, shade := rng.lognormal(-3, 0.8, count), shade / 2),
        "rare": rows(ones, np.where(rng.random(count) < 0.01, 1.0, 0.05), np.full(count, 0.02)),
        "classes": rows(ones, rng.random(10)[classes] + rng.normal(0, 0.02, count), 0.3 * rng.random(10)[classes]),
        "mixed sizes": rows(sizes, rng.normal(0.45, 0.15, count), rng.uniform(0.1, 0.3, count)),
        "large is bright": rows(sizes, 0.1 * np.log(sizes) - 0.7, rng.uniform(0.1, 0.3, count)),
    }


class _All:
    """Stands for a sample of so many images."""

    def __init__(self, plan: SamplePlan, rows: Rows) -> None:
        self.plan, self.of, self.refused, self.sizes = plan, len(rows), 0, SizeClasses()
        for weight in rows[:, 0].tolist():
            self.sizes.add(int(weight))


def one_run(rows: Rows, tolerance: float, rng: np.random.Generator) -> tuple[bool, int]:
    """Read in random order up to the margin; return True if the intervals contain the full values, and the count."""
    order = rng.permutation(len(rows))
    stopping = StoppingRule(_All(SamplePlan(margin=tolerance), rows))  # type: ignore[arg-type]
    read = 0
    for look in checkpoints():
        upto = min(look, len(rows))
        for weight, mean, second in rows[order[read:upto]].tolist():
            stopping.add([(weight, [mean], [second], 0.0, 1.0, int(weight))])
        read = upto
        if read == len(rows) or stopping.should_stop(read, read, 1):
            break
    widths = stopping._intervals.widths(read, len(rows), 1, stopping._sample.sizes)
    assert widths is not None
    (mean, std), (found_mean, found_std) = moments(rows), moments(rows[order[:read]])
    return abs(found_mean - mean) <= widths[0][0] + 1e-12 and abs(found_std - std) <= widths[1][0] + 1e-12, read


def moments(rows: Rows) -> tuple[float, float]:
    weight = rows[:, 0] / rows[:, 0].sum()
    mean = float(weight @ rows[:, 1])
    return mean, float(np.sqrt(max(0.0, weight @ rows[:, 2] - mean**2)))


def coverage(runs: int, sets: Iterator[tuple[str, Rows]], rng: np.random.Generator) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for _ in range(runs):
        name, rows = next(sets)
        held, read = one_run(rows, float(rng.choice([0.005, 0.01, 0.02])), rng)
        entry = found.setdefault(name, [0, 0, 0.0])
        entry[0] += 1
        entry[1] += held
        entry[2] += read / len(rows)
    return found


def endless(rng: np.random.Generator, real: dict[str, Rows]) -> Iterator[tuple[str, Rows]]:
    while True:
        for name, rows in {**populations(rng), **real}.items():
            if name in real:  # a random subset of the real set
                rows = rows[rng.permutation(len(rows))[: rng.integers(len(rows) // 2, len(rows) + 1)]]
            yield name, rows


def test_the_stated_interval_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = coverage(60, endless(rng, {}), rng)
    assert sum(entry[1] for entry in found.values()) >= 58


@pytest.mark.campaign
def test_the_stated_interval_holds_in_985_of_1000_runs(shared_data: Path) -> None:
    def real(source: Path) -> Rows:
        rows: list[list[float]] = []

        def keep(record: dict[str, Any]) -> None:
            mean, std = record["mean"][0] / 255, record["std"][0] / 255
            rows.append([record["width"] * record["height"], mean, std**2 + mean**2])

        normcli.stats(source, on_image=keep)
        return np.array(rows)

    sets = {"MNIST": real(shared_data / "mnist-test.tar"), "imagenet-300": real(shared_data / "imagenet-300")}
    sets["imagenet-300 x 20"] = np.repeat(sets["imagenet-300"], 20, axis=0)
    rng = np.random.default_rng(1)
    found = coverage(1000, endless(rng, sets), rng)
    for name, (runs, held, share) in sorted(found.items()):
        print(f"{name}: {held:.0f} of {runs:.0f} held; read {share / runs:.1%}, {runs / share:.1f}x fewer")
    held = sum(entry[1] for entry in found.values())
    print(f"together {held:.0f} of 1000")
    assert held >= 985


def test_intervals_of_one_image_and_of_flat_images_are_sound() -> None:
    one = Intervals(0.99)
    one.add(5, [0.5], [0.25], 0.5, 0.5)
    assert one.widths(1, 10, 1) is None
    one.add(5, [0.5], [0.25], 0.5, 0.5)
    widths = one.widths(2, 10, 1)
    assert widths is not None
    assert widths[0][0] > 0.5, "two equal images say little about ten"
    assert one.widths(2, 2, 1) == ([0.0], [0.0])
    assert isinstance(one._rows[1], array)
