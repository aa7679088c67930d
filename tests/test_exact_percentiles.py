"""Exact percentiles of floats: a second pass finds those that NumPy computes of all pixels at once."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.options.printing import PERCENTILE_METHODS
from normcli.summary import Summary, exact_percentiles
from normcli.tally import Tally, selection
from normcli.tally.second_pass import SecondPass
from normcli.tally.selection import Division, Selected, cells_of_bins, floats_of, keys_of
from tests.support import needs
from tests.support.command import Run
from tests.support.rasters import raster

Array = np.ndarray[Any, Any]

SETTINGS: dict[str, Any] = {"color": "auto", "alpha": "drop", "max_value": None}
PERCENTS = ("0.78125", "12.5", "99.21875")  # dyadic: NumPy rounds no position
ALL = (*PERCENTS, "25", "50", "75", "0", "100")
LISTING: dict[str, Any] = {"include": "*.npy", "open_options": {"layout": "hwc"}}


def pictures(seed: int = 0, dtypes: tuple[str, ...] = ("float32", "float64")) -> list[Array]:
    """Images whose values are close together, with both zeros, repeats and tiny values."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(6):
        image = 1 + rng.normal(0, 1e-3, (11 + i, 13, 3)) if i % 2 else rng.normal(0, 3, (17, 9 + i, 3)) ** 3
        image[0, :3] = [[0.0], [-0.0], [5e-324]]
        image[1] = image[2]
        images.append(image.astype(dtypes[i % len(dtypes)]))
    return images


