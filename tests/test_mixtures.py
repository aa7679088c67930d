"""Weighted mixtures: the numbers of a distribution that draws from several datasets, and their limits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.summary.file import SCHEMA_FILE
from tests.support import needs
from tests.support.command import run_here

Array = np.ndarray[Any, Any]
WEIGHTS = (0.7, 0.3)


@pytest.fixture(scope="module")
def rows() -> list[Array]:
    random = np.random.default_rng(4)
    return [random.normal(size=(900, 2)), random.normal(size=(200, 2)) * [2, 0.5] + [5, -1]]


def counted(rows: Array) -> normcli.Summary:
    counter = normcli.Counter(layout="nc")
    counter.add(rows)
    return counter.summary()


@pytest.fixture(scope="module")
def files(rows: list[Array], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("mixtures")
    paths = [folder / f"{name}.json" for name in "ab"]
    for path, part in zip(paths, rows, strict=True):
        counted(part).save(path)
    return paths


def test_the_numbers_are_those_of_weighted_values(rows: list[Array], files: list[Path]) -> None:
    mixture = normcli.merge(files, weights=WEIGHTS)
    values = np.concatenate(rows)
    weights = np.concatenate([np.full(len(part), w / len(part)) for part, w in zip(rows, WEIGHTS, strict=True)])
    mean = np.average(values, axis=0, weights=weights)
    std = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    np.testing.assert_allclose(mixture.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(mixture.std, std, rtol=1e-12)
    assert mixture.min == values.min(axis=0).tolist() and mixture.max == values.max(axis=0).tolist()
    details = mixture.percentile_details
    assert details is not None and details["method"] == "inverted_cdf" and not details["exact"]
    for name, row in mixture.percentiles.items():
        for c in range(2):
            right = np.quantile(values[:, c], float(name) / 100, weights=weights, method="inverted_cdf")
            assert abs(row[c] - right) <= details["error"][name][c]


def test_percentiles_of_8_bits_are_exact() -> None:
    random = np.random.default_rng(5)
    images = [random.integers(0, top, (40, 50, 1)).astype(np.uint8) for top in (256, 90)]
    parts = [normcli.count([image]) for image in images]
    mixture = normcli.merge(parts, weights=[1, 3])
    assert mixture.percentile_details is not None and mixture.percentile_details["exact"]
    values = np.concatenate([image.ravel() for image in images])
    weights = np.repeat([0.25, 0.75], 2000)
    for name, (value,) in mixture.percentiles.items():
        assert value == np.quantile(values, float(name) / 100, weights=weights, method="inverted_cdf") / 255


def test_a_mixture_says_that_it_is_one(files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "mixture.json"
    done = run_here("merge", f"{files[0]}:0.7", f"{files[1]}:0.3", "-o", path)
    assert done.code == 0 and done.out.startswith("1,100 vectors; mixture 0.7 : 0.3; pooled population")
    assert "a weighted mixture, 0.7 of 900 vectors and 0.3 of 200 vectors" in done.err
    record = json.loads(path.read_text())["settings"]["mixture"]
    assert [(part["weight"], part["images"]) for part in record] == [(0.7, 900), (0.3, 200)]
    shown = run_here("show", path)
    assert shown.code == 0 and "mixture 0.7 : 0.3" in shown.out and "a weighted mixture" in shown.err
    assert "weighted mixture 0.7 : 0.3" in run_here("show", path, "--format", "torchvision").out
    assert "weighted mixture 0.7 : 0.3" in run_here("show", path, "--format", "openpi").err
    assert normcli.load(path) == normcli.merge(files, weights=[7, 3])


REJECTED = {
    "merge": (["merge", "mixture.json", "a.json"], "settings differ: mixture"),
    "by force": (["merge", "mixture.json", "a.json", "--force"], "are a mixture, which has no counts"),
    "minus": (["merge", "a.json", "--minus", "mixture.json"], "settings differ: mixture"),
    "minus of a mixture": (["merge", "a.json:1", "b.json:1", "--minus", "a.json"], "--minus cannot be combined"),
    "of a mixture": (["merge", "mixture.json:1", "mixture.json:2"], "are a mixture, which has no counts"),
    "percentiles": (["show", "mixture.json", "--percentiles", "33"], "are a mixture, which has no counts"),
    "histogram": (["show", "mixture.json", "--plot"], "are a mixture, which has no histogram"),
    "one weight": (["merge", "a.json:1", "b.json"], "b.json: has no weight, and others have"),
    "no weight": (["merge", "a.json:0", "b.json:1"], "must be positive numbers"),
    "verify": (["verify", "mixture.json", "a.npy", "-O", "layout=nc"], "cannot be verified"),
    "other channels": (["merge", "a.json:1", "c.json:1"], "channels differ"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_what_needs_counts_is_rejected(case: str, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files[0].parent)
    normcli.merge(files, weights=WEIGHTS).save("mixture.json")
    counted(np.ones((3, 3))).save("c.json")
    np.save("a.npy", np.ones((3, 2)))
    arguments, text = REJECTED[case]
    done = run_here(*arguments)
    assert done.code in (1, 2) and text in done.err and done.err.count("\n") == 1, done


def test_the_file_follows_the_schema(files: list[Path]) -> None:
    jsonschema = needs.module("jsonschema")
    mixture = normcli.merge(files, weights=WEIGHTS)
    jsonschema.validate(mixture.to_dict(), json.loads(SCHEMA_FILE.read_text()))
    assert normcli.Summary.from_json(mixture.to_json()).to_json() == mixture.to_json()


def test_a_file_whose_name_ends_like_a_weight_is_a_file(files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "a.json:2"
    path.write_bytes(files[0].read_bytes())
    done = run_here("merge", path, files[1], "--json")
    assert done.code == 0 and "mixture" not in json.loads(done.out)["settings"]
