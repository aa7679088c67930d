"""The page: whole, escaped, self-contained, and opened in a real browser without error or request."""

import http.server
import json
import re
import subprocess
import threading
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normcli import report, stats
from normcli.report.pictures import Gallery, Picture
from normcli.runs.gallery import SHOWN
from normcli.summary import Summary
from tests.support import needs
from tests.support.command import ROOT, Run
from tests.support.images import photograph

HOSTILE = '<img src=x onerror="document.title=1">&\'".png'


class Page(HTMLParser):
    """Tags opened and closed in order, sources, and the text."""

    VOID = frozenset({"meta", "link", "img", "br", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == [], "unclosed tags"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


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
    assert "script" not in page.tags and "iframe" not in page.tags
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "<img src=x" not in text and "&lt;img src=x" in text
    for words in ("How bright", "5 conventions", "What normalizing does", "extreme images", "3 groups", "1 failed"):
        assert words in page.text, words
    assert "not an image" in page.text


def test_the_extremes_are_the_extremes(folder: Path) -> None:
    found: list[Gallery] = []
    stats(folder, on_gallery=found.append)
    kinds = found[0].extremes
    assert list(kinds) == ["darkest", "brightest", "flattest", "farthest from the mean"]
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
    far = {
        str(r["path"]): sum(((m - c) / s) ** 2 for m, c, s in zip(r["mean"], summary.mean, summary.std, strict=True))
        for r in records
    }
    farthest = sorted(far, key=lambda path: (-far[path], path))[:SHOWN]
    assert [p.key for p in galleries[0].extremes["farthest from the mean"]] == farthest


def test_an_image_that_is_gone_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = stats(folder)
    text = report.render_page(summary, gallery=Gallery(extremes={"darkest": [Picture(key="x.png")]}))
    assert "gone" in Page(text).text


def test_upright_and_sixteen_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(photograph(80, 120, 3, 1)).save(tmp_path / "lying.jpg", exif=exif)
    Image.fromarray(photograph(80, 120, 1, 2)[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    found: list[Gallery] = []
    stats(tmp_path, on_gallery=found.append)
    sizes = {Path(p.key).name: (p.width, p.height) for p in found[0].extremes["darkest"]}
    assert sizes == {"lying.jpg": (80, 120), "deep.png": (120, 80)}


def test_show_makes_it_without_images(run: Run, tmp_path: Path) -> None:
    done = run("show", ROOT / "sample_data" / "expected.json", "--report", "page.html")
    assert done.returncode == 0 and done.stdout == b""
    page = Page((tmp_path / "page.html").read_text())
    assert "extreme images" not in page.text and "How bright" in page.text
    again = run("show", ROOT / "sample_data" / "expected.json", "--report", "page.html")
    assert again.returncode == 2 and b"--force" in again.stderr
    out = run("show", ROOT / "sample_data" / "expected.json", "--report", "-")
    assert out.stdout.decode() == (tmp_path / "page.html").read_text()


def test_only_the_page_goes_to_stdout(run: Run) -> None:
    done = run("stats", ROOT / "sample_data" / "digits", "--report", "-")
    Page(done.stdout.decode())
    assert done.stdout.rstrip().endswith(b"</html>")
    done = run("stats", ROOT / "sample_data" / "digits", "--report", "-", "--json")
    assert done.returncode == 2 and done.stdout == b""


def test_a_path_that_cannot_be_written_is_one_line(run: Run, tmp_path: Path) -> None:
    done = run("stats", ROOT / "sample_data" / "digits", "--report", "absent/page.html")
    assert done.returncode == 2 and b"folder absent does not exist" in done.stderr
    done = run("show", ROOT / "sample_data" / "expected.json", "--report", "/dev/full", "-f")
    assert done.returncode == 5 and done.stderr.count(b"\n") == 1


def test_a_missing_extra_is_one_line_before_the_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jinja2.py").write_text("raise ImportError")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = run("stats", ROOT / "sample_data" / "digits", "--report", "page.html", env=environment)
    assert done.returncode != 0 and done.stdout == b""
    assert done.stderr == b'normcli: --report needs jinja2: pip install "normcli[report]"\n'


# what is odd about them -> words that its page must hold, and words that it must not
ODD: dict[str, tuple[list[str], list[str]]] = {
    "no conventions": (["mean0.5833", "1 image"], ["each image's own std", "5 conventions"]),
    "raw units": (["max 1000", "raw units, L"], ["range 0-255"]),
    "constant": (["constant channel, std 0: L", "5 conventions", "std0.0000"], ["NaN", "timm"]),
    "six bands": (["range 0-1, 6 bands", "5std0.1085"], ["RGB;", "undefined"]),
    "one image": (["1 image", "each image's own std", "5 conventions"], ["1 images", "NaN"]),
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
        summary = replace(summary, conventions={}, provenance={}, composition={"format": {}})
    elif change == "six bands":
        summary = bands(tmp_path)
    page = Page(report.render_page(summary, gallery=found[0]))
    present, absent = ODD[change]
    assert [words for words in present if words not in page.text] == []
    assert [words for words in absent if words in page.text] == []


def bands(folder: Path) -> Summary:
    from normcli.runs.stats import provenance
    from normcli.tally import Tally

    tally = Tally()
    tally.count(np.arange(6 * 16, dtype=np.uint8).reshape(4, 4, 6))
    settings = {"color": "auto", "alpha": "drop", "max_value": None}
    return Summary.of(tally, settings, provenance())


def browser() -> str:
    return needs.program("chromium", "chromium-browser", "google-chrome")


FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
]


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_opens_it(width: int, dark: bool, folder: Path, run: Run, tmp_path: Path) -> None:
    """No console error, no request besides the page itself, nothing wider than the window."""
    chromium = browser()
    run("stats", folder, "--group-by", "folder", "--report", "page.html")
    text = (tmp_path / "page.html").read_text()
    asked: list[str] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            # an <iframe> of the wanted width: its inner width is reported in the title by the outer page
            body = OUTER % width if self.path == "/" else text
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        profile = [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width + 40},900"]
        scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
        done = subprocess.run(
            [chromium, *FLAGS, *scheme, *profile, "--virtual-time-budget=3000", "--dump-dom", address],
            capture_output=True,
            text=True,
            timeout=120,
        )
        server.shutdown()
    assert "CONSOLE" not in done.stderr, done.stderr
    assert [path for path in asked if path != "/favicon.ico"] == ["/", "/page.html"]
    found = json.loads(re.search(r"<title>(.*?)</title>", done.stdout).group(1))  # type: ignore[union-attr]
    assert found["wide"] <= width and found["title"].endswith("normcli")
    assert found["background"] == ("rgb(19, 20, 23)" if dark else "rgb(251, 250, 248)")
    assert found["broken"] == 0 and found["images"] > 20


OUTER = """<!doctype html><title>{}</title><link rel="icon" href="data:,"><body style="margin:0">
<iframe id=f src="/page.html" style="border:0;width:%dpx;height:800px"></iframe><script>
document.getElementById("f").onload = (event) => {
  const page = event.target.contentDocument, images = [...page.images];
  document.title = JSON.stringify({
    wide: page.documentElement.scrollWidth, title: page.title, images: images.length,
    broken: images.filter((image) => !image.naturalWidth).length,
    background: getComputedStyle(page.body).backgroundColor,
  });
};
</script>"""
