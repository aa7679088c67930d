"""The pages of `check`, `diff` and `tensor compare`: complete, escaped, alone, and opened in a real browser."""

import json
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import normcli
from normcli import report, stats
from normcli.constants.compare import diff
from normcli.constants.identify import check
from normcli.constants.parse_config import number
from normcli.report.axis import nice_ticks
from normcli.report.checks import render_check
from normcli.report.differences import render_diff
from normcli.report.figures import histograms
from normcli.report.pictures import Gallery
from normcli.summary import Summary
from normcli.tensor.profile import BINS, profile
from tests.support import needs
from tests.support.command import Run
from tests.support.images import photograph
from tests.support.report_pages import HOSTILE, Page, assert_alone, browse

# kind of images -> channels, dtype, suffix
KINDS: dict[str, tuple[int, type, str]] = {
    "gray": (1, np.uint8, ".png"),
    "rgb": (3, np.uint8, ".png"),
    "rgba": (4, np.uint8, ".png"),
    "thirteen bands": (13, np.uint16, ".tif"),
    "sixteen bits": (1, np.uint16, ".png"),
    "floats": (1, np.float32, ".tif"),
}


def dataset(folder: Path, kind: str, seed: int, count: int = 3) -> tuple[Summary, Gallery]:
    channels, dtype, suffix = KINDS[kind]
    for i in range(count):
        pixels = photograph(24 + 4 * i, 32, 3, seed + i).astype(np.float64)
        pixels = np.resize(pixels.transpose(2, 0, 1), (channels, *pixels.shape[:2])).transpose(1, 2, 0)
        scale = {np.uint8: 1.0, np.uint16: 16.0, np.float32: 0.01}[dtype]  # type: ignore[index]
        image: np.ndarray[Any, Any] = (pixels * scale).astype(dtype)
        path = folder / f"class {i % 2}" / f"{i}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if channels == 13:
            tifffile = needs.module("tifffile")
            tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig")
        else:
            Image.fromarray(image[:, :, 0] if channels == 1 else image).save(path)
    galleries: list[Gallery] = []
    alpha: Literal["keep", "drop"] = "keep" if kind == "rgba" else "drop"
    summary = stats(folder, group_by="folder", alpha=alpha, on_gallery=galleries.append)
    return summary, galleries[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_has_every_page(kind: str, tmp_path: Path) -> None:
    first, second = dataset(tmp_path / "a", kind, 1), dataset(tmp_path / "b", kind, 5, count=1)
    count = len(first[0].channels)
    pages = [report.render_page(summary, gallery=gallery) for summary, gallery in (first, second)]
    pages += [report.render_page(first[0])]
    difference = diff(first[0], second[0])
    for galleries in ((first[1], second[1]), (None, second[1]), (None, None)):
        pages.append(render_diff(first[0], second[0], difference, titles=("a", "b"), galleries=galleries))
    mean, std = [number("0.4")] * count, [number("0.2")] * count
    for row in (std, None):
        result = check(first[0], mean, row)
        pages.append(render_check(first[0], result, mean, row, title="a", name=".4", sentence="no match"))
    for page in pages:
        assert_alone(page)
        body = page.partition("</style>")[2].partition("<footer>")[0]
        assert not re.search(r"\b(nan|inf|Infinity|Undefined)\b|NaN", re.sub(r'"data:[^"]*"|<pre.*?</pre>', "", body))
    if kind == "thirteen bands":
        assert "Channel 12" in pages[0] and "Bands 0, 1 and 2" in pages[0]


def test_the_page_of_a_difference(tmp_path: Path) -> None:
    (a, gallery), (b, _) = dataset(tmp_path / "a", "rgb", 1), dataset(tmp_path / "b", "rgb", 7)
    difference = diff(a, b)
    assert difference.distance is not None
    for limit, words in ((100.0, "Within the limit"), (1e-6, "Over the limit")):
        text = Page(render_diff(a, b, difference, titles=("a.json", "b.json"), max_shift=limit)).text
        assert words in text and f"{limit}" in text
    page = render_diff(a, b, difference, titles=("a.json", "b.json"), galleries=(gallery, None))
    text = Page(page).text
    for words in ("a.json", "b.json", "Mean and std", "Pixel values", "2 groups changed", "its images were not read"):
        assert words in text, words
    for c in range(3):
        assert f"{a.mean[c]:.4f}" in text and f"{b.std[c]:.4f}" in text
    assert "same images and the same settings" in Page(render_diff(a, a, diff(a, a), titles=("a", "a"))).text
    other = a.replace(settings={**a.settings, "resize": 8})
    assert "Settings that differ" in render_diff(a, other, diff(a, other), titles=("a", "b"))


def test_one_channel_constant_and_groups_on_one_side(tmp_path: Path) -> None:
    (a, _), (b, _) = dataset(tmp_path / "a", "gray", 1), dataset(tmp_path / "b", "gray", 7)
    a.groups["left alone"] = a.groups[next(iter(a.groups))]
    assert "only in A" in Page(render_diff(a, b, diff(a, b), titles=("a", "b"))).text
    still = a.replace(std=[0.0], groups={})
    text = Page(render_diff(still, b, diff(still, b), titles=("a", "b"), max_shift=0.1)).text
    assert "from a constant channel" in text and "Over the limit" in text


def test_the_page_of_a_check(tmp_path: Path) -> None:
    summary, gallery = dataset(tmp_path / "a", "rgb", 1)
    mean = [number(f"{v:.4f}") for v in summary.mean]
    std = [number(f"{v:.4f}") for v in summary.std]
    result = check(summary, mean, std)
    page = render_check(summary, result, mean, std, title="a", name="mine", sentence="match: pooled", gallery=gallery)
    text = Page(page).text
    for words in (
        "match: pooled",
        "Advice: use them",
        "After normalizing",
        "the constants",
        "fits",
        "in the range 0-1",
    ):
        assert words in text, words
    reordered = [number(f"{255 * v:.2f}") for v in reversed(summary.mean)]
    result = check(summary, reordered, None)
    text = Page(render_check(summary, result, reordered, None, title="a", name="x", sentence=result.verdict)).text
    assert "0-255" in text and "BGR" in text and "Conventions" not in text


def test_check_and_diff_write_pages(run: Run, tmp_path: Path) -> None:
    dataset(tmp_path / "a", "rgb", 1), dataset(tmp_path / "b", "rgb", 7)
    plain = run("diff", "a", "b", "--json")
    done = run("diff", "a", "b", "--json", "--report", "diff.html", "--max-shift", "0.001")
    assert done.returncode == 1 and b"wrote diff.html" in done.stderr
    assert done.stdout.startswith(plain.stdout.rstrip().rstrip(b"}").rstrip())
    page = Page((tmp_path / "diff.html").read_text())
    assert "Over the limit" in page.text and page.tags.count("img") == 2 * 3 and "normcli diff a b" in page.text
    run("stats", "a", "-o", "a.json")
    done = run("check", "a.json", "--mean", ".5", ".5", ".5", "--std", ".2", ".2", ".2", "--report", "check.html")
    assert done.returncode == 1 and done.stdout
    page = Page((tmp_path / "check.html").read_text())
    assert "given constants" in page.text and "a.json" in page.text and "img" not in page.tags
    done = run("check", "a", "--preset", "imagenet", "--report", "-")
    assert_alone(done.stdout.decode())
    assert Page(done.stdout.decode()).tags.count("img") == 3
    for command in (["check", "a.json", "--preset", "imagenet"], ["diff", "a.json", "a.json"]):
        again = run(*command, "--report", "check.html")
        assert again.returncode == 2 and b"--force" in again.stderr and again.stdout == b""
        assert run(*command, "--force").returncode == 2
        assert run(*command, "--report", "-", "--json").returncode == 2


def test_the_python_twins_write_the_same_pages(run: Run, tmp_path: Path) -> None:
    dataset(tmp_path / "a", "rgb", 1), dataset(tmp_path / "b", "rgb", 7)
    run("stats", "a", "-o", "a.json")
    constants: Any = {"mean": [0.5] * 3, "std": [0.2] * 3}
    checked = normcli.check(tmp_path / "a.json", **constants)
    checked.report(tmp_path / "twin.html")
    run("check", "a.json", "--mean", "0.5 0.5 0.5", "--std", "0.2 0.2 0.2", "--report", "command.html")
    twin, command = (Page((tmp_path / name).read_text()) for name in ("twin.html", "command.html"))
    assert_alone((tmp_path / "twin.html").read_text())
    body = [page.text.partition("own constants, pooled")[2].partition("normcli")[0] for page in (twin, command)]
    assert body[0] == body[1] and "Mean and std" in body[0]
    assert checked.to_dict() == json.loads(run("check", "a.json", "--mean=.5,.5,.5", "--std=.2,.2,.2", "--json").stdout)
    changed = normcli.diff(tmp_path / "a.json", tmp_path / "b")
    changed.report(tmp_path / "twin.html", max_shift=0.001)
    text = Page((tmp_path / "twin.html").read_text()).text
    assert "Over the limit" in text and "a.json" in text
    assert "page" not in changed.to_dict() and pickle.loads(pickle.dumps(changed)) == changed
    verified = normcli.verify_statistics(tmp_path / "a.json", tmp_path / "a")
    verified.report(tmp_path / "verified.html", titles=("then", "now"))
    assert "then" in Page((tmp_path / "verified.html").read_text()).text
    with pytest.raises(normcli.OutputError):
        changed.report(tmp_path / "absent/page.html")
    summary = Summary.load(tmp_path / "a.json")
    with pytest.raises(normcli.UsageError, match="no page"):
        diff(summary, summary).report(tmp_path / "x.html")
    with pytest.raises(normcli.UsageError, match="no page"):
        check(summary, summary.mean, summary.std).report(tmp_path / "x.html")


def test_names_are_escaped_on_every_page(tmp_path: Path) -> None:
    summary, gallery = dataset(tmp_path / "a", "rgb", 1)
    hostile = summary.replace(
        channels=[HOSTILE, "</script><script>alert(1)</script>", '"><b>'],
        groups={HOSTILE: next(iter(summary.groups.values()))},
        settings={**summary.settings, HOSTILE: HOSTILE},
        provenance={"normcli": HOSTILE, "digest": HOSTILE},
    )
    origin = report.Origin(created=HOSTILE, command=HOSTILE)
    changed = hostile.replace(groups={"other": hostile.groups[HOSTILE]}, settings=summary.settings)
    mean = [number("0.5")] * 3
    result = check(hostile, mean, mean)
    remarked = replace(result, remarks=[HOSTILE], advice=HOSTILE, order=HOSTILE)
    words = {"title": HOSTILE, "name": HOSTILE, "sentence": HOSTILE}
    pages = [
        render_diff(hostile, changed, diff(hostile, changed), titles=(HOSTILE, HOSTILE), origin=origin),
        render_check(hostile, remarked, mean, mean, origin=origin, gallery=gallery, **words),
    ]
    for page in pages:
        assert_alone(page)
        assert "<img src=x" not in page and "alert(1)</script>" not in page


def test_tensor_compare_writes_a_page(run: Run, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(2, 3, (20, 60, 3, 3)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    x[1, 2] = np.inf
    np.save(tmp_path / "x&y.npy", x)
    done = run(
        "tensor", "compare", "x&y.npy", "--layout", "NCHW", "--with", "batch_norm,layer_norm", "--report", "p.html",
        "--per", "channel",
    )  # fmt: skip
    assert done.returncode == 0 and b"wrote p.html" in done.stderr and b"batch_norm" in done.stdout
    page = (tmp_path / "p.html").read_text()
    assert_alone(page)
    text = Page(page).text
    for words in ("x&y.npy", "20 × 60 × 3 × 3", "20 samples, 60 channels", "Channels", "infinite"):
        assert words in text, words
    again = run("tensor", "compare", "x&y.npy", "--layout", "NCHW", "--report", "p.html")
    assert again.returncode == 2 and b"--force" in again.stderr
    out = run("tensor", "compare", "x&y.npy", "--layout", "NCHW", "--with", "layer_norm", "--report", "-")
    assert_alone(out.stdout.decode())
    both = run("tensor", "compare", "x&y.npy", "--layout", "NCHW", "--report", "-", "--json")
    assert both.returncode == 2 and both.stdout == b"" and both.stderr.count(b"\n") == 1


def test_tensor_compare_draws_what_has_no_channels(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "three.npy", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    done = run("tensor", "compare", "three.npy", "--with", "tensor_norm", "--report", "p.html")
    assert done.returncode == 0, done.stderr
    text = Page((tmp_path / "p.html").read_text()).text
    assert "--layout adds maps" in text and "samples × channels" not in text


def test_a_profile_is_that_of_loops() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (3, 5, 4, 4))
    x[0, 1, 2, 3], x[2, 4] = np.nan, np.inf
    for layout, y in (("NCHW", x), ("NHWC", np.moveaxis(x, 1, 3))):
        found = profile(y, layout)
        assert (found.samples, found.channels, len(found.histogram)) == (3, 5, BINS)
        assert sum(found.histogram) == int(np.isfinite(x).sum())
        for n in range(3):
            for c in range(5):
                values = [v for v in x[n, c].ravel().tolist() if math.isfinite(v)]
                mean, std = found.means[n][c], found.stds[n][c]
                if not values:
                    assert math.isnan(mean) and math.isnan(std)
                    continue
                expected = sum(values) / len(values)
                assert mean == pytest.approx(expected)
                assert std == pytest.approx(math.sqrt(sum((v - expected) ** 2 for v in values) / len(values)))


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (1,), (), (2, 100), (40, 3)])
def test_a_profile_of_any_shape(shape: tuple[int, ...]) -> None:
    found = profile(np.ones(shape, np.float16), None)
    assert sum(found.histogram) == math.prod(shape)
    assert len(found.means) <= 12 and all(len(row) <= 48 for row in found.means)
    far = profile(np.array([[0.0, 1.0, 2.0, 3.0] * 100 + [1e300]]), None)
    assert far.high < 1e300 and sum(far.histogram) == 401


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_opens_them(dark: bool, run: Run, tmp_path: Path) -> None:
    (a, gallery), (b, _) = dataset(tmp_path / "a", "rgb", 1, count=9), dataset(tmp_path / "b", "rgb", 5)
    bands = dataset(tmp_path / "c", "thirteen bands", 2)
    mean = [number("0.5")] * 3
    result = check(a, mean, mean)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(0, 1, (9, 50, 2, 2)))
    run("tensor", "compare", "x.npy", "--layout", "NCHW", "--report", "p.html")
    long = "a name without any space that is longer than a narrow window".replace(" ", "_")
    pages = {
        "difference": render_diff(a, b, diff(a, b), titles=(long, "b"), galleries=(gallery, None), max_shift=0.1),
        "check": render_check(a, result, mean, mean, title=long, name="constants", sentence=long, gallery=gallery),
        "bands": report.render_page(bands[0], gallery=bands[1]),
        "comparison": (tmp_path / "p.html").read_text(),
    }
    assert len(browse(pages, tmp_path / "profile", dark=dark)) == 12


