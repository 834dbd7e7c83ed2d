"""`cnnengine convolve`: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from cnnengine.cli.main import main

from .command import snapshot

STAIRS = "0 0 1 1; 0 0 1 1; 0 2 1 0"


@pytest.fixture
def tell(tmp_path, monkeypatch, capsys):
    """Runs the command in this process, in an empty folder; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["convolve", *map(str, arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def photo(tmp_path):
    """A colour picture of noise, 24 x 30."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return pixels


def test_convolve__picture_becomes_pictures(tell, photo, tmp_path):
    code, out, err = tell("photo.png", "--filter", "identity", "--out", "seen")
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "seen" / "result.png") as result:
        drawn = np.asarray(result)
    np.testing.assert_array_equal(drawn[::8, ::8], photo)  # enlarged 8 times
    assert sorted(p.name for p in (tmp_path / "seen").iterdir()) == ["input.png", "result.png"]
    assert "rows: (24 + 1 + 1 - 3) / 1 + 1 = 24" in out
    assert "0 is black, 255 white" in out
    assert "8 x 8 pixels" in out


def test_convolve__every_product_of_few_numbers(tell, tmp_path):
    arguments = (STAIRS, "--filter", "sobel-x", "--relu", "--pool", 2, "--steps", "--out", "seen")
    code, out, _ = tell(*arguments)
    assert code == 0
    assert "0 + 0 + 0 + (-2) + 0 + 0 + (-1) + 0 + 0 = -3 -> 0" in out
    assert "(0)    0    0" in out, "padding is in brackets"
    names = {"input.png", "convolution.png", "relu.png", "result.png", "walk.gif", "walk.html"}
    assert {p.name for p in (tmp_path / "seen").iterdir()} == names
    code, out, _ = tell(*arguments, "--json", "--overwrite")
    told = json.loads(out)
    assert told["values"] == [[4.0, 3.0]]
    assert len(told["steps"]) == 12
    assert told["steps"][3]["sum"] == -3.0
    assert told["steps"][3]["relu"] == 0.0
    assert [stage["name"] for stage in told["stages"]] == ["convolution", "relu", "pool"]


@pytest.mark.parametrize("numbers", ["-1 0; 2 -3", "-1,0\n2,-3", "-.1e1 0;2 -3"])
def test_convolve__numbers_that_begin_below_zero(tell, numbers):
    code, out, err = tell(numbers, "--filter", "-1", "--json", "--out", "seen")
    assert (code, err) == (0, "")
    assert json.loads(out)["values"] == [[1, 0], [-2, 3]]


def test_convolve__steps_of_a_photo_in_grey(tell, photo, tmp_path):
    code, out, _ = tell("photo.png", "--filter", "1 0 -1; 2 0 -2; 1 0 -1", "--steps", "--stride", 4,
                        "--padding-mode", "edge", "--out", "seen")  # fmt: skip
    assert code == 0
    assert "The walk shows the picture in grey." in out
    assert (tmp_path / "seen" / "walk.html").exists()


def test_convolve__numbers_and_filter_from_files(tell, tmp_path):
    (tmp_path / "image.txt").write_text("1 2 3\n4 5 6\n7 8 9\n")
    (tmp_path / "filter.txt").write_text("1 1 1\n")
    code, out, _ = tell("image.txt", "--filter", "filter.txt", "--padding-mode", "none", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["values"] == [[6.0], [15.0], [24.0]]
    assert told["files"][0] == "convolved/image-filter.txt-1/input.png"


def test_convolve__overwrite_removes_the_earlier_walk(tell, tmp_path):
    assert tell(STAIRS, "--filter", "blur", "--steps", "--out", "seen")[0] == 0
    (tmp_path / "seen" / "mine.txt").write_text("stays")
    before = snapshot(tmp_path / "seen")
    code, out, err = tell(STAIRS, "--filter", "edge", "--out", "seen")
    assert (code, out) == (2, "")
    assert "seen/input.png exists; give --overwrite" in err
    assert snapshot(tmp_path / "seen") == before
    assert tell(STAIRS, "--filter", "edge", "--out", "seen", "--overwrite")[0] == 0
    assert sorted(snapshot(tmp_path / "seen")) == ["input.png", "mine.txt", "result.png"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("photo.png", "--filter", "sharpn"), ("'sharpn'", "did you mean sharpen")),
        (("photo.png", "--filter", "1 2; 3"), ("row 1 has 2", "row 2 has 1")),
        (("photo.png", "--filter", "blur", "--padding", "3"), ("--padding 3", "at most 2")),
        (("photo.png", "--filter", "blur", "--padding", "-1"), ("--padding", "-1")),
        (("photo.png", "--filter", "blur", "--padding-mode", "zero"), ("'zero'", "zeros")),
        (("photo.png", "--filter", "blur", "--padding", "1", "--padding-mode", "none"),
         ("--padding 1", "beside")),
        (("photo.png", "--filter", "blur", "--pool", "99"), ("--pool 99", "24 x 30")),
        (("photo.png", "--filter", "blur", "--out", "photo.png"), ("photo.png", "a file")),
        (("photo.png", "--filter", "blur", "--device", "gpu"), ("'gpu'", "cuda")),
        (("photo.png",), ("--filter",)),
        (("broken.png", "--filter", "blur"), ("broken.png", "not a readable picture")),
        (("none.png", "--filter", "blur"), ("none.png", "no such file")),
        (("my photo.png", "--filter", "blur"), ("my photo.png", "no such file")),
        (("3 cats.png", "--filter", "blur"), ("'cats.png' in row 1 is not a number",)),
        (("0 1; nan 1", "--filter", "blur"), ("nan", "row 2")),
        (("", "--filter", "blur"), ("IMAGE is empty",)),
        (("1 2 3", "--filter", "1 2 3 4 5", "--padding", "0"), ("5 columns", "3 + 0")),
    ],
)  # fmt: skip
def test_convolve__refused(tell, photo, tmp_path, arguments, told):
    (tmp_path / "broken.png").write_text("no picture")
    before = snapshot(tmp_path)
    code, out, err = tell(*arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("cnnengine: error: ")
    assert all(part in line for part in told), line
    assert snapshot(tmp_path) == before
