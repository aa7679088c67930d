"""`Summary` in Python: its display, its groups and histograms, and paths accepted in its place."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.constants import exporters
from normcli.constants.compare import GroupDifference
from normcli.errors import MissingExtraError, NoInputError, StatisticsFileError, UsageError
from normcli.summary import GroupSummary, Summary
from normcli.tally import Tally
from tests.support import needs
from tests.support.command import ROOT, Run
from tests.support.images import encoded, photograph

SETTINGS: dict[str, Any] = {"color": "auto", "alpha": "drop", "max_value": None}


@pytest.fixture
def summary(folder: Path) -> Summary:
    (folder / "dog/one-more.png").write_bytes(encoded(photograph(seed=99)))
    return normcli.stats(folder, group_by="folder")


def summary_of(*images: np.ndarray[Any, Any], group: str | None = None) -> Summary:
    tally = Tally()
    for image in images:
        tally.count(image, group=group)
    return Summary.of(tally, SETTINGS, {})


def test_repr_is_one_short_line() -> None:
    summary = summary_of(photograph(), photograph(seed=1))
    numbers = r"(\.\d{3} ?){3}"
    assert re.fullmatch(rf"<Summary 2 images, RGB, mean {numbers}, std {numbers}>", repr(summary))
    assert "incomplete" in repr(summary.replace(complete=False))
    many = summary_of(np.full((2, 2, 9), 40000, np.uint16))
    assert repr(many) == "<Summary 1 image, 9 bands, mean .610 .610 .610 .610 …, std .000 .000 .000 .000 …>"
    assert "mean 1.5e+04" in repr(summary_of(np.full((2, 2, 1), 15000, np.float32)))
    group = GroupSummary(images=1200, pixels=5, mean=[0.5] * 9, std=[0.25] * 9, percentiles={}, conventions={})
    assert repr(group) == "<GroupSummary images 1,200, mean .500 .500 .500 .500 …, std .250 .250 .250 .250 …>"


def test_html_is_a_small_escaped_table(summary: Summary) -> None:
    text = summary.replace(channels=["<b>", "G", "B"])._repr_html_()
    assert text.count("<tr>") == 4 and "&lt;b&gt;" in text and "<b>" not in text
    assert f"{summary.mean[1]:.4g}" in text and len(text) < 1200
    unknown = summary.replace(min=[None] * 3)
    assert unknown._repr_html_().count("<td>–</td>") == 3


def test_format_is_what_show_prints(summary: Summary) -> None:
    assert str(summary.mean) in summary.format("torchvision", digits=0)
    short = summary.format("torchvision")
    assert f"mean={[float(f'{m:.4g}') for m in summary.mean]}" in short
    assert str(summary.mean[0]) in summary.format("csv")
    assert "mean of image stds" in summary.format("yaml", convention="mean_of_image_stds")
    with pytest.raises(UsageError, match="did you mean 'torchvision'"):
        summary.format("torchvison")
    with pytest.raises(UsageError, match=r"`digits`: must be at least 0 \(all\)"):
        summary.format("yaml", digits=-1)


@pytest.mark.parametrize("exporter", ["keras", "onnx", "opencv", "mmcv", "kaldi", "csv", "env", "huggingface"])
def test_digits_hold_for_every_number(exporter: str) -> None:
    photographs = normcli.stats(ROOT / "sample_data" / "scenes" / "val")  # 8-bit RGB, which every tool reads
    text = photographs.format(exporter, digits=3)
    text = "\n".join(line for line in text.splitlines() if "rescale" not in line and not line.startswith("#"))
    for number in re.findall(r"\d+\.\d+", text):
        assert len(number.replace(".", "").strip("0")) <= 3 + 2, number  # two more in the range of stored pixels


def test_a_group_has_statistics_and_exports(summary: Summary, folder: Path) -> None:
    cats = summary.group("cat")
    alone = normcli.stats(folder / "cat")
    assert isinstance(cats, GroupSummary)
    assert (cats.images, cats.mean, cats.std) == (alone.images, alone.mean, alone.std)
    assert cats.conventions == alone.conventions
    text = summary.format("torchvision", group="cat", digits=0)
    assert str(cats.mean) in text and f"over {cats.images} images (group 'cat')" in text
    with pytest.raises(UsageError, match="did you mean 'cat'"):
        summary.group("cats")
    with pytest.raises(UsageError, match="no groups"):
        alone.group("cat")
    text = summary.format("yaml", group="cat", convention="mean_of_image_stds")
    assert str(alone.conventions["mean_of_image_stds"]["std"]) in text


@pytest.mark.parametrize(
    ("kind", "scale", "digits"),
    [(np.uint8, 255, 1e-12), (np.uint16, 65535, 2**-7), (np.float32, 1, 2**-7)],
    ids=["uint8", "uint16", "float"],
)
def test_percentiles_of_a_group(kind: type[np.generic], scale: int, digits: float) -> None:
    draw = np.random.default_rng(5)
    levels = {np.uint8: 255, np.uint16: 60000, np.float32: 1000}[kind]
    images = [draw.gamma(2.0, levels / 9, (9, 11, 3)).clip(0, levels).astype(kind) for _ in range(4)]
    group = summary_of(*images, group="a").groups["a"]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / scale
    for percent, row in group.percentiles.items():
        assert row == pytest.approx(np.percentile(pixels, int(percent), axis=0), rel=digits)
    one = summary_of(*images).conventions
    assert group.conventions == one


def test_groups_of_several_depths_add_and_subtract() -> None:
    draw = np.random.default_rng(6)
    images = [draw.integers(0, 250, (5, 7, 3)).astype(kind) for kind in (np.uint8, np.uint16, np.float64)]
    one, other = Tally(), Tally()
    for image in images:
        one.count(image, group="a")
        other.count(image[::-1] // 2, group="a")
    assert ((one + other) - other).state() == one.state()
    assert Tally.from_state(json.loads(json.dumps((one + other).state()))).state() == (one + other).state()
    weighted = Tally()
    weighted.count(images[0], np.full((5, 7), 51, np.uint8), group="a")
    summary = Summary.of(weighted, SETTINGS, {})
    assert summary.groups["a"].percentiles == summary.percentiles
    assert summary.groups["a"].conventions == summary.conventions


def test_histograms_count_every_pixel() -> None:
    image = photograph()
    summary = summary_of(image, photograph(channels=1, seed=2))
    for c, name in enumerate("RGB"):
        counts, edges = summary.histogram(name)
        expected = np.bincount(image[:, :, c].ravel(), minlength=256)
        expected += np.bincount(photograph(channels=1, seed=2).ravel(), minlength=256)
        assert np.array_equal(counts, expected)
        assert np.allclose(edges, np.arange(257) / 255)
        assert np.array_equal(summary.histogram(c)[0], counts)
    assert summary.histogram(0, 16)[0].sum() == summary.pixels
    raw = summary_of(np.linspace(-3, 5, 64, dtype=np.float32).reshape(8, 8, 1))
    counts, edges = raw.histogram(0, 8)
    assert counts.sum() == 64 and (edges[0], edges[-1]) == (-3, 5)
    for channel, bins in (("X", 4), (3, 4), (-1, 4), (0, 0)):
        with pytest.raises(UsageError):
            summary.histogram(channel, bins)


class Axes:
    """The part of Matplotlib's axes that `plot` needs."""

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: self.drawn.append(name)


