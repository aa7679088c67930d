"""Pages of reports: a parser that checks them, and a browser that opens them."""

import base64
import hashlib
import http.server
import json
import re
import subprocess
import threading
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.support import needs

HOSTILE = '<img src=x onerror="document.title=1">&\'".png'


class Page(HTMLParser):
    """Tags opened and closed in order, sources, and the text."""

    VOID = frozenset({"meta", "link", "img", "br", "line", "wbr"})

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


def assert_alone(text: str) -> None:
    """Assert that a page loads nothing and runs only the script that its policy names."""
    page = Page(text)
    assert page.tags.count("script") == 1 and "iframe" not in page.tags
    assert page.sources and all(source.startswith(("data:", "#")) for source in page.sources)
    assert not re.search(r"https?://|@import|url\(", text)
    script = re.search("<script>(.*?)</script>", text, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


WIDTHS = (400, 1000, 1600)
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


def browse(pages: Mapping[str, str], profile: Path, *, dark: bool) -> list[dict[str, Any]]:
    """Open pages in Chromium at 400, 1000 and 1600 pixels, and return measures of the layout of each.

    Asserts that no page writes to the console, asks for anything besides itself, is wider than the window, or has a
    picture that does not load; and that the policy lets the script add its buttons.
    """
    chromium = needs.program("chromium", "chromium-browser", "google-chrome")
    requests: list[str] = []
    frames = "".join(
        f'<iframe src="/{name}.html" style="border:0;width:{width}px;height:800px"></iframe>'
        for name in pages
        for width in WIDTHS
    )

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            # <iframe>s of the wanted widths: the outer page reports of each in its title
            body = OUTER.replace("FRAMES", frames) if self.path == "/" else pages[Path(self.path).stem]
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
        window = [f"--user-data-dir={profile}", "--window-size=1700,900"]
        done = subprocess.run(
            [chromium, *FLAGS, *scheme, *window, "--virtual-time-budget=3000", "--dump-dom", address],
            capture_output=True,
            text=True,
            timeout=120,
        )
        server.shutdown()
    assert "CONSOLE" not in done.stderr, done.stderr
    wanted = ["/", *(f"/{name}.html" for name in pages for _ in WIDTHS)]
    assert sorted(path for path in requests if path != "/favicon.ico") == sorted(wanted)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    views: list[dict[str, Any]] = json.loads(title[1])
    assert len(views) == len(pages) * len(WIDTHS)
    for view in views:
        assert view["wide"] <= view["width"] and view["title"].endswith("normcli"), view
        assert view["background"] == ("rgb(19, 20, 23)" if dark else "rgb(251, 250, 248)"), view
        assert view["broken"] == 0 and view["buttons"] == view["copies"], view
    return views


OUTER = """<!doctype html><title>[]</title><link rel="icon" href="data:,"><body style="margin:0">FRAMES<script>
addEventListener("load", () => {
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, images = [...page.images];
    return {
      width: frame.clientWidth, wide: page.documentElement.scrollWidth, title: page.title, images: images.length,
      broken: images.filter((image) => !image.naturalWidth).length,
      copies: page.querySelectorAll(".copy").length,
      buttons: page.querySelectorAll(".copy button").length,
      background: getComputedStyle(page.body).backgroundColor,
    };
  }));
});
</script>"""
