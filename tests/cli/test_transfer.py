"""`cnnengine train --init-from … --freeze-until …`, as a user runs it."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from cnnengine.cli.trained import open_data
from cnnengine.engine.device import open_device
from cnnengine.engine.model_meta import Source
from cnnengine.engine.network import Description, Network

from .command import make_pictures, refused, small, succeed


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Pictures of three classes, larger than those that the run of `trained` saw."""
    root = tmp_path_factory.mktemp("other") / "pictures"
    return make_pictures(root, side=12, classes=("black", "grey", "white"))


def test_train__from_a_run_behind_frozen_layers_and_on_to_all(trained, other, tmp_path):
    run, _ = trained
    told = (
        "train", "--init-from", run, "--freeze-until", "conv2_2", "--data", other, "--shift", 0,
        "--no-flip", "--epochs", 3, "--batch-size", 8, "--threads", 1, "--lr", 0.03,
        "--unfreeze-at", "3:conv1_1", "--lower-lr", 0.1, "--cache-dir", "cache",
    )  # fmt: skip
    first = succeed(*told, "--out", "new", "--json", cwd=tmp_path)
    notes = first.err.splitlines()
    for part in (
        "frozen up to and including conv2_2: ", "starts from the weights in ", "starts anew: ",
        "ran the frozen layers once over 48 + 12 images", "epoch 3: all ", "work spared",
    ):  # fmt: skip
        assert sum(part in line for line in notes) == 1, part
    summary = json.loads(first.out)
    assert summary["config"]["image_size"] == "8x8"
    assert summary["config"]["options"] == {"width": 0.1}
    savings = summary["savings"]
    assert 0 < savings["multiply_adds"] < savings["multiply_adds_all"]
    more = succeed("train", "--resume", "new", "--epochs", 4, "--cache-dir", "x", cwd=tmp_path)
    assert "epoch 4/4" in more.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--freeze-until", "conv2_9"), ("--freeze-until conv2_9", "did you mean conv2_2 or")),
        (("--freeze-until", "dense2"), ("--freeze-until dense2", "nothing is left to train")),
        (("--unfreeze-at", "2:conv1_1"), ("--unfreeze-at 2:conv1_1", "needs --freeze-until")),
        (("--init-from", "none.safetensors"), ("none.safetensors", "does not exist")),
    ],
)
def test_train__refuses_what_cannot_be_frozen_or_borrowed(pictures, tmp_path, arguments, told):
    line = refused(*small(pictures), *arguments, cwd=tmp_path)
    assert all(part in line for part in told), line
    assert list(tmp_path.iterdir()) == []


def test_train__weights_of_another_network_list_what_does_not_fit(trained, pictures, tmp_path):
    line = refused(
        "train", "--arch", "lenet", "--init-from", trained[0], "--data", pictures, cwd=tmp_path
    )
    assert "lenet" in line
    assert "missing: conv1/" in line
    assert list(tmp_path.iterdir()) == []


def test_train__a_class_of_one_image_and_a_file_that_is_none(tmp_path):
    data = make_pictures(tmp_path / "data")
    (data / "single").mkdir()
    Image.new("L", (8, 8)).save(data / "single" / "only.png")
    line = refused(*small(data), cwd=tmp_path)
    assert "'single' has 1 readable images, at least 2 are needed" in line
    (data / "single" / "only.png").write_bytes(b"no picture")
    line = refused(*small(data), cwd=tmp_path)
    assert "only.png: not a readable picture" in line


def test_open_data__grey_pictures_for_a_network_of_colour(pictures, tmp_path):
    description = Description("C2 G", (8, 8, 3), ("dark", "light"), (0.5,) * 3, (0.25,) * 3)
    network = Network(description, open_device("cpu"), infer_batch=1)
    told = {"image_size": None, "skip_bad": False}
    splits = open_data(tmp_path, network, Source(str(pictures)), data=None, **told)
    assert splits.test.image_shape == (8, 8, 3)
