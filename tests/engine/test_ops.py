"""GraphBuilder's general ops in whole graphs: values and gradients against PyTorch's autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cnnengine.engine.arena import ParameterArena
from cnnengine.engine.build import GraphBuilder
from cnnengine.engine.compile import compile_graph
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.graph_rules import verify
from cnnengine.engine.init import initial_values
from cnnengine.engine.passes.autodiff import autodiff
from cnnengine.engine.runner import Plan, Storage
from cnnengine.kernels import registry

IMAGE = (2, 5, 4, 6)


class Torch:
    """The builder's methods in PyTorch, on the arrays themselves."""

    def __init__(self, torch):
        self.torch, self.F = torch, torch.nn.functional
        self.relu, self.mul, self.add = torch.relu, torch.mul, torch.add
        self.softmax = lambda x, log=False: (self.F.log_softmax if log else torch.softmax)(x, -1)
        self.transpose = lambda x, axes: x.permute(tuple(axes))
        self.broadcast = lambda x, shape: x.expand(shape)
        self.reduce_sum = lambda x, axes, keepdims=False: x.sum(axes, keepdims)
        self.clip = lambda x, low=-math.inf, high=math.inf: self.F.hardtanh(x, low, high)
        self.leaky_relu = self.F.leaky_relu
        self.concat = lambda xs: torch.cat(xs, -1)
        self.reshape = lambda x, shape: x.reshape(shape)
        self.global_max_pool2d = lambda x: x.amax((1, 2))

    def pad(self, x, before, after, value=0.0):
        counts = [n for pair in zip(after, before, strict=True) for n in pair]
        return self.F.pad(x, counts[::-1], value=value)

    def prelu(self, x, slope):
        return self.torch.where(x <= 0, slope * x, x)


def scaled(b, x, p):
    """x times a parameter [C], and another added."""
    return b.add(b.mul(x, b.broadcast(p["p"], IMAGE)), b.broadcast(p["q"], IMAGE))


def everything(b, x, p):
    """Each of the new functions once."""
    y = b.prelu(scaled(b, x, p), p["s"])
    y = b.pad(y, (0, 1, 0, 0), (0, -1, 0, 0))
    y = b.leaky_relu(b.clip(y, -2.0, 2.0), 0.2)
    gates = b.softmax(b.reduce_sum(y, (1, 2), keepdims=True))
    return b.transpose(b.mul(y, b.broadcast(gates, IMAGE)), (0, 3, 1, 2))


NETWORKS = {  # what is computed of x = conv and the parameters p [C], q [1,1,4,1] and s [C]
    "scaled": scaled,
    "transposed": lambda b, x, p: b.mul(
        b.transpose(scaled(b, x, p), (0, 3, 1, 2)), b.transpose(x, (0, 3, 1, 2))
    ),
    "padded and cropped": lambda b, x, p: b.pad(
        b.pad(scaled(b, x, p), (0, 1, 2, 0), (0, 0, 1, 3), 0.5), (0, -2, -1, 0), (0, 0, 1, -4)
    ),
    "clipped": lambda b, x, p: b.clip(scaled(b, x, p), -0.5, 0.75),
    "leaky": lambda b, x, p: b.leaky_relu(scaled(b, x, p), 0.2),
    "prelu": lambda b, x, p: b.prelu(scaled(b, x, p), p["s"]),
    "prelu of one slope": lambda b, x, p: b.prelu(
        scaled(b, x, p), b.reduce_sum(p["s"], (0,), keepdims=True)
    ),
    "softmax": lambda b, x, p: b.softmax(scaled(b, x, p)),
    "log softmax": lambda b, x, p: b.softmax(scaled(b, x, p), log=True),
    "summed": lambda b, x, p: b.reduce_sum(b.mul(scaled(b, x, p), x), (1, -1)),
    "largest": lambda b, x, p: b.global_max_pool2d(scaled(b, x, p)),
    "joined": lambda b, x, p: b.concat(
        [b.reshape(scaled(b, x, p), (10, 24)), b.reshape(x, (10, 24)), b.reshape(x, (10, 24))]
    ),
    "everything": everything,
    "squared, one parameter for two": lambda b, x, p: b.mul(
        *[b.add(x, b.broadcast(b.add(p["p"], p["s"]), IMAGE))] * 2
    ),
}


