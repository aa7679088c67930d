"""The pages: complete, escaped, self-contained, and opened in a real browser without error or request."""

import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normcli import images, report, stats
from normcli.report.pictures import Gallery, Picture
from normcli.runs.gallery import SHOWN
from normcli.summary import Summary
from tests.support.command import ROOT, Run
from tests.support.images import photograph
from tests.support.report_pages import HOSTILE, Page, assert_alone, browse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, one dark and one bright image, a broken file, a hostile name."""
    made = tmp_path / "set"
    for seed in range(8):
        (made / f"class {seed % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(60, 90, 3, seed)).save(made / f"class {seed % 2}" / f"{seed}.png")
    Image.fromarray(np.full((40, 40, 3), 3, np.uint8)).save(made / "dark.png")
    Image.fromarray(np.full((40, 40, 3), 250, np.uint8)).save(made / "bright.png")
    Image.fromarray(np.full((40, 40), 251, np.uint8)).save(made / HOSTILE)
    (made / ("broken" + HOSTILE)).write_bytes(b"no image")
    return made


def test_it_is_whole_escaped_and_alone(folder: Path, run: Run, tmp_path: Path) -> None:
    done = run("stats", folder, "--group-by", "folder", "--report", "page.html", "-o", "s.json")
    assert done.returncode == 3  # the broken file
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert_alone(text)
    assert "<img src=x" not in text and "&lt;img src=x" in text
    for words in ("Pixel values", "ImageNet's constants", "6 conventions", "Normalization schemes", "Extreme images"):
        assert words in page.text, words
    for words in ("Image sizes", "3 groups", "Duplicates", "1 failed", "not an image", "normcli stats", " UTC"):
        assert words in page.text, words


def test_the_extremes_are_the_extremes(folder: Path) -> None:
    found: list[Gallery] = []
    stats(folder, on_gallery=found.append)
    kinds = found[0].extremes
    assert list(kinds) == ["darkest", "brightest", "flattest", "strongest color cast"]
    assert all(len(pictures) == SHOWN for pictures in kinds.values())
    assert Path(kinds["darkest"][0].key).name == "dark.png"
    assert Path(kinds["brightest"][0].key).name == HOSTILE
    assert {Path(p.key).name for p in kinds["flattest"][:3]} == {"dark.png", "bright.png", HOSTILE}
    assert all(p.data and p.width <= 240 and p.height <= 240 for pictures in kinds.values() for p in pictures)
    assert [step.scheme for step in found[0].strip] == ["as stored", "unit", "signed", "contrast"]


def test_extremes_do_not_depend_on_engine_or_batches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(1200):  # more than the pool holds
        Image.fromarray(rng.integers(0, 256, 3, dtype=np.uint8)[None, None].repeat(2, 0)).save(tmp_path / f"{i}.png")
    galleries: list[Gallery] = []
    records: list[dict[str, list[float]]] = []
    for engine, workers in (("serial", 1), ("threads", 3), ("processes", 2)):
        summary = stats(tmp_path, engine=engine, workers=workers, on_gallery=galleries.append)
    stats(tmp_path, on_image=records.append)
    assert galleries[0] == galleries[1] == galleries[2]
    casts = {str(r["path"]): max(r["mean"]) - min(r["mean"]) for r in records}
    strongest = sorted(casts, key=lambda path: (-casts[path], path))[:SHOWN]
    assert [p.key for p in galleries[0].extremes["strongest color cast"]] == strongest
    far = {
        str(r["path"]): sum(((m - c) / s) ** 2 for m, c, s in zip(r["mean"], summary.mean, summary.std, strict=True))
        for r in records
    }
    assert galleries[0].strip[0].picture.key == min(far, key=lambda path: (far[path], path))


def test_an_image_that_is_gone_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = stats(folder)
    text = report.render_page(summary, gallery=Gallery(extremes={"darkest": [Picture(key="x.png")]}))
    assert "cannot be read any more" in Page(text).text


def test_upright_and_sixteen_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(photograph(80, 120, 3, 1)).save(tmp_path / "lying.jpg", exif=exif)
    Image.fromarray(photograph(80, 120, 1, 2)[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    found: list[Gallery] = []
    stats(tmp_path, on_gallery=found.append)
    sizes = {Path(p.key).name: (p.width, p.height) for p in found[0].extremes["from dark to bright"]}
    assert sizes == {"lying.jpg": (80, 120), "deep.png": (120, 80)}


def test_show_makes_it_without_images(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    done = run("show", ROOT / "sample_data" / "expected.json", "--report", "page.html")
    assert done.returncode == 0 and done.stdout == b""
    page = Page((tmp_path / "page.html").read_text())
    assert "xtreme images" not in page.text and "Pixel values" in page.text
    assert "pictures, sizes and duplicates need the images" in page.text
    again = run("show", ROOT / "sample_data" / "expected.json", "--report", "page.html")
    assert again.returncode == 2 and b"--force" in again.stderr
    out = run("show", ROOT / "sample_data" / "expected.json", "--report", "-")
    assert out.stdout.decode().replace("--report -", "--report page.html") == (tmp_path / "page.html").read_text()
    assert "14 November 2023, 22:13 UTC" in page.text


def test_only_the_page_goes_to_stdout(run: Run) -> None:
    done = run("stats", ROOT / "sample_data" / "odd" / "digits", "--report", "-")
    Page(done.stdout.decode())
    assert done.stdout.rstrip().endswith(b"</html>")
    done = run("stats", ROOT / "sample_data" / "odd" / "digits", "--report", "-", "--json")
    assert done.returncode == 2 and done.stdout == b""


def test_a_path_that_cannot_be_written_is_one_line(run: Run, tmp_path: Path) -> None:
    done = run("stats", ROOT / "sample_data" / "odd" / "digits", "--report", "absent/page.html")
    assert done.returncode == 2 and b"folder absent does not exist" in done.stderr
    done = run("show", ROOT / "sample_data" / "expected.json", "--report", "/dev/full", "-f")
    assert done.returncode == 5 and done.stderr.count(b"\n") == 1


def test_a_missing_extra_is_one_line_before_the_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jinja2.py").write_text("raise ModuleNotFoundError(name='jinja2')")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = run("stats", ROOT / "sample_data" / "odd" / "digits", "--report", "page.html", env=environment)
    assert done.returncode != 0 and done.stdout == b""
    assert done.stderr == b'normcli: --report needs jinja2: pip install "normcli[report]"\n'


# what is odd about them -> words that its page must hold, and words that it must not
ODD: dict[str, tuple[list[str], list[str]]] = {
    "no conventions": (["mean0.5833", "1 image"], ["each image's own std", "6 conventions"]),
    "raw units": (["max 1000", "raw units, L"], ["range 0-255"]),
    "constant": (["constant channel, std 0: L", "6 conventions", "std0.0000"], ["NaN", "timm"]),
    "six bands": (["range 0-1, 6 bands", "Channel 5", "0.1085"], ["RGB;", "undefined", "ImageNet"]),
    "one image": (["1 image", "each image's own std", "6 conventions"], ["1 images", "NaN"]),
}


@pytest.mark.parametrize("change", ODD)
def test_odd_statistics_make_a_page(change: str, tmp_path: Path) -> None:
    Image.fromarray(photograph(20, 20, 3, 1)).save(tmp_path / "a.png")
    if change == "constant":
        Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "a.png")
    if change == "raw units":
        (tmp_path / "a.png").unlink()
        Image.fromarray(np.linspace(0, 1000, 400, dtype=np.float32).reshape(20, 20)).save(tmp_path / "a.tif")
    found: list[Gallery] = []
    summary = stats(tmp_path, on_gallery=found.append)
    if change == "no conventions":
        summary = summary.replace(conventions={}, provenance={}, composition={"format": {}})
    elif change == "six bands":
        summary = bands(tmp_path)
    page = Page(report.render_page(summary, gallery=found[0]))
    present, absent = ODD[change]
    assert [words for words in present if words not in page.text] == []
    assert [words for words in absent if words in page.text] == []


def bands(folder: Path) -> Summary:
    from normcli.tally import Tally

    tally = Tally()
    tally.count(np.arange(6 * 16, dtype=np.uint8).reshape(4, 4, 6))
    settings = {"color": "auto", "alpha": "drop", "max_value": None}
    return Summary.of(tally, settings, images.versions())


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_opens_it(dark: bool, folder: Path, run: Run, tmp_path: Path) -> None:
    run("stats", folder, "--group-by", "folder", "--report", "page.html")
    for view in browse({"page": (tmp_path / "page.html").read_text()}, tmp_path / "profile", dark=dark):
        assert view["images"] > 20


def test_a_report_changes_no_statistic(folder: Path) -> None:
    for options in ({}, {"group_by": "folder"}, {"resize": 32, "center_crop": 24}):
        plain = stats(folder, **options).to_json()
        assert stats(folder, on_gallery=lambda _: None, **options).to_json() == plain


def test_sizes_classes_and_copies_are_those_of_the_files(folder: Path) -> None:
    (folder / "class 1" / "copy.png").write_bytes((folder / "class 0" / "0.png").read_bytes())
    (folder / "class 1" / "again.png").write_bytes((folder / "class 1" / "1.png").read_bytes())
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(photograph(80, 120, 3, 1)).save(folder / "lying.jpg", exif=exif)
    found: list[Gallery] = []
    for engine in ("serial", "processes"):
        stats(folder, on_gallery=found.append, engine=engine, workers=2, resize=32)
    facts = found[0].facts
    assert facts is not None and facts == found[1].facts
    assert (facts.images, facts.distinct_sizes) == (14, 3)
    assert facts.sizes == [(90, 60, 10), (40, 40, 3), (80, 120, 1)]  # upright, and before --resize
    assert (facts.widths, facts.heights) == ((40, 90, 90), (40, 60, 120))
    assert sum(facts.grid.values()) == sum(facts.areas.values()) == sum(facts.file_sizes.values()) == 14
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("broken")]
    assert facts.bytes == sum(path.stat().st_size for path in files)
    assert {Path(label).name: count for label, count in facts.labels} == {"class 1": 6, "class 0": 4, "set": 4}
    assert (facts.copies.sets, facts.copies.repeated, facts.copies.conflicts) == (2, 2, 1)
    first, second = facts.copies.largest
    assert [Path(key).name for key in first.keys] == ["0.png", "copy.png"]
    assert set(first.labels) == {"class 0", "class 1"} and second.labels == ["class 1"]
    text = Page(report.render_page(stats(folder), gallery=found[0])).text
    assert "1 set with different classes" in text and "2 images repeat another one" in text


def test_without_room_for_the_table_the_run_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(sqlite3.Connection):
        def executemany(self, *_: object) -> sqlite3.Cursor:
            raise sqlite3.OperationalError("database or disk is full")

    connect = sqlite3.connect
    monkeypatch.setattr("sqlite3.connect", lambda *a, **k: connect(*a, **k, factory=Full))
    found: list[Gallery] = []
    summary = stats(folder, on_gallery=found.append)
    assert summary.images == 11 and found[0].facts is None and found[0].extremes
    assert "left out of the report" in caplog.text and "disk is full" in caplog.text


def test_names_of_channels_groups_and_settings_are_escaped(tmp_path: Path) -> None:
    Image.fromarray(photograph(20, 20, 3, 1)).save(tmp_path / "a.png")
    summary = stats(tmp_path, group_by="folder")
    group = next(iter(summary.groups.values()))
    hostile = summary.replace(
        channels=[HOSTILE, "</script><script>alert(1)</script>", '"><b>'],
        groups={HOSTILE: group},
        settings={**summary.settings, HOSTILE: HOSTILE},
        provenance={HOSTILE: HOSTILE, "digest": HOSTILE, "stamp": {HOSTILE: HOSTILE}},
        composition={**summary.composition, "format": {HOSTILE: 1, "</style>": 2}},
        failures={HOSTILE: 1},
        failed=1,
    )
    origin = report.Origin(created=HOSTILE, command=HOSTILE, statistics=HOSTILE)
    text = report.render_page(hostile, title=HOSTILE, origin=origin)
    assert_alone(text)
    assert "<img src=x" not in text and "alert(1)</script>" not in text


def test_colors_have_contrast() -> None:
    """Text has a contrast of 4.5 and figures of 3 on every ground, in light and in dark (WCAG 2.2, 1.4.3, 1.4.11)."""
    css = (ROOT / "normcli" / "report" / "templates" / "style.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", css, re.S):
        colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        if "ink" not in colors or len(colors) < 15:
            continue
        texts = ("ink", "soft", "accent", "good", "bad", "R", "G", "B", "L", "A", "c0", "c1", "c2", "c3")
        for ground in ("ground", "card", "warn"):
            low = {name for name in texts if contrast(colors[name], colors[ground]) < 4.5}
            assert not low, (ground, low)
        assert contrast(colors["bar"], colors["card"]) >= 3 and contrast(colors["warn-line"], colors["card"]) >= 3


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
