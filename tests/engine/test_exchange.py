"""Models in and out: what does not agree with itself is refused."""

import numpy as np
import pytest

from cnnengine.engine import files
from cnnengine.engine.errors import InputError
from cnnengine.engine.exchange import NAMES, Wish, export_weights, import_weights
from cnnengine.engine.model_meta import Source
from cnnengine.engine.onnx import exporter

from .weight_samples import drawn, small


def _damaged():
    """(description, arrays): one is missing, one is unknown, one has another shape."""
    description = small("lenet", precision="fp32")
    arrays = drawn(description)
    del arrays["conv1/b"]
    return description, {**arrays, "more": np.ones(1), "conv2/b": np.ones(3, np.float32)}


@pytest.mark.parametrize("form", [*NAMES, "onnx"])
def test_export__arrays_that_are_not_the_networks_are_listed(form, tmp_path):
    description, arrays = _damaged()
    with pytest.raises(InputError, match="not fit lenet: missing conv1/b; unknown more; conv2/b"):
        if form == "onnx":
            exporter.save(tmp_path / "m", description, arrays)
        else:
            export_weights(tmp_path / "m", description, arrays, Source(""), form)
    assert not list(tmp_path.iterdir())


def test_import_weights__names_of_another_number_of_classes_are_not_dropped(tmp_path):
    described = small("lenet", precision="fp32")
    meta = {"format": 1, "data": {"name": "mnist"}, **described.to_json(), "classes": ["a", "b"]}
    files.save_tensors(tmp_path / "w", drawn(described), meta)
    with pytest.raises(InputError, match="names 2 classes, its last layer has 5; give --classes"):
        import_weights(tmp_path / "w", Wish())
    made, _, _ = import_weights(tmp_path / "w", Wish(classes=5))
    assert made.classes == tuple("01234")
