"""The statistics file: its JSON Schema, and an incomplete merge, which shows in the data and by exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import StatisticsFileError, UsageError
from normcli.summary import SCHEMA_FILE, Summary
from normcli.summary.file import REQUIRED_KEYS
from normcli.tally import Tally
from tests.support import needs
from tests.support.command import ROOT, Run, run_here
from tests.support.images import encoded, photograph

SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())
SETTINGS: dict[str, Any] = {"color": "auto", "alpha": "drop", "max_value": None}


@pytest.fixture
def shards(folder: Path) -> list[Summary]:
    return [normcli.stats(folder, shard=f"{number}/4") for number in range(1, 5)]


@pytest.fixture
def several(folder: Path) -> Path:
    """The folder with images that differ, one that is damaged and one that no suffix names."""
    (folder / "dog/one-more.png").write_bytes(encoded(photograph(seed=99)))
    (folder / "cut.jpg").write_bytes(encoded(photograph(), "JPEG")[:900])
    (folder / "notes.txt").write_text("hello")
    return folder


def invalid(document: dict[str, Any]) -> list[str]:
    jsonschema = needs.module("jsonschema")
    errors = jsonschema.Draft202012Validator(SCHEMA).iter_errors(document)
    return [f"{error.json_path}: {error.message[:200]}" for error in errors]


def mixed_summary() -> Summary:
    tally = Tally()
    tally.count(photograph(), notes=("mode:RGB",), data=b"a", group="a")
    tally.count(photograph(channels=1).astype(np.float32), data=b"b", group="b/c")
    tally.failed["truncated"] += 2
    return Summary.of(tally, SETTINGS, {"normcli": "0.1.0"})


def float_summary() -> Summary:
    return Summary.of(_tally(np.linspace(-3, 5, 60, dtype=np.float32).reshape(4, 5, 3)), SETTINGS, {})


class TestSchema:
    def test_every_file_is_valid(self, several: Path, shards: list[Summary]) -> None:
        cats, dogs = normcli.stats(several / "cat"), normcli.stats(several / "dog")
        files = {
            "plain": normcli.stats(several),
            "groups": normcli.stats(several, group_by="folder"),
            "weights": normcli.stats(several, weight="image"),
            "equal groups": normcli.stats(several, weight="group", group_by="folder"),
            "sample": normcli.stats(several, sample="6"),
            "too small a sample": normcli.stats(several / "cat", sample="1"),
            "gray": normcli.stats(several, color="gray"),
            "shard": shards[0],
            "shards": normcli.merge(*shards[:3]),
            "sum": cats + dogs,
            "difference": (cats + dogs) - cats,
            "forced": normcli.merge(cats, cats, normcli.stats(several, resize=8), force=True),
            "mixed": mixed_summary(),
            "percentiles": float_summary().with_percentiles("0.5,99.5,iqr", method="weibull"),
            "percentiles of groups": normcli.stats(several, group_by="folder", percentiles=[0.1]),
            "one pixel": Summary.of(_tally(np.zeros((1, 1, 1), np.uint8)), SETTINGS, {}),
            "bands": Summary.of(_tally(np.zeros((2, 2, 6), np.uint16)), SETTINGS, {}),
            "frozen": normcli.load(ROOT / "sample_data" / "expected.json"),
            "odd": normcli.load(ROOT / "sample_data" / "expected-odd.json"),
        }
        wrong = {name: invalid(json.loads(summary.to_json())) for name, summary in files.items()}
        assert wrong == {name: [] for name in files}

    def test_the_validator_sees_a_wrong_file(self) -> None:
        document = mixed_summary().to_dict()
        for key, value in (("mean", "x"), ("shards", {"of": 2}), ("depth", 255), ("complete", 1)):
            assert invalid({**document, key: value}), key

    def test_the_reader_accepts_nothing_that_the_schema_does_not(self) -> None:
        document = json.loads(mixed_summary().to_json())
        values: tuple[Any, ...] = (
            None,
            "x",
            "",
            -1,
            0,
            1,
            1.5,
            True,
            [],
            {},
            [None],
            ["x"],
            {"a": None},
            {"a": 1},
            {"of": 1, "parts": []},
        )
        for key in document:
            for value in values:
                changed = {**document, key: value}
                try:
                    Summary.from_json(json.dumps(changed))
                except StatisticsFileError:
                    continue
                if key not in (
                    "convention",
                    "percentiles",
                    "conventions",
                    "provenance",
                    "state",
                    "composition",
                    "forced",
                ):
                    assert not invalid(changed), (key, value)

    def test_schema_reader_and_file_have_the_same_keys(self) -> None:
        summary = mixed_summary()
        assert SCHEMA["required"] == list(summary.to_dict()) == list(REQUIRED_KEYS)
        summary = float_summary().with_percentiles("99.9,iqr")
        summary.invalid = [1, 0, 0]
        assert list(SCHEMA["properties"]) == list(summary.to_dict())
        assert SCHEMA["properties"]["schema"]["const"] == normcli.summary.SCHEMA

    def test_show_prints_the_schema(self, run: Run) -> None:
        done = run("show", "--schema")
        assert (done.returncode, done.stderr) == (0, b"") and json.loads(done.stdout) == SCHEMA
        assert run("show").returncode == 2

    def test_the_page_describes_every_key(self) -> None:
        text = (ROOT / "docs/statistics-file.md").read_text()
        assert [key for key in SCHEMA["properties"] if f"| `{key}` |" not in text] == []

    def test_schema_1_is_rejected_with_the_way_out(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "old.json").write_text('{"schema": "normcli/stats/1", "images": 1}')
        for command in (["show", "old.json"], ["merge", "old.json"], ["diff", "old.json", "old.json"]):
            done = run(*command)
            assert done.returncode == 2 and done.stderr.count(b"\n") == 1
            assert b"normcli stats SOURCE... -o FILE" in done.stderr


class TestIncompleteMerge:
    def test_missing_parts_are_in_the_data_and_the_exit_code(
        self, run: Run, folder: Path, shards: list[Summary], tmp_path: Path
    ) -> None:
        names = [f"part-{number}.json" for number in range(1, 5)]
        for name, shard in zip(names, shards, strict=True):
            shard.save(tmp_path / name)
            assert not shard.complete
        done = run("merge", *names[:2], names[3], "--json")
        document = json.loads(done.stdout)
        assert done.returncode == 3
        assert document["shards"] == {"of": 4, "parts": [1, 2, 4]} and document["complete"] is False
        assert b"parts 1, 2, 4 of 4: not the statistics of the complete dataset (part 3 missing)" in done.stderr
        done = run("merge", *names, "--json")
        assert done.returncode == 0 and done.stdout == run("stats", folder, "--json").stdout
        assert json.loads(done.stdout)["complete"] is True

    def test_show_says_which_part_it_is(self, run: Run, shards: list[Summary], tmp_path: Path) -> None:
        shards[0].save(tmp_path / "part-1.json")
        assert b"note: part 1 of 4: not the statistics of the complete dataset" in run("show", "part-1.json").stderr
        done = run("show", "part-1.json", "--format", "torchvision")
        assert b"(part 1 of 4)" in done.stdout and b"part 1 of 4" in done.stderr
        assert run("show", "part-1.json", "--format", "torchvision", "--quiet").stderr == b""

    def test_whatever_uses_a_part_says_which_it_is(
        self, folder: Path, shards: list[Summary], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "part-1.json"
        shards[0].save(path)
        net = tmp_path / "net.npz"
        weights: dict[str, Any] = {
            "conv.weight": np.ones((2, 3, 1, 1), np.float32),
            "conv.bias": np.zeros(2, np.float32),
        }
        np.savez(net, **weights)
        uses: dict[str, Callable[[], object]] = {
            "transform": lambda: normcli.transform("contrast", stats=path),
            "transform of a Summary": lambda: normcli.transform("contrast", stats=shards[0]),
            "apply": lambda: normcli.apply(folder, tmp_path / "out", stats=path),
            "check": lambda: normcli.check(path, preset="imagenet"),
            "diff": lambda: normcli.diff(shards[1], path),
            "verify": lambda: normcli.verify_statistics(path, folder),
            "fold": lambda: normcli.fold(net, tmp_path / "folded.npz", stats=path, pair=("input:conv",)),
        }
        for name, use in uses.items():
            caplog.clear()
            use()
            notes = [text for text in caplog.messages if "not the statistics of the complete dataset" in text]
            assert len(notes) == 1 + (name == "diff"), name
        forced = normcli.merge(shards[0], shards[0], force=True)
        caplog.clear()
        normcli.transform("contrast", stats=forced)
        assert "merged by force over conflicts" in caplog.text

    def test_an_estimate_says_so_wherever_it_is_used(
        self, run: Run, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        normcli.stats(folder, sample=3, output=tmp_path / "estimate.json")
        normcli.transform("contrast", stats=tmp_path / "estimate.json")
        assert "estimate.json: estimated from 3 of" in caplog.text
        done = run("show", "estimate.json", "--format", "yaml")
        assert b"over 3 images (a random sample of " in done.stdout and b"note: estimated from 3 of" in done.stderr

    def test_the_same_part_or_the_same_images_twice_are_rejected(
        self, run: Run, shards: list[Summary], several: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match="part 1 of 4 comes twice"):
            normcli.merge(shards[0], shards[0])
        cats = normcli.stats(several / "cat")
        with pytest.raises(UsageError, match="statistics 1 and statistics 2 are of the same images"):
            _ = cats + cats
        cats.save(tmp_path / "a.json")
        done = run("merge", "a.json", "a.json", "-o", "twice.json")
        assert done.returncode == 2 and b"a.json and a.json are of the same images" in done.stderr
        assert not (tmp_path / "twice.json").exists()
        done = run("merge", "a.json", "a.json", "--force", "--json")
        document = json.loads(done.stdout)
        assert done.returncode == 3 and document["images"] == 2 * cats.images
        assert (document["forced"], document["complete"]) == (["images"], False)

    def test_forced_settings_are_recorded_and_stay_recorded(self, several: Path) -> None:
        cats, dogs = normcli.stats(several / "cat"), normcli.stats(several / "dog", resize=8)
        with pytest.raises(UsageError, match="settings differ: resize is none and 8"):
            normcli.merge(cats, dogs)
        forced = normcli.merge(cats, dogs, force=True)
        assert forced.forced == ["settings.resize"] and not forced.complete
        assert forced.settings == cats.settings
        again = normcli.merge(forced, normcli.stats(several / "dog"))
        assert again.forced == ["settings.resize"] and not again.complete

    def test_shards_of_different_splits_need_force(self, folder: Path, shards: list[Summary]) -> None:
        half = normcli.stats(folder, shard="1/2")
        with pytest.raises(UsageError, match="different numbers of parts: 2 and 4"):
            normcli.merge(half, shards[1])
        forced = normcli.merge(half, shards[1], force=True)
        assert (forced.forced, forced.shards, forced.complete) == (["shards"], None, False)

    def test_a_part_can_be_subtracted_again(self, shards: list[Summary]) -> None:
        both = normcli.merge(shards[0], shards[1])
        assert normcli.merge(both, minus=shards[1]).to_json() == shards[0].to_json()


def _tally(pixels: np.ndarray[Any, Any]) -> Tally:
    tally = Tally()
    tally.count(pixels)
    return tally


CONTRADICTIONS: list[tuple[tuple[Any, ...], Any, str]] = [
    (("mean", 1), 123.7, "mean"),
    (("mean", 1), -1e308, "mean"),
    (("std", 0), -0.25, "std"),
    (("std", 0), 0.6, "std"),
    (("max", 2), -1, "max"),
    (("conventions", "pooled_sample", "std", 0), -0.25, "conventions"),
    (("groups", "a", "std", 0), -0.25, "groups"),
    (("composition", "depth_reduced"), {"a": 1}, "composition"),
    (("composition", "scale"), 1, "composition"),
]


@pytest.mark.parametrize(("place", "value", "key"), CONTRADICTIONS, ids=[str(number) for number in range(9)])
def test_numbers_that_no_images_have_are_rejected(place: tuple[Any, ...], value: Any, key: str, tmp_path: Path) -> None:
    counter = normcli.Counter()
    counter.add(photograph(8, 9), group="a")
    document = counter.summary().to_dict()
    part: Any = document
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    (tmp_path / "a.json").write_text(json.dumps(document))
    done = run_here("show", tmp_path / "a.json", "--plot")
    assert (done.code, done.out) == (2, "") and f"damaged statistics file, '{key}'" in done.err


@pytest.mark.parametrize("values", [[7, 7], [0, 1], [-1, 3], [-1e-30, 1e30], [5e-324, 0], [1e9, 1e9 + 1e-6], [-0.0, 0]])
def test_numbers_of_extreme_images_are_read_again(values: list[float]) -> None:
    counter = normcli.Counter()
    counter.add(np.array([values]))
    text = counter.summary().to_json()
    assert Summary.from_json(text).to_json() == text