def folder(path: Path, images: list[Array]) -> Path:
    for number, image in enumerate(images):
        (path / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        np.save(path / "ab"[number % 2] / f"{number}.npy", image)
    return path


def values_of(images: list[Array], channel: int) -> Array:
    values = np.concatenate([image[:, :, channel].ravel().astype(float) for image in images])
    return np.asarray(values[np.isfinite(values)])


def searched(images: list[Array], percentiles: Any, method: str = "linear", **count: Any) -> tuple[Summary, int]:
    """Return the summary of images with exact percentiles, and the number of further passes."""
    settings = {**SETTINGS, **count.pop("settings", {})}
    tally = Tally()
    for number, image in enumerate(images):
        tally.count(image, **{key: values[number] for key, values in count.items()})
    search, passes = exact_percentiles.Search(Summary.of(tally, settings, {}), percentiles, method), 0
    while (division := search.next_division()) is not None:
        again = SecondPass(division)
        for number in reversed(range(len(images))):  # in any order, and added
            one = again.empty()
            one.count(images[number], **{key: values[number] for key, values in count.items()})
            again.add(one)
        search.refine(again.selected)
        passes += 1
    return search.summary(), passes


@pytest.mark.parametrize("method", PERCENTILE_METHODS)
def test_they_are_numpys_of_all_pixels(method: str) -> None:
    images = pictures()
    summary, passes = searched(images, [*PERCENTS, "iqr"], method, group=["a", "b"] * 3)
    assert passes == 1
    of: dict[str, Any] = {
        "": (summary, images),
        "a": (summary.group("a"), images[::2]),
        "b": (summary.group("b"), images[1::2]),
    }
    for one, own in of.values():
        assert one.percentile_details == {"method": method, "requested": [*PERCENTS, "iqr"], "exact": True}
        for c in range(3):
            values = values_of(own, c)
            for percent in ALL:
                want = np.percentile(values, float(percent), method=method)  # type: ignore[call-overload]
                if percent in one.percentiles:
                    assert one.percentiles[percent][c] == pytest.approx(want, rel=1e-13, abs=1e-300), percent


def test_they_are_rounded_once() -> None:
    images = pictures(3)
    summary, _ = searched(images, "12.5,99.9", settings={"max_value": 7})
    for c in range(3):
        values = sorted(map(Fraction, values_of(images, c).tolist()))
        for name, percents in summary.percentiles.items():
            position = (len(values) - 1) * Fraction(name) / 100
            low = int(position)
            high = min(low + 1, len(values) - 1)
            want = values[low] + (values[high] - values[low]) * (position - low)
            assert percents[c] == float(want / 7), name


def test_bounded_memory_takes_more_passes_to_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(4)
    at_once, _ = searched(images, PERCENTS)
    monkeypatch.setattr(selection, "_MOST_CELLS", 128)
    monkeypatch.setattr(selection, "_FEW", 16)
    bounded, passes = searched(images, PERCENTS)
    assert passes > 2 and bounded.percentiles == at_once.percentiles and bounded.percentile_details is not None
    assert bounded.percentile_details["exact"]


def test_a_division_selects_any_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """The use without images: a histogram, the bins with wanted ranks, passes until their cells are single values."""
    from normcli.tally.floats import bins_of

    monkeypatch.setattr(selection, "_MOST_CELLS", 60)
    rng = np.random.default_rng(0)
    columns = [rng.normal(0, 1, 20_000), rng.lognormal(0, 9, 20_000).astype(np.float32).astype(float)]
    for values in columns:
        histogram = np.bincount(bins_of(values), minlength=65536)
        rank = 15_000
        cells, passes = cells_of_bins(histogram, np.array([np.searchsorted(histogram.cumsum(), rank, side="right")])), 0
        below = int(histogram.cumsum()[np.searchsorted(histogram.cumsum(), rank, side="right") - 1])
        while cells.low[0] < cells.high[0]:
            found = Selected(Division({"x": cells}))
            for block in np.split(values, 8):
                part = Selected(Division({"x": cells}))
                part.add_values("x", block)
                found.add(part)
            finer, until = found.cells("x"), below + found.cells("x").counts.cumsum()
            assert len(finer.low) <= 60
            at = int(np.searchsorted(until, rank, side="right"))
            below = below if at == 0 else int(until[at - 1])
            cells, passes = finer.part(np.array([at])), passes + 1
        assert floats_of(cells.low)[0] == np.sort(values)[rank] and passes > 0


def test_keys_have_the_order_of_values() -> None:
    values = np.array([-np.inf, -1e300, -1.0, -5e-324, -0.0, 0.0, 5e-324, 1.0, 1e300, np.inf])
    assert (np.diff(keys_of(values)) > 0).all() and (floats_of(keys_of(values)) == values).all()


def test_what_the_histogram_knows_needs_no_pass() -> None:
    images = [(np.arange(48) % 7).reshape(4, 4, 3).astype(np.uint8)]
    assert searched(images, "12.5")[1] == 0
    assert searched([np.full((3, 3, 1), 0.1)], "12.5")[1] == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_groups_of_16_bits(weighted: bool) -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 65536, (12, 13, 1)).astype(np.uint16) for _ in range(4)]
    alpha = [rng.integers(0, 4, image.shape[:2]).astype(np.uint16) if weighted else None for image in images]
    method = "inverted_cdf" if weighted else "hazen"
    summary, passes = searched(images, PERCENTS, method, group=["a", "b"] * 2, weights=alpha)
    assert passes == 1
    for name, own in (("a", slice(0, None, 2)), ("b", slice(1, None, 2))):
        group = summary.group(name)
        assert group.percentile_details is not None and group.percentile_details["exact"]
        values = values_of(images[own], 0)
        more = {"weights": np.concatenate([a.ravel() for a in alpha[own] if a is not None])} if weighted else {}
        for percent in PERCENTS:
            want = np.percentile(values, float(percent), method=method, **more)  # type: ignore[call-overload]
            assert group.percentiles[percent] == [want / 65535]