def test_plot_draws_every_channel(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = Axes()
    assert summary.plot(axes) is axes
    assert axes.drawn.count("stairs") == axes.drawn.count("axvline") == 3
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"normcli\[plot\]"):
        summary.plot()


def test_report_writes_the_page(summary: Summary, tmp_path: Path) -> None:
    needs.module("jinja2")
    summary.report(tmp_path / "page.html", title="cats & dogs")
    text = (tmp_path / "page.html").read_text()
    assert "cats &amp; dogs" in text and text.startswith("<!doctype html>")


def test_paths_are_accepted_wherever_a_summary_is(folder: Path, summary: Summary, tmp_path: Path) -> None:
    cats, dogs = normcli.stats(folder / "cat"), normcli.stats(folder / "dog")
    a, b = tmp_path / "a.json", str(tmp_path / "b.json")
    cats.save(a)
    dogs.save(b)
    both = cats + dogs
    assert normcli.load(a) == cats == Summary.load(str(a))
    assert normcli.merge(a, b).to_json() == normcli.merge(a, dogs).to_json() == both.to_json()
    with pytest.raises(NoInputError, match="no image is left"):
        normcli.merge(cats, minus=cats)
    assert normcli.merge(both, minus=b).to_json() == normcli.merge(both, minus=[dogs]).to_json() == cats.to_json()
    assert normcli.diff(a, b) == normcli.diff(cats, dogs)
    assert normcli.check(a, cats.mean, cats.std) == normcli.check(cats, cats.mean, cats.std)
    with pytest.raises(StatisticsFileError, match="no such file"):
        normcli.merge(a, tmp_path / "absent.json")


