"""The memory plan: nothing that lives at the same time shares bytes, and results do not change."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from cnnengine.engine import files
from cnnengine.engine.checkpoint import save_model
from cnnengine.engine.compile import compile_graph
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.model_meta import Source
from cnnengine.engine.models import build_graph
from cnnengine.engine.network import Description, Network
from cnnengine.engine.passes.memory import plan_memory
from cnnengine.engine.runner import Plan, Storage


def _lifetimes(program):
    """Value → (first, last) node that touches it, computed anew from the graph."""
    graph, aliases = program.graph, program.memory.aliases
    spans = {}
    for i, node in enumerate(graph.nodes):
        for value in (*node.reads, *node.writes, *node.scratch):
            root = aliases.get(value, value)
            first, _ = spans.get(root, (i, i))
            spans[root] = (first, i)
    for value in graph.outputs.values():
        root = aliases.get(value, value)
        spans[root] = (spans[root][0], len(graph.nodes))
    return spans


@pytest.mark.parametrize("arch", ["vgg-small", "lenet"])
@pytest.mark.parametrize("training", [True, False])
def test_plan_memory__values_alive_together_never_overlap(arch, training):
    graph = build_graph(arch, 3, (28, 28, 1), 10, training=training)
    program = compile_graph(graph, open_device("cpu"), training=training)
    spans, offsets = _lifetimes(program), program.memory.offsets
    placed = list(offsets)
    for i, a in enumerate(placed):
        assert offsets[a] % 64 == 0
        assert offsets[a] + a.nbytes <= program.memory.total_bytes
        for b in placed[i + 1 :]:
            alive_together = spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]
            apart = offsets[a] + a.nbytes <= offsets[b] or offsets[b] + b.nbytes <= offsets[a]
            assert apart or not alive_together, f"{a} and {b} share memory"


def test_plan_memory__reuse_takes_less_than_half_for_vgg_small():
    graph = build_graph("vgg-small", 64, (28, 28, 1), 10, training=True)
    memory = compile_graph(graph, open_device("cpu"), training=True).memory
    assert memory.total_bytes < 0.6 * memory.unplanned_bytes


@pytest.mark.parametrize("training", [True, False])
def test_memory_plan__tells_scratch_apart_from_activations(training):
    graph = build_graph("lenet", 128, (28, 28, 1), 10, training=training)
    program = compile_graph(graph, open_device("cpu"), training=training)
    memory, nodes = program.memory, program.graph.nodes
    scratch = {v for node in nodes for v in node.scratch}
    results = {v for node in nodes for v in node.writes} - {*memory.aliases, *memory.outside}
    assert scratch
    sizes = [sum(-(-v.nbytes // 64) * 64 for v in values) / 1e6 for values in (results, scratch)]
    named = "activations and their gradients" if training else "activations"
    told = f"{named} {sizes[0]:.1f} MB + scratch {sizes[1]:.1f} MB -> "
    assert str(memory) == f"{told}{memory.total_bytes / 1e6:.1f} MB"


@pytest.mark.parametrize("fused", [True, False])
def test_plan__planned_equals_unplanned_bit_for_bit(fused):
    device = open_device("cpu")
    graph = build_graph("vgg-small", 4, (28, 28, 1), 10, training=True, options={"width": 0.25})
    description = Description(
        "vgg-small", (28, 28, 1), tuple("0123456789"), (0.0,), (1.0,), options={"width": 0.25}
    )
    network = Network(description, device, train_batches=[4])
    network.initialise(seed=5)
    rng = np.random.default_rng(1)
    inputs = {"x": rng.standard_normal((4, 28, 28, 1)), "labels": rng.integers(0, 10, 4)}
    results = []
    for reuse in (True, False):
        program = compile_graph(graph, device, training=True, fused=fused, reuse=reuse)
        storage = Storage(device, network.parameters, [program])
        storage.activations.fill(0xFF)  # NaN in every float type: stale reads would show
        plan = Plan(program, storage)
        plan.feed(inputs, seed=3, step=7)
        plan.run()
        gradients = network.parameters.gradients.copy()
        results.append((plan.output("loss").copy(), plan.output("logits").copy(), gradients))
    for planned, unplanned in zip(*results, strict=True):
        assert np.isfinite(planned).all()
        np.testing.assert_array_equal(planned, unplanned)


def test_plan_memory__reuse_off_gives_every_value_its_own_place():
    graph = build_graph("lenet", 2, (28, 28, 1), 10, training=True)
    memory = plan_memory(graph, reuse=False)
    assert memory.total_bytes == memory.unplanned_bytes


PEAK = """
import sys
from pathlib import Path
import numpy as np
from cnnengine.engine.checkpoint import load_model
from cnnengine.engine.device import open_device
from cnnengine.engine.network import Description, Network

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))

def infer(network):
    with network.device.session():
        network.logits(np.zeros((1, *network.description.input_shape), np.float32))

device = open_device("cpu")
infer(Network(Description("lenet", (28, 28, 1), ("a", "b"), (0.0,), (1.0,)), device, infer_batch=1))
before = status("VmRSS")  # the libraries are there
description, arrays, _ = load_model(Path(sys.argv[1]))
network = Network(description, device, infer_batch=1)
network.load(arrays)
infer(network)
planned = sum(a.nbytes for _, a in network.parameters) + network.inference.memory.total_bytes
assert network.parameters.gradients.size == 0
print((status("VmHWM") - before) / planned)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_network__inference_takes_little_more_than_weights_and_planned_activations(tmp_path):
    description = Description(
        "alexnet", (224, 224, 3), tuple(map(str, range(10))), (0.0,) * 3, (1.0,) * 3
    )
    params = description.graph(1, training=False).params
    arrays = {p.value.name: np.full(p.value.shape, 0.01, np.float32) for p in params}
    save_model(tmp_path / "model.safetensors", description, arrays, Source("none"))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.25


def test_load_tensors__mapped_arrays_are_those_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((5, 3)).astype(np.float32), "empty": np.zeros((0, 2)),
        "low": rng.standard_normal(7).astype(ml_dtypes.bfloat16), "one": np.array([3], np.int64),
    }  # fmt: skip
    files.save_tensors(tmp_path / "file", arrays, {"a": 1})
    found, meta = files.load_tensors(tmp_path / "file", mapped=True)
    assert meta == {"a": 1}
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        files.forget(found[name])
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable


@pytest.mark.parametrize("change", ["flip", "cut"])
def test_load_tensors__a_damaged_file_is_not_mapped(tmp_path, change):
    file = tmp_path / "file"
    files.save_tensors(file, {"w": np.ones(1000)}, {})
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content if change == "flip" else content[:-8])
    told = "is damaged: its CRC-32" if change == "flip" else "no readable safetensors file"
    with pytest.raises(InputError, match=told):
        files.load_tensors(file, mapped=True)


def test_load_tensors__a_type_that_no_model_has_is_named(tmp_path):
    files.save_tensors(tmp_path / "file", {"w": np.ones(3, np.int16)}, {})
    with pytest.raises(InputError, match="w is I16; known: F64"):
        files.load_tensors(tmp_path / "file", mapped=True)
