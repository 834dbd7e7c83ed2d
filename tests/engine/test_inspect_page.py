"""The page of what a network sees: what stands in it, and what a real browser makes of it."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cnnengine.engine.inspect import drawing, page, pictures
from cnnengine.engine.inspect.patches import Patch
from cnnengine.engine.inspect.view import Channel, Layer, Step, View

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
VOID = ("meta", "img", "input", "wbr")


def make_view(colours=1, **changes):
    """Two layers of two channels; class and layer names that HTML would read as tags."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 6, colours)).astype(np.uint8)
    low = Step("conv<1>", "convolution", (8, 6, 4), (3, 3))
    high = Step("conv2", "convolution", (4, 3, 16), (8, 6))
    end = Step("dense", "dense layer", (2,), (8, 6))
    patch = Patch(5, 'a "cat"', 2.5, (0, 2, 0, 3), image[:2, :3])
    signed = np.linspace(-2, 1, 48, dtype=np.float32).reshape(8, 6)
    rising = np.arange(12, dtype=np.float32).reshape(4, 3)
    told = {
        "arch": "net & co", "parameters": 12345, "image": image,
        "answers": [('a "cat"', 0.75), ("<dog>", 0.25)],
        "steps": [Step("the picture", "input", (8, 6, colours), (1, 1)), low, high, end],
        "first": "conv<1>",
        "filters": rng.standard_normal((4, 3, 3, colours)).astype(np.float32),
        "layers": [
            Layer(low, "Low", [Channel(3, signed, [patch, patch]), Channel(0, signed, [patch])],
                  -2.0, 1.0),
            Layer(high, "High", [Channel(7, rising, []), Channel(9, rising / 2, [])], 0.0, 11.0),
        ],
        "heat": np.array([[0.0, 0.5], [0.25, 0.125]]), "looked_for": ("<dog>", 0.25),
        "looked_at": high, "data": "pets", "data_images": 1234,
    }  # fmt: skip
    return View(**{**told, **changes})