def test_valid_samples_scales_and_mixed_buckets() -> None:
    rng = np.random.default_rng(2)
    images = pictures(5)
    valid = [rng.random(image.shape) < np.array([0.3, 1, 0]) for image in images]
    notes = [("scale:0.25*x-8.0,-0.5*x+3.0,1.0*x+0.0",)] * len(images)
    summary, _ = searched(images, PERCENTS, valid=valid, notes=notes)
    for c, (factor, offset) in enumerate([(0.25, -8), (-0.5, 3)]):
        values = np.concatenate([image[:, :, c][mask[:, :, c]] for image, mask in zip(images, valid, strict=True)])
        for percent in PERCENTS:
            want = np.percentile(values.astype(float) * factor + offset, float(percent))
            assert summary.percentiles[percent][c] == pytest.approx(want, rel=1e-12)
    assert math.isnan(summary.percentiles["50"][2])
    mixed = [*images, *(image[:, :, :1] for image in pictures(6)), rng.integers(0, 9, (7, 7, 3)).astype(np.uint8)]
    found, _ = searched(mixed, PERCENTS, settings={"max_value": 9})
    assert found.percentile_details is not None and found.percentile_details["exact"]
    for c in range(3):
        own = [image[:, :, c % image.shape[2]] / (255 if image.dtype == np.uint8 else 9) for image in mixed]
        values = np.concatenate([image.ravel().astype(float) for image in own])
        for percent in PERCENTS:
            assert found.percentiles[percent][c] == pytest.approx(np.percentile(values, float(percent)), rel=1e-6)


def test_engines_resumed_and_incremental_runs_agree(tmp_path: Path) -> None:
    images = pictures(7)
    images[0][0, 0, 1] = np.nan
    data = folder(tmp_path / "set", images)
    options = {**LISTING, "nan": "skip", "percentiles": PERCENTS, "exact_percentiles": True, "group_by": "folder"}
    one = normcli.stats(data, engine="serial", **options).to_json()
    for c in range(3):
        for percent in PERCENTS:
            want = np.percentile(values_of(images, c), float(percent))
            assert json.loads(one)["percentiles"][percent][c] == pytest.approx(want, rel=1e-13)
    for engine in ("threads", "processes"):
        assert normcli.stats(data, engine=engine, workers=2, **options).to_json() == one
    for name in ("resume", "incremental"):
        output = tmp_path / f"{name}.json"
        for _ in range(2):
            normcli.stats(data, output=output, engine="serial", **{**options, name: True})
            assert output.read_text() == one
    without = {**options, "exact_percentiles": False}
    with pytest.raises(normcli.UsageError, match="exists, with other percentiles"):
        normcli.stats(data, output=tmp_path / "resume.json", resume=True, **without)


def test_large_rasters_are_searched_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs.module("rasterio")
    needs.module("tifffile")
    from normcli.images import tiff

    rng = np.random.default_rng(8)
    bands = rng.normal(300, 9, (2, 96, 80)).astype(np.float32)
    bands[0, :9] = -9999
    path = raster(tmp_path / "a.tif", bands, nodata=-9999, tiled=True, blockxsize=16, blockysize=16)
    options: dict[str, Any] = {"percentiles": PERCENTS, "exact_percentiles": True}
    complete = normcli.stats(path, **options)
    monkeypatch.setattr(tiff, "LARGE", 1000)
    assert normcli.stats(path, engine="serial", **options).percentiles == complete.percentiles
    for c, values in enumerate((bands[0, 9:], bands[1])):
        for percent in PERCENTS:
            want = np.percentile(values.astype(float), float(percent))
            assert complete.percentiles[percent][c] == pytest.approx(want, rel=1e-13)


