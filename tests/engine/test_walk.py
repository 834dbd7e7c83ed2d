"""A filter walked over an image: filters and numbers as people write them, stages, pictures."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from cnnengine.bench.verify import oracle
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.walk import (
    FILTERS,
    convolve,
    default_padding,
    outputs,
    parse_matrix,
    pictures,
    read_filter,
)
from cnnengine.engine.walk.animation import gif, positions
from cnnengine.engine.walk.page import page
from cnnengine.kernels.spec import Conv2d


@pytest.fixture(scope="module")
def device():
    """The CPU."""
    return open_device("cpu")


def _noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1 0 -1; 2 0 -2", [[1, 0, -1], [2, 0, -2]]),
        ("1,2\n3, 4\n", [[1, 2], [3, 4]]),
        ("1/2 1e-1;\n", [[0.5, 0.1]]),
    ],
)
def test_parse_matrix__ways_to_write_numbers(text, rows):
    np.testing.assert_array_equal(parse_matrix(text, "--filter"), np.array(rows, np.float32))


@pytest.mark.parametrize(
    ("told", "parts"),
    [
        ("sobel", ("unknown filter 'sobel'", "sobel-x", "numbers like")),
        ("1 0 1; 2 0", ("row 1 has 3", "row 2 has 2")),
        ("1 2; 3 4", ("both sides must be odd", "2 x 2")),
        ("1 nan 1", ("nan in row 1", "between")),
        ("1 inf 1", ("inf in row 1", "between")),
        ("1 1/0 1", ("'1/0'", "not a number")),
        ("1 one 1", ("'one'", "not a number")),
        (" ; ", ("no numbers",)),
        ("none.txt", ("none.txt", "no such file")),
        (";".join(["0 " * 65] * 65), ("65 x 65", "63 x 63")),
    ],
)
def test_read_filter__refused(told, parts):
    with pytest.raises(InputError) as caught:
        read_filter(told)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_read_filter__file_with_comments(tmp_path):
    (tmp_path / "mine.txt").write_text("# a corner\n1 0 0\n0 1 0  # the middle\n0 0 1\n")
    name, values = read_filter(str(tmp_path / "mine.txt"))
    assert name == "mine.txt"
    np.testing.assert_array_equal(values, np.eye(3))


def test_read_filter__picture_is_no_text(tmp_path):
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="not a text file"):
        read_filter(str(tmp_path / "a.png"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("stride", "padding", "mode"), [(1, (1, 1), "zeros"), (2, (2, 1), "edge"), (3, (0, 0), "none")]
)
def test_convolve__equals_oracle(device, channels, stride, padding, mode):
    image, filter_ = _noise(9, 8, channels), parse_matrix("1 2 3; -4 5 6; 7 8 -9", "x")
    walk = convolve(
        image, filter_, device, stride=stride, padding=padding, padding_mode=mode, relu=True
    )
    (rows, columns), told = padding, "edge" if mode == "edge" else "zeros"
    op = Conv2d((stride, stride), (rows, rows, columns, columns), told)
    planes = [
        oracle.conv2d(image[None, ..., c : c + 1], filter_[None, ..., None], None, op=op)["out"]
        for c in range(channels)
    ]  # fmt: skip
    expected = np.concatenate(planes, axis=3)[0]
    np.testing.assert_allclose(walk.stages[0].values, expected, rtol=1e-6, atol=1e-3)
    np.testing.assert_array_equal(walk.stages[1].values, np.maximum(walk.stages[0].values, 0))
    for row, column in ((0, 0), (walk.stages[0].values.shape[0] - 1, 1)):
        product = (walk.window(row, column)[:, :, 0] * filter_).sum()
        assert product == pytest.approx(expected[row, column, 0], rel=1e-5)


def test_convolve__sizes_by_the_formula(device):
    walk = convolve(_noise(28, 27, 1), np.ones((3, 5), np.float32), device, stride=2,
                    padding=(1, 2), pool=3)  # fmt: skip
    assert walk.stages[0].sizes == (
        "rows: (28 + 1 + 1 - 3) / 2 + 1 = 14 (rounded down: 1 row is left over at the end)",
        "columns: (27 + 2 + 2 - 5) / 2 + 1 = 14",
    )
    assert walk.stages[0].values.shape == (14, 14, 1)
    assert walk.stages[1].sizes[0] == (
        "rows: (14 + 0 + 0 - 3) / 3 + 1 = 4 (rounded down: 2 rows are left over at the end)"
    )
    blocks = walk.stages[0].values[:12, :12, 0].reshape(4, 3, 4, 3)
    np.testing.assert_array_equal(walk.stages[1].values[:, :, 0], blocks.max(axis=(1, 3)))


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"padding": (3, 3)}, ("--padding 3", "at most 2")),
        ({"stride": 9}, ("--stride 9", "5 x 4")),
        ({"pool": 4}, ("--pool 4", "3 x 2")),
    ],
)
def test_convolve__sizes_that_do_not_fit(device, settings, parts):
    with pytest.raises(InputError) as caught:
        convolve(_noise(5, 4, 1), np.ones((3, 3), np.float32), device, **settings)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_convolve__filter_larger_than_image(device):
    with pytest.raises(InputError, match="filter has 7 rows, the image only 5"):
        convolve(_noise(5, 9, 1), np.ones((7, 7), np.float32), device)


def test_convolve__identity_and_names(device):
    """Each named filter runs; the identity gives the image back."""
    image = _noise(6, 6, 3)
    for name in FILTERS:
        filter_ = read_filter(name)[1]
        walk = convolve(image, filter_, device, padding=default_padding(filter_))
        same = np.array_equal(walk.stages[0].values, image)
        assert same == (name == "identity"), name


def test_scale_of__numbers_below_zero_around_grey():
    scale = pictures.scale_of(np.array([-4.0, 0.0, 2.0]))
    assert scale.levels(np.array([-4.0, 0.0, 4.0])).tolist() == [1, 128, 255]
    assert scale.told == "0 is mid-grey, 4 white, -4 black"


def test_scale_of__largest_white_and_cut_counted():
    assert pictures.scale_of(np.array([0.0, 5.0])).levels(np.array([5.0])).tolist() == [255]
    cut = pictures.scale_of(np.array([-20.0, 0.0, 255.0, 300.0]), as_picture=True)
    assert "50.00% of the numbers" in cut.told
    assert cut.levels(np.array([-20.0, 300.0])).tolist() == [0, 255]


def test_gif__one_frame_a_position_or_every_nth(device):
    few = convolve(_noise(5, 5, 1), np.ones((3, 3), np.float32), device)
    many = convolve(_noise(40, 40, 1), np.ones((3, 3), np.float32), device, padding=(1, 1))
    with Image.open(io.BytesIO(gif(few, pictures.scales(few, from_picture=True)))) as drawn:
        assert drawn.n_frames == 9
        assert drawn.size == (960, 450)
        drawn.seek(0)
        first = np.asarray(drawn.convert("L"), float)
        drawn.seek(8)
        assert np.abs(np.asarray(drawn.convert("L"), float) - first).mean() > 1
    shown = positions(many)
    assert len(shown) <= 121
    assert (shown[0], shown[-1]) == (0, 1599)


def _numbers_in(text):
    return json.loads(re.search(r'id="walk">(.*?)</script>', text, re.S)[1])


def test_page__holds_our_numbers_and_fetches_nothing(device):
    walk = convolve(
        _noise(7, 6, 1), read_filter("edge")[1], device, padding=(1, 1), relu=True, pool=2
    )
    text = page(
        walk, pictures.scales(walk, from_picture=True), title="<b>", filter_name="</script>"
    )
    told = _numbers_in(text)
    np.testing.assert_array_equal(told["output"], walk.stages[0].values[:, :, 0])
    np.testing.assert_array_equal(told["pooled"], walk.stages[-1].values[:, :, 0])
    assert "<b>" not in text
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text)
    assert "rows: (7 + 1 + 1 - 3) / 1 + 1 = 7" in text


MINUS = "\N{MINUS SIGN}"
KEYS = """<script>
for (const key of ["End", "ArrowUp", "ArrowLeft"])
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
</script></body>"""


def test_page__steps_by_keyboard_in_a_browser(device, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium or google-chrome is installed")
    image = parse_matrix("1 2 3; 4 5 6; 7 8 9", "x")[:, :, None]
    filter_ = parse_matrix("0 1 0; 1 -9 1; 0 1 0", "x")
    walk = convolve(image, filter_, device, padding=(1, 1), relu=True)
    text = page(walk, pictures.scales(walk, from_picture=False), title="a", filter_name="b")
    file = tmp_path / "walk.html"
    file.write_text(text.replace("</body>", KEYS))
    told = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    shown = re.search(r'<p id="sum"[^>]*>(.*?)</p>', told, re.S)[1].replace(MINUS, "-")
    # the middle of 3 x 3, two left of the end and a row up: 2 + 4 - 9 * 5 + 6 + 8
    assert "0 + 2 + 0 + 4 - 45 + 6 + 0 + 8 + 0 = <strong>-25</strong>, after the ReLU 0" in shown
    assert "Position 5 of 9: row 2, column 2" in told


def test_walkable__grey_and_scaled():
    image, note = outputs.walkable(_noise(100, 200, 3))
    assert image.shape == (48, 96, 1)
    assert note == "The walk shows the picture in grey and scaled to 48 x 96."
    same, note = outputs.walkable(_noise(9, 9, 1))
    np.testing.assert_array_equal(same, _noise(9, 9, 1))
    assert note == ""