@pytest.mark.parametrize("values", [(1e20, 1e20), (1e12, 1e12 + 1e6), (-3e4, 2e30), (1e-30, 4e-30), (-5.0, -5.0)])
def test_any_range_of_floats_has_a_page(values: tuple[float, float], tmp_path: Path) -> None:
    for i in range(2):
        Image.fromarray(np.linspace(*values, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / f"{i}.tif")
    galleries: list[Gallery] = []
    summary = stats(tmp_path, on_gallery=galleries.append)
    assert_alone(report.render_page(summary, gallery=galleries[0]))
    assert_alone(render_diff(summary, summary, diff(summary, summary), titles=("a", "b")))
    for figure in histograms(summary):
        assert len(figure.axis.ticks) >= 1 and all(0 <= at <= 100 for at in figure.axis.ticks.values())


@given(st.floats(-1e30, 1e30), st.floats(0, 1e30), st.integers(1, 8))
def test_ticks_are_round_few_and_within(low: float, span: float, count: int) -> None:
    ticks = nice_ticks(low, low + span, count)
    assert 0 < len(ticks) <= 3 * count and ticks == sorted(ticks)
    assert all(
        low - 1e-6 * abs(low) - 1e-6 * span <= tick <= low + span + 1e-6 * span + 1e-6 * abs(low) for tick in ticks
    )