class Reader(HTMLParser):
    """Collects tags, and holds every end tag to its start."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.mark.parametrize("colours", [1, 3])
def test_page__fetches_nothing_and_names_everything(colours):
    text = page.page(make_view(colours), "my <cat>.png", "runs/one")
    read = Reader(text)
    for picture in read.all("img"):
        assert picture["src"].startswith("data:image/png;base64,")
        assert picture["alt"]
    places = {attrs["id"] for _, attrs in read.tags if "id" in attrs}
    links = [attrs["href"] for attrs in read.all("a")]
    assert len(links) == 5
    assert all(link[0] == "#" and link[1:] in places for link in links)
    assert not re.search(r"https?:|@import|url\((?!\"data:)|\bsrcset\b", text)
    assert all(attrs["aria-labelledby"] in places for attrs in read.all("section"))
    assert [name for name, _ in read.tags if re.fullmatch(r"h\d", name)] == [
        "h1", "h2", "h2", "h2", "h2", "h3", "h3", "h2",
    ]  # fmt: skip
    assert len(read.all("input")) == text.count("<label>") == 2 + 3


def test_page__every_value_stands_in_the_text_and_nothing_is_read_as_tags():
    text = page.page(make_view(), "my <cat>.png", "runs/one")
    for told in (
        "What net &amp; co sees in my &lt;cat&gt;.png", "75.00 %", "25.00 %", "12,345 parameters",
        "a &quot;cat&quot;", "&lt;dog&gt;", "conv&lt;1&gt;", "1,234 pictures of pets",
        "patches 2.5 to 2.5", "<span>greatest 11</span>\n<span>mean 5.5</span>",
        "greatest 11 in row 4 of 4, column 3 of 3",
        "greatest 0.5 in row 1 of 2, column 2 of 2", "sees the whole picture",
        "2 of\n16 channels",
    ):  # fmt: skip
        assert told in text, told
    for told in ("<dog>", "<1>", 'a "cat"'):
        assert told not in text
    assert "<cat>" not in text


def test_page__without_patches_and_without_heat():
    empty = make_view(data="", heat=np.zeros((2, 2)))
    text = page.page(empty, "a.png", "b")
    assert "No data set was at hand" in text
    assert "the heat is 0 everywhere" in text


def test_page__patches_are_drawn_to_one_scale():
    text = page.page(make_view(), "a.png", "b")
    assert text.count('style="width:100%"') == 3
    view = make_view()
    wide = replace(view.layers[0], step=replace(view.layers[0].step, sees=(6, 6)))
    assert page.page(replace(view, layers=[wide]), "a.png", "b").count('style="width:50%"') == 3


def decode(uri):
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return Image.open(io.BytesIO(content))


def test_heat__is_clear_where_there_is_nothing_and_bright_where_there_is_most():
    image = np.asarray(decode(pictures.heat(np.array([[-1.0, 0, 2, 4]]), 4)).convert("RGBA"))
    assert image[0, :2, 3].tolist() == [0, 0]
    assert image[0, 3, 3] == 255
    assert 0 < image[0, 2, 3] < 255
    brightness = image[0, :, :3].sum(axis=1)
    assert brightness[3] > brightness[2] > brightness[1]


def test_signed__clear_shows_what_lies_beneath():
    uri = pictures.signed(np.array([[-3.0, 0, 0.5, 3]]), 3, clear=True)
    alpha = np.asarray(decode(uri).convert("RGBA"))[0, :, 3].tolist()
    assert (alpha[0], alpha[1], alpha[3]) == (255, 0, 255)
    assert 0 < alpha[2] < 255


def test_signed__is_blue_below_zero_white_at_it_and_red_above():
    below, zero, above = np.asarray(
        decode(pictures.signed(np.array([[-3.0, 0, 3]]), 3)).convert("RGB")
    )[0].astype(int)
    assert below[2] > below[0]
    assert zero.min() > 240
    assert above[0] > above[2]


def test_photo__keeps_pixels_and_shrinks_patches():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(decode(pictures.photo(pixels))), pixels)
    small = decode(pictures.photo(pixels, 45))
    assert small.size == (30, 45)
    assert small.mode == "P"
    assert decode(pictures.photo(pixels[:0], 45)).size == (1, 1)


def test_way__boxes_are_to_scale():
    steps = [Step("a", "input", (40, 20, 4), (1, 1)), Step("b", "max pool", (20, 10, 8), (2, 2))]
    sides = re.findall(r'class="side" points="([^"]+)"', drawing.way(steps))
    extents = []
    for points in sides:
        x, y = zip(*(map(float, point.split(",")) for point in points.split()), strict=True)
        extents.append((max(x) - min(x), max(y) - min(y)))
    (thick, tall), (thicker, lower) = extents
    assert (thicker, tall) == (drawing.DEEPEST, drawing.TALLEST)
    assert (thick, lower) == (thicker / 2, tall / 2)


def test_page__in_a_browser_by_keyboard_on_a_phone(tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    acts = """
    const frame = document.getElementById("phone");
    frame.onload = () => {
      const page = frame.contentDocument, see = frame.contentWindow;
      const key = (element, name) => element.dispatchEvent(
        new see.KeyboardEvent("keydown", { key: name, bubbles: true }));
      const shown = (name) => see.getComputedStyle(page.querySelector(name)).visibility;
      const told = [page.documentElement.scrollWidth <= 390 ? "fits" : "scrolls"];
      const map = ".layer:has(input) .under", box = page.querySelector("input[type=checkbox]");
      told.push(shown(map)); key(box, "Enter"); told.push(shown(map));
      key(box, "Enter"); told.push(shown(map));
      told.push(shown(".looked .under"), shown(".looked .over"));
      key(page.getElementById("heat-alone"), "Enter"); told.push(shown(".looked .under"));
      key(page.getElementById("heat-off"), "Enter");
      told.push(shown(".looked .under"), shown(".looked .over"));
      const pictures = [...page.images].filter((i) => i.complete && i.naturalWidth > 0);
      told.push(pictures.length === page.images.length ? "drawn" : "missing");
      const at = (name) => page.querySelector(name).getBoundingClientRect();
      told.push(at(".cards .over").width > 100 ? "large" : "small");
      const fetched = see.performance.getEntriesByType("resource");
      told.push(fetched.filter((f) => !f.name.startsWith("data:")).length);
      document.title = told.join(" ");
    };
    """
    (tmp_path / "page.html").write_text(page.page(make_view(3), "a.png", "b"), "utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        '<!doctype html><title>none</title><iframe id="phone" src="page.html" width="390" '
        f'height="800" style="border:0"></iframe><script>{acts}</script>'
    )
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
               "--allow-file-access-from-files", "--virtual-time-budget=2000",
               f"--user-data-dir={tmp_path / 'profile'}", outer.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert re.findall("<title>([^<]*)</title>", done.stdout)[0] == (
        "fits hidden visible hidden visible visible hidden visible hidden drawn large 0"
    )