def our_loss_and_gradients(network, inputs, parameters, dtype="float64", device=None):
    """The loss of a dense head behind `network`, and the gradients by name."""
    device = device or open_device("cpu", "numpy")
    b = GraphBuilder("ops", dtype=dtype)
    x = b.conv2d(b.input("x", (2, 5, 4, 3)), 6, 1, bias=False, name="c")
    p = {name: b.parameter(name, parameters[name].shape, "zeros") for name in "pqs"}
    y = network(b, x, p)
    y = b.reshape(y, (2, math.prod(y.shape) // 2))
    logits = b.dense(y, 3, bias=False, name="d")
    loss = b.softmax_cross_entropy(logits, b.input("labels", (2,), "int32"))
    graph = b.finish(loss=loss, logits=logits)
    verify(autodiff(graph))
    program = compile_graph(graph, device, training=True)
    arena = ParameterArena(graph.params, device)
    drawn = initial_values([n for n in graph.params if n.decay], 3)
    arena.load({**parameters, **drawn})
    arena.gradients.fill(np.nan)
    plan = Plan(program, Storage(device, arena, [program]))
    plan.feed(inputs)
    with device.session():
        plan.run()
    found = {name: arena.gradient(name).copy() for name, _ in arena}
    return plan.output("loss").copy(), found, drawn


@pytest.fixture
def given():
    rng = np.random.default_rng(5)
    inputs = {"x": rng.standard_normal((2, 5, 4, 3)), "labels": np.array([2, 0], np.int32)}
    shapes = {"p": (6,), "q": (1, 1, 4, 1), "s": (6,)}
    return inputs, {name: rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_ops__values_and_gradients_are_torch_s(name, given):
    torch = pytest.importorskip("torch")
    inputs, parameters = given
    loss, gradients, drawn = our_loss_and_gradients(NETWORKS[name], inputs, parameters)
    leaves = {
        n: torch.tensor(np.asarray(v, np.float64), requires_grad=True)
        for n, v in {**parameters, **drawn}.items()
    }
    x = torch.from_numpy(inputs["x"]) @ leaves["c/w"].reshape(6, 3).T
    y = NETWORKS[name](Torch(torch), x, leaves).reshape(2, -1)
    labels = torch.from_numpy(inputs["labels"]).long()
    losses = torch.nn.functional.cross_entropy(y @ leaves["d/w"].T, labels, reduction="none")
    losses.mean().backward()
    np.testing.assert_allclose(loss, losses.detach().numpy(), rtol=1e-12)
    assert set(gradients) == set(leaves)
    for n, leaf in leaves.items():
        if leaf.grad is None:
            continue
        expected = leaf.grad.numpy()
        error = np.linalg.norm(gradients[n] - expected)
        assert error <= 1e-12 * max(1.0, np.linalg.norm(expected)), n


@pytest.mark.parametrize("kernels", ["triton", "cupy"])
def test_ops__of_the_gpu_backends_give_the_same(kernels, given):
    if (reason := registry.missing(kernels)) is not None:
        pytest.skip(f"backend {kernels}: {reason}")
    device = open_device("interpreter", kernels)
    exact = our_loss_and_gradients(everything, *given)
    found = our_loss_and_gradients(everything, *given, "float32", device)
    assert np.linalg.norm(found[0] - exact[0]) <= 1e-5 * np.linalg.norm(exact[0])
    for name, expected in exact[1].items():
        assert np.linalg.norm(found[1][name] - expected) <= 1e-4 * np.linalg.norm(expected), name


def test_ops__a_16_bit_graph_has_gradients_of_its_parameters(given):
    inputs, parameters = given
    exact, low = (
        our_loss_and_gradients(NETWORKS["prelu"], inputs, parameters, dtype)
        for dtype in ("float64", "bfloat16")
    )
    for name, expected in exact[1].items():
        assert low[1][name].dtype == np.float32
        error = np.linalg.norm(low[1][name] - expected)
        assert 0 < error <= 0.05 * np.linalg.norm(expected), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_matmul__of_weights_used_twice_and_of_activations(dtype):
    b = GraphBuilder("tied", dtype=dtype)
    x = b.flatten(b.conv2d(b.input("x", (2, 4, 4, 3)), 4, 1, name="c"))
    w = b.parameter("d/w", (64, 64), "he", fan_in=64, decay=True)
    y = b.matmul(b.matmul(b.matmul(x, w), w), b.clip(b.matmul(w, w)))
    loss = b.softmax_cross_entropy(y, b.input("labels", (2,), "int32"))
    graph = verify(autodiff(b.finish(loss=loss)))
    assert graph.outputs["grad/d/w"].dtype == "float32"


@pytest.mark.parametrize("size", [(1, 1), (9, 14), (9, 15), (3, 200), (200, 3), (129, 130)])
def test_global_max_pool2d__of_any_size(size):
    b = GraphBuilder("largest", training=False)
    out = b.global_max_pool2d(b.input("x", (2, *size, 3)))
    assert out.shape == (2, 3)
    device = open_device("cpu", "numpy")
    program = compile_graph(b.finish(out=out), device, training=False)
    plan = Plan(program, Storage(device, ParameterArena([], device), [program]))
    x = np.random.default_rng(1).standard_normal((2, *size, 3)).astype(np.float32)
    plan.feed({"x": x})
    plan.run()
    np.testing.assert_array_equal(plan.output("out"), x.max(axis=(1, 2)))


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (lambda b, x: b.mul(x, b.reshape(x, (2, 4, 5, 6))), r"mul1 .*\(2, 5, 4, 6\).*\(2, 4, 5, 6"),
        (lambda b, x: b.transpose(x, (0, 1, 2)), r"transpose1 .*axes=\(0, 1, 2\)"),
        (lambda b, x: b.transpose(x, (0, 1, 2, 4)), r"transpose1 .*axes=\(0, 1, 2, 4\)"),
        (lambda b, x: b.pad(x, (0, -6, 0, 0), (0,) * 4), r"pad1 .*before=\(0, -6, 0, 0\)"),
        (lambda b, x: b.pad(x, (0,), (0,)), r"pad1 .*needs counts for 4 axes, not 1"),
        (lambda b, x: b.broadcast(x, (2, 5, 5, 6)), r"broadcast1 .*\(2, 5, 4, 6\).*\(2, 5, 5, 6\)"),
        (lambda b, x: b.reduce_sum(x, (4,)), r"reduce_sum1 .*\(2, 5, 4, 6\) has no axes \(4,\)"),
        (lambda b, x: b.reshape(x, (7, 7)), r"reshape1 .*cannot become \(7, 7\): 240 elements"),
        (lambda b, x: b.clip(x, math.nan), r"clip1 .*must not be NaN; low=nan"),
        (lambda b, x: b.leaky_relu(x, math.inf), r"leaky_relu1 .*finite number; slope=inf"),
        (
            lambda b, x: b.concat([b.flatten(x), b.reshape(x, (5, 48))]),
            r"concat1 .*\(2, 120\) and \(5, 48\)",
        ),
    ],
)
def test_ops__refuse(network, told):
    b = GraphBuilder("refused")
    with pytest.raises(InputError, match=told):
        network(b, b.input("x", IMAGE))
