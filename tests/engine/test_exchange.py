"""What may not leave: a model whose arrays are not those of its network."""

import numpy as np
import pytest

from cnnengine.engine.errors import InputError
from cnnengine.engine.exchange import NAMES, export_weights
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
