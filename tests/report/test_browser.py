"""The page in a real browser: at the width of a phone and of a desk nothing is wider than the window, light and dark."""

import html
import json
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from recprune_export.bundle import Manifest
from recprune_export.report import BundlePair, render_bundle_report, render_check_report, render_comparison
from recprune_export.report.sweep_file import read_sweep
from tests.report import samples
from tests.report.pages import read
from tests.report.test_check_page import made

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
BROWSER = next((path for path in map(shutil.which, BROWSERS) if path), None)
HEIGHT = 900

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH, such as Debian's package chromium"),
]

# The page stands in a frame, since a window cannot be made as narrow as a phone; the script is the frame's neighbour's, not its.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><style>body {{ margin: 0 }}
iframe {{ border: 0; display: block }}</style><iframe width="{width}" height="{height}" srcdoc="{page}"></iframe><pre id="found"></pre>
<script>addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement, width = root.clientWidth;
  page.querySelectorAll("details").forEach((e) => {{ e.open = true; }});
  const scrolls = (e) => e.closest(".scroll, .hidden, .skip") && !e.matches(".scroll");
  const wide = [...page.body.querySelectorAll("*")].filter((e) => !scrolls(e) && e.getBoundingClientRect().right > width + 1);
  const letters = [...page.querySelectorAll("svg text")].map((e) => e.getBoundingClientRect().height);
  document.querySelector("#found").textContent = JSON.stringify({{
    width, scroll: root.scrollWidth, wide: wide.map((e) => e.tagName + "." + e.getAttribute("class")),
    scrolling: [...page.querySelectorAll(".scroll:not(.code)")].filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent),
    regions: [...page.querySelectorAll(".scroll")].map((e) => e.getBoundingClientRect().width),
    letters: Math.min(99, ...letters), pictures: page.querySelectorAll("svg").length, height: root.scrollHeight,
    ground: page.defaultView.getComputedStyle(page.body).backgroundColor }});
}});</script>"""


def browse(*arguments: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def framed(page: str, width: int, folder: Path) -> str:
    file = folder / f"frame-{width}.html"
    file.write_text(FRAME.format(width=width, height=HEIGHT, page=html.escape(page)))
    return file.as_uri()


def theme(dark: bool) -> str:
    return f"--blink-settings=preferredColorScheme={0 if dark else 1}"


PAGES: dict[str, Callable[[Path], str]] = {
    "bundle": lambda folder: render_bundle_report(_long(), encoded=True, sweep=read_sweep(_written(folder))),
    "hostile": lambda folder: render_bundle_report(samples.full(samples.HOSTILE * 3), encoded=True),
    "pair": lambda folder: render_comparison(BundlePair(_long(), _long())),
    "bare": lambda folder: render_bundle_report(samples.bare(), encoded=False),
    "check": lambda folder: render_check_report(made(1.3, "artifacts/" + "a" * 200)),
}


def _long() -> Manifest:
    return samples.full("a_name_without_any_place_to_break_it_" * 4, groups=30)


def _written(folder: Path) -> Path:
    (folder / "sweep.json").write_text(json.dumps(samples.sweep()))
    return folder


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", PAGES)
def test_nothing_is_wider_than_the_window(kind: str, width: int, tmp_path: Path) -> None:
    dump = browse("--dump-dom", "--virtual-time-budget=5000", framed(PAGES[kind](tmp_path), width, tmp_path))
    match = re.search(r'<pre id="found">(.+?)</pre>', dump)
    assert match is not None, dump[-500:]
    found = json.loads(html.unescape(match[1]))
    assert found["width"] == width
    assert found["scroll"] <= width, found["wide"]
    assert not found["wide"]
    assert all(region <= width for region in found["regions"])
    assert not found["scrolling"], "on a phone tables stack, on a desk there is room for them"
    assert found["letters"] >= 11, "letters in pictures are too small to read"
    assert (found["pictures"] > 0) == (kind != "bare")


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_painted_in_the_colours_of_its_theme(dark: bool, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    address = framed(PAGES["bundle"](tmp_path), 1280, tmp_path)
    browse(f"--screenshot={picture}", f"--window-size=1280,{HEIGHT}", theme(dark), address)
    pixels = read_png(picture)
    brightness = sorted(sum(pixel) / 3 for row in pixels[:HEIGHT:7] for pixel in row[::7])
    ground, ink = brightness[len(brightness) // 2], brightness[-1 if dark else 0]
    assert ground < 60 if dark else ground > 220
    assert ink > 180 if dark else ink < 80
    assert len(set(brightness)) > 50


def test_all_is_printed(tmp_path: Path) -> None:
    paper, page = tmp_path / "page.pdf", tmp_path / "page.html"
    page.write_text(PAGES["bundle"](tmp_path))
    browse("--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    assert paper.read_bytes().startswith(b"%PDF")
    closed = tmp_path / "closed.pdf"
    page.write_text(PAGES["bundle"](tmp_path).replace("details::details-content", "details::nothing"))
    browse("--no-pdf-header-footer", f"--print-to-pdf={closed}", page.as_uri())
    pages = [len(re.findall(rb"/Type\s*/Page\b", file.read_bytes())) for file in (closed, paper)]
    assert 0 < pages[0] < pages[1], "tables that are folded on the screen are not on paper"


@pytest.mark.parametrize(("anchor", "is_open"), [("", False), ("#parity", True)])
def test_a_link_unfolds_its_section(anchor: str, is_open: bool, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGES["bundle"](tmp_path))
    shown = read(browse("--dump-dom", "--virtual-time-budget=5000", page.as_uri() + anchor))
    (fold,) = (
        fold for fold in shown.all("details") if any(s.attributes["id"] == "parity" for s in fold.all("section"))
    )
    assert ("open" in fold.attributes) == is_open


def read_png(path: Path) -> list[list[tuple[int, int, int]]]:
    """Rows of red, green and blue, of a picture as Chromium writes it: eight bits, not interlaced."""
    data, place, packed = path.read_bytes(), 8, b""
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        chunk = data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, _, depth, colour = struct.unpack(">IIBB", chunk[:10])
            assert (depth, colour) in ((8, 2), (8, 6))
        packed += chunk if kind == b"IDAT" else b""
        place += 12 + length
    step = 3 if colour == 2 else 4
    raw, line = zlib.decompress(packed), width * step
    before, rows = bytearray(line), []
    for start in range(0, len(raw), line + 1):
        row = _unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + line]), before, step)
        rows.append([(row[i], row[i + 1], row[i + 2]) for i in range(0, line, step)])
        before = row
    return rows


def _unfiltered(kind: int, row: bytearray, above: bytearray, step: int) -> bytearray:
    """Undo the filter of one row (PNG specification, section 9)."""
    for i in range(len(row)):
        left, up, corner = (row[i - step], above[i], above[i - step]) if i >= step else (0, above[i], 0)
        base = left + up - corner
        nearest = min((abs(base - left), 0, left), (abs(base - up), 1, up), (abs(base - corner), 2, corner))[2]
        row[i] = (row[i] + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
    return row