def test_the_file_has_them_for_show_and_a_merge_has_bounds_again(run: Run, tmp_path: Path) -> None:
    images = pictures(9)
    folder(tmp_path / "set", images)
    listing = ("--include", "*.npy", "-O", "layout=hwc")
    exact = ("--percentiles", "12.5,iqr", "--exact-percentiles", "--percentile-method", "hazen")
    done = run("stats", "set", "-o", "s.json", *listing, *exact)
    assert done.returncode == 0 and b"percentiles: hazen, exact" in done.stdout and b"8 significant" not in done.stderr
    file = normcli.load(tmp_path / "s.json")
    assert file.percentile_details == {"method": "hazen", "requested": ["12.5", "iqr"], "exact": True}
    same = run("show", "s.json", "--percentiles", "12.5,5", "--percentile-method", "hazen", "--json")
    shown = Summary.from_json(same.stdout)
    assert shown.percentiles["12.5"] == file.percentiles["12.5"] and shown.percentiles["5"] == file.percentiles["5"]
    assert shown.percentile_details is not None and shown.percentile_details["exact"]
    other = run("show", "s.json", "--percentiles", "12.5,13", "--percentile-method", "hazen").stdout
    assert b"+- bounds the error" in other
    assert normcli.merge(file).percentile_details is None
    alone = run("stats", "set", *listing, "--exact-percentiles", "--json")
    details = json.loads(alone.stdout)["percentile_details"]
    assert details == {"method": "linear", "requested": [], "exact": True}


REFUSED = {
    ("--shard", "1/2"): b"--exact-percentiles cannot be combined with --shard",
    ("--sample", "3"): b"--exact-percentiles cannot be combined with --sample or --margin",
    ("--weight", "image"): b"--exact-percentiles cannot be combined with --weight image",
    ("--alpha", "weight", "--percentile-method", "hazen"): b"--percentile-method: hazen is not defined for pixels",
}


def test_what_cannot_be_exact_is_one_line(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pictures()[0])
    for options, message in REFUSED.items():
        done = run("stats", "a.npy", "--exact-percentiles", *options)
        assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and message in done.stderr


@pytest.mark.parametrize("change", ["values", "removed", "added"])
def test_inputs_that_change_between_the_passes_end_the_run(change: str, tmp_path: Path) -> None:
    data = folder(tmp_path / "set", pictures(10))
    inputs: list[int] = []

    def step(batch: Any) -> None:
        inputs.append(batch.inputs)
        if sum(inputs) != 6:  # the end of the first pass
            return
        if change == "removed":
            (data / "b" / "5.npy").unlink()
        else:
            np.save(data / "b" / ("5.npy" if change == "values" else "7.npy"), np.full((5, 5, 3), 0.5))

    options: dict[str, Any] = {"engine": "serial", "exact_percentiles": True, "output": tmp_path / "s.json"}
    with pytest.raises(normcli.NormcliError, match="`exact_percentiles` reads every input again, and"):
        normcli.stats(data, on_progress=step, **LISTING, **options)
    assert not (tmp_path / "s.json").exists()


def test_an_iterator_cannot_be_read_twice(run: Run, tmp_path: Path) -> None:
    lines = "import numpy as np\nimages = [np.arange(24.0).reshape(2, 4, 3)]\nonce = iter(images)\n"
    (tmp_path / "samples.py").write_text(lines)
    arguments = ("-O", "layout=hwc", "--exact-percentiles", "--percentiles", "12.5", "--json")
    done = run("stats", "python:samples:images", *arguments)
    assert (
        json.loads(done.stdout)["percentiles"]["12.5"] == np.percentile(np.arange(24.0).reshape(8, 3), 12.5, 0).tolist()
    )
    done = run("stats", "python:samples:once", *arguments)
    assert done.returncode == 1 and b"ends after one reading" in done.stderr and done.stderr.count(b"\n") == 1


def test_vectors_are_searched_too(tmp_path: Path) -> None:
    rows = np.random.default_rng(12).normal(0, 1, (3000, 5)).astype(np.float32)
    rows[::7, 2] = np.nan
    np.save(tmp_path / "a.npy", rows)
    options: dict[str, Any] = {"open_options": {"layout": "nc"}, "nan": "skip", "percentiles": PERCENTS}
    found = normcli.stats(tmp_path / "a.npy", exact_percentiles=True, **options)
    assert found.percentile_details is not None and found.percentile_details["exact"]
    for percent in PERCENTS:
        want = np.nanpercentile(rows.astype(float), float(percent), axis=0)
        np.testing.assert_allclose(found.percentiles[percent], want, rtol=1e-13)