def test_differences_of_groups_are_typed(summary: Summary) -> None:
    other = summary.replace(groups={"cat": summary.groups["cat"].replace(images=1), "owl": summary.groups["dog"]})
    found = normcli.diff(summary, other).groups
    assert found["owl"] == GroupDifference(images=(0, summary.groups["dog"].images))
    assert found["cat"].shift == [0.0] * 3 and found["cat"].images == (6, 1)
    assert normcli.diff(summary, other).to_dict()["groups"]["owl"]["shift"] is None


def test_what_is_no_statistics_has_an_error_of_its_own(summary: Summary, tmp_path: Path) -> None:
    summary.save(tmp_path / "s.json")
    merged = normcli.merge([summary, tmp_path / "s.json"], force=True)
    assert merged.images == 2 * summary.images and merged == normcli.merge(summary, summary, force=True)
    wrong: list[Any] = [5, None]
    for value in wrong:
        for call in (normcli.merge, lambda v: normcli.check(v, [0.5], [0.5]), lambda v: normcli.diff(v, summary)):
            with pytest.raises(UsageError, match="statistics must be"):
                call(value)
    with pytest.raises(UsageError, match="`scheme`: must be a name such as contrast"):
        normcli.transform(summary)  # type: ignore[call-overload]


def test_every_exporter_exports_a_group_as_the_statistics_of_its_images(tmp_path: Path) -> None:
    for seed in range(4):
        put = tmp_path / "rgb" / ("cat" if seed % 2 else "dog") / f"{seed}.png"
        put.parent.mkdir(parents=True, exist_ok=True)
        put.write_bytes(encoded(photograph(12, 10, 3, seed)))
    both, alone = normcli.stats(tmp_path / "rgb", group_by="folder"), normcli.stats(tmp_path / "rgb" / "cat")
    for name in exporters.EXPORTERS:
        for convention in (None, "root_mean_image_variance"):
            text = both.format(name, group="cat", convention=convention)
            if name != "markdown":  # whose table shows the unknown minimum and maximum of a group as -
                assert text.replace(" (group 'cat')", "") == alone.format(name, convention=convention), name


def test_a_group_as_table_and_as_json(summary: Summary, run: Run, tmp_path: Path) -> None:
    summary.save(tmp_path / "s.json")
    group = summary.group("cat")
    table = run("show", "s.json", "--group", "cat", "--convention", "mean_of_image_stds").stdout.decode()
    assert "mean of image stds, range 0-1" in table.splitlines()[0] and "99%" in table and "std by convention" in table
    assert f"{group.percentiles['50'][0]:.4f}" in table
    found = json.loads(run("show", "s.json", "--group", "cat", "--json").stdout)
    assert found.pop("group") == "cat" and GroupSummary(**found) == group
    assert (
        run("show", "s.json", "--group", "cat", "--format", "json").stdout
        == run("show", "s.json", "--group", "cat", "--json").stdout
    )
