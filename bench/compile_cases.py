"""Calls of every contract function, for the compile checks: shapes of real networks.

    for label, function, arguments in cases(array, architecture=90): ...

`array(dtype, *shape)` makes the arrays; nobody reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..kernels.spec import (
    LRN,
    SGD,
    AdamW,
    AvgPool2d,
    BatchNorm,
    Clip,
    Dropout,
    LeakyRelu,
    LossScale,
    MaxPool2d,
    Pad,
    SoftmaxCrossEntropy,
)
from ..kernels.tiling import Problem
from .suites import HALVING, SUITES, Layer, layer

Case = tuple[str, str, dict[str, Any]]  # label, contract function, arguments
Make = Callable[..., Any]  # (dtype, *shape) -> array
VGG1, INCEPTION, RESNET = (64, 224, 224, 64), (64, 35, 35, 192), (64, 112, 112, 64)
BATCH = 64
NETWORKS = ("vgg16", "alexnet", "resnet50", "vgg-small")  # whose layers are all compiled
FEW = ("vgg16 conv", "3x3", "vgg16 fc")  # how the labels begin that stand for all products


def layer_calls(
    array: Make, made: Layer, dtype: str, batch: int = BATCH, border: tuple[int, int] = (0, 0)
) -> Iterator[Case]:
    """The three passes of one layer, ReLU, mask and bias gradient included, and the fused pool.

    With a border (rows, columns) of zeros around the images there is no pool.
    """

    def image(shape: tuple[int, ...]) -> Any:
        n, h, w, c = shape
        if border == (0, 0):
            return array(dtype, *shape)
        return array(dtype, n, h + border[0], w + border[1], c)[:, :h, :w]

    op = made.op
    x, w, y = made.x_shape(batch), made.w_shape, made.y_shape(batch)
    label = f"{made.name} {dtype}" + (f" {op.precision}" if dtype == "float32" else "")
    images, filters, output = image(x), array(dtype, *w), image(y)
    bias, sums, gradient = array("float32", w[0]), array("float32", x[3]), array("float32", *w)
    forward = {"x": images, "w": filters, "b": bias, "out": output, "op": op, "relu": True}
    yield label, "conv2d", forward
    if x[3] > 3:  # the gradient of pictures is wanted by nobody
        back = {"dy": output, "w": filters, "out": images, "op": op}
        yield label, "conv2d_dgrad", {**back, "mask": image(x), "db": sums}
    yield label, "conv2d_wgrad", {"x": images, "dy": output, "out": gradient, "op": op}
    if made.pool == HALVING and border == (0, 0):
        pooled = {"op": op, "pool": HALVING, "code": array("int8", *HALVING.output_shape(y))}
        pooled["out"] = array(dtype, *HALVING.output_shape(y))
        yield label, "conv2d_relu_pool", {"x": images, "w": filters, "b": bias, **pooled}
        back = {"dy": pooled["out"], "code": pooled["code"], "out": output, "pool": HALVING}
        yield label, "conv2d_relu_pool_backward", {**back, "db": bias}


def _bordered(array: Make) -> Iterator[Case]:
    """Layers whose images lie in a border of zeros, read through the copy engine."""
    same = layer(56, 256, 256, name="vgg16 conv3_2 bordered")
    for dtype, precision in (
        *(("bfloat16", "ieee"), ("float16", "ieee"), ("float32", "tf32x3"), ("float32", "tf32")),
    ):
        precise = replace(same, op=replace(same.op, precision=precision))
        yield from layer_calls(array, precise, dtype, border=(1, 1))
    row = layer(17, 128, 192, (1, 7), name="inception 1x7 bordered")
    yield from layer_calls(array, row, "bfloat16", border=(0, 3))
    strided = layer(56, 128, 256, stride=2, name="3x3/2 bordered")  # gathered, into a border
    yield from layer_calls(array, strided, "bfloat16", border=(1, 1))


def problem_calls(array: Make, problem: Problem) -> Iterator[Case]:
    """The calls, one and perhaps none, of a problem of a tile table."""
    x, w, dtype = problem.x, problem.w, problem.dtype
    told = f"table {problem.algorithm} {'x'.join(map(str, x))} {'x'.join(map(str, w))}"
    if problem.op is None:
        found = dense_calls(array, f"{told} {dtype}", dtype, (x[0], x[1], w[0]))
    else:
        made = Layer(told, (x[1], x[2], x[3]), w[0], (w[1], w[2]), problem.op, HALVING)
        top, bottom, left, right = problem.op.padding
        border = (max(top, bottom), max(left, right)) if problem.algorithm == "halo" else (0, 0)
        found = layer_calls(array, made, dtype, x[0], border)
    return (case for case in found if case[1] == problem.function)


def convolutions(array: Make) -> Iterator[Case]:
    """The layers of `NETWORKS` in bfloat16; other types, precisions and paddings on a few."""
    same = layer(56, 256, 256, name="vgg16 conv3_2")
    yield from layer_calls(array, same, "bfloat16")
    for precision in ("tf32x3", "tf32", "ieee"):
        for found in (same, layer(224, 3, 64, name="vgg16 conv1_1")):
            precise = replace(found, op=replace(found.op, precision=precision))
            yield from layer_calls(array, precise, "float32")
    yield from layer_calls(array, same, "float16")
    yield from layer_calls(array, replace(same, name="vgg16 conv3_2 batch 1"), "bfloat16", 1)
    for found in (
        layer(14, 512, 512, mode="edge", name="vgg16 conv5_1 edge"),
        layer(56, 128, 256, 3, stride=2, mode="edge", name="3x3/2 edge"),
        layer(28, 128, 128, dilation=2, name="3x3 dilated"),
        layer(28, 128, 128, groups=4, name="3x3 in 4 groups"),
        layer(56, 144, 144, groups=144, name="3x3 depthwise"),
        layer(28, 13, 17, name="3x3 odd channels"),
        layer(73, 80, 192, padding=0, name="inception 3x3"),
        layer(17, 160, 160, (1, 7), name="inception 1x7"),
    ):
        yield from layer_calls(array, found, "bfloat16")
    for network in NETWORKS:
        for found in SUITES[network].layers:
            named = replace(found, name=f"{network} {found.name}")
            yield from layer_calls(array, named, "bfloat16")


def _pools(array: Make, dtype: str) -> Iterator[Case]:
    for label, shape, op in (
        ("vgg16 pool1", VGG1, MaxPool2d((2, 2), (2, 2))),
        ("resnet50 pool", RESNET, MaxPool2d((3, 3), (2, 2), (1, 1, 1, 1))),
    ):
        x, y = array(dtype, *shape), array(dtype, *op.output_shape(shape))
        code = array("int8", *y.shape)
        yield label, "max_pool2d", {"x": x, "out": y, "code": code, "op": op}
        yield label, "max_pool2d_backward", {"dy": y, "code": code, "out": x, "op": op}
    op = AvgPool2d((3, 3), (1, 1), (1, 1, 1, 1))
    x, y = array(dtype, *INCEPTION), array(dtype, *INCEPTION)
    yield "inception pool", "avg_pool2d", {"x": x, "out": y, "op": op}
    yield "inception pool", "avg_pool2d_backward", {"dy": y, "out": x, "op": op}
    x, y = array(dtype, 64, 7, 7, 2048), array(dtype, 64, 2048)
    yield "resnet50 head", "global_avg_pool2d", {"x": x, "out": y}
    yield "resnet50 head", "global_avg_pool2d_backward", {"dy": y, "out": x}


def dense_calls(array: Make, label: str, dtype: str, sizes: tuple[int, int, int]) -> Iterator[Case]:
    """The passes of a dense layer of sizes (N, C, K), ReLU, mask and bias gradient included."""
    n, c, k = sizes
    x, w, y = array(dtype, n, c), array(dtype, k, c), array(dtype, n, k)
    b, db, dw = array("float32", k), array("float32", c), array("float32", k, c)
    yield label, "dense", {"x": x, "w": w, "b": b, "out": y, "relu": True}
    back = {"dy": y, "w": w, "out": x, "mask": array(dtype, n, c), "db": db}
    yield label, "dense_dgrad", back
    yield label, "dense_wgrad", {"x": x, "dy": y, "out": dw}
    yield label, "bias_grad", {"dy": y, "out": b}


def _dense(array: Make, dtype: str) -> Iterator[Case]:
    for label, *sizes in (("vgg16 fc6", 64, 25088, 4096), ("vgg16 fc8", 64, 4096, 1000)):
        yield from dense_calls(array, label, dtype, (sizes[0], sizes[1], sizes[2]))
    dy, out = array(dtype, *RESNET), array("float32", 64)
    yield "resnet50 conv1", "bias_grad", {"dy": dy, "out": out}


def _norms(array: Make, dtype: str) -> Iterator[Case]:
    x, y, dy = (array(dtype, *RESNET) for _ in range(3))
    gamma, beta, mean, invstd = (array("float32", 64) for _ in range(4))
    vectors, op = {"gamma": gamma, "beta": beta}, BatchNorm()
    running = {"running_mean": array("float32", 64), "running_var": array("float32", 64)}
    kept = {"mean": mean, "invstd": invstd}
    both = {"x": x, "out": y, "op": op, "relu": True, **vectors, **running}
    yield "resnet50 bn1", "batch_norm_training", {**both, **kept}
    yield "resnet50 bn1", "batch_norm_inference", both
    sums = {"dgamma": array("float32", 64), "dbeta": array("float32", 64)}
    back = {"x": x, "dy": dy, "gamma": gamma, **kept, "out": y, **sums, "op": op}
    yield "resnet50 bn1", "batch_norm_backward", {**back, "mask": array(dtype, *RESNET)}
    x, dy, y = (array(dtype, 64, 55, 55, 96) for _ in range(3))
    yield "alexnet lrn1", "lrn", {"x": x, "out": y, "op": LRN()}
    yield "alexnet lrn1", "lrn_backward", {"x": x, "dy": dy, "out": y, "op": LRN()}


def _elementwise(array: Make, dtype: str) -> Iterator[Case]:
    x, y, out = (array(dtype, *RESNET) for _ in range(3))
    yield "resnet50", "relu", {"x": x, "out": out}
    yield "resnet50", "relu_backward", {"dy": x, "y": y, "out": out}
    yield "resnet50", "add", {"a": x, "b": y, "out": out, "relu": True}
    yield "resnet50", "mul", {"a": x, "b": y, "out": out}
    yield "resnet50", "cast", {"x": array("float32", *RESNET), "out": out}
    key = array("uint32", 4)
    yield "vgg16 fc6", "dropout", {"x": x, "out": out, "op": Dropout(0.5), "key": key}
    pieces = [array(dtype, 64, 35, 35, c) for c in (64, 96)]
    yield "inception", "concat", {"xs": pieces, "out": array(dtype, 64, 35, 35, 160)}
    whole, piece = array(dtype, 64, 35, 35, 160), array(dtype, 64, 35, 35, 96)
    yield "inception", "channel_slice", {"x": whole, "out": piece, "offset": 64}


def _pictures(array: Make, dtype: str) -> Iterator[Case]:
    pictures, moves = array("uint8", 64, 224, 224, 3), array("int32", 64, 3)
    vectors = {"mean": array("float32", 3), "scale": array("float32", 3)}
    out = array(dtype, 64, 224, 224, 3)
    yield "imagenet", "normalise", {"images": pictures, "moves": moves, **vectors, "out": out}


def _shapes(array: Make, dtype: str) -> Iterator[Case]:
    x, turned, small = array(dtype, *RESNET), array(dtype, 64, 64, 112, 112), array(dtype, 64, 64)
    yield "resnet50 to NCHW", "transpose", {"x": x, "out": turned, "axes": (0, 3, 1, 2)}
    yield "resnet50 to NHWC", "transpose", {"x": turned, "out": x, "axes": (0, 2, 3, 1)}
    swapped = array(dtype, 112, 64, 112, 64)
    yield "resnet50 rows", "transpose", {"x": x, "out": swapped, "axes": (1, 0, 2, 3)}
    op = Pad((0, 1, 2, 0), (0, 1, -1, 0))
    yield "resnet50", "pad", {"x": x, "out": array(dtype, *op.output_shape(RESNET)), "op": op}
    bias, gates = array("float32", 1, 1, 1, 64), array(dtype, 64, 1, 1, 64)
    yield "resnet50 bias", "broadcast", {"x": bias, "out": x}
    yield "resnet50 gates", "broadcast", {"x": gates, "out": x}
    yield "resnet50 bias", "reduce_sum", {"x": x, "out": bias}
    yield "resnet50 gates", "reduce_sum", {"x": x, "out": gates}
    yield "square", "reduce_sum", {"x": small, "out": array(dtype, 64, 1)}


def _activations(array: Make, dtype: str) -> Iterator[Case]:
    x, dy, out = (array(dtype, *RESNET) for _ in range(3))
    slope = array("float32", 64)
    for function, given in (
        ("clip", {"op": Clip(0.0, 6.0)}),
        ("leaky_relu", {"op": LeakyRelu(0.1)}),
        ("prelu", {"slope": slope}),
    ):
        yield "resnet50", function, {"x": x, "out": out, **given}
        yield "resnet50", f"{function}_backward", {"dy": dy, "x": x, "out": out, **given}
    one = {"x": x, "slope": array("float32", 1), "out": out}
    yield "resnet50 one slope", "prelu", one
    x, dy, out = (array(dtype, 64, 1000) for _ in range(3))
    for label, log in (("imagenet", False), ("imagenet log", True)):
        yield label, "softmax", {"x": x, "out": out, "log": log}
        yield label, "softmax_backward", {"dy": dy, "y": x, "out": out, "log": log}


def _loss(array: Make, dtype: str) -> Iterator[Case]:
    images, classes = 64, 1000
    logits, dlogits = (array(dtype, images, classes) for _ in range(2))
    arrays = {"logits": logits, "labels": array("int32", images), "dlogits": dlogits}
    scale = {"loss": array("float32", images), "grad_scale": array("float32", 1)}
    op = SoftmaxCrossEntropy(0.1)
    yield "imagenet", "softmax_cross_entropy", {**arrays, **scale, "op": op}


def _updates(array: Make, low: str) -> Iterator[Case]:
    count = 2**25
    w, g, m, v = (array("float32", count) for _ in range(4))
    lr, scale, skip = array("float32", 1), array("float32", 1), array("int32", 1)
    shared = {"w": w, "g": g, "v": v, "low": array(low, count), "lr": lr, "grad_scale": scale}
    shared["skip"] = skip
    shared["decay_until"] = count // 2
    yield "arena", "sgd_update", {**shared, "op": SGD(nesterov=True, weight_decay=1e-4)}
    yield "arena", "adamw_update", {**shared, "m": m, "step": array("int64", 1), "op": AdamW()}
    flags, good, out = array("int32", 256), array("int32", 1), array("float32", 1)
    yield "arena", "non_finite", {"x": g, "out": flags}
    decided = {"flags": flags, "scale": scale, "good": good, "out": out, "skip": skip}
    yield "arena", "loss_scale", {**decided, "op": LossScale()}


FAMILIES = [_pools, _dense, _norms, _elementwise, _shapes, _activations, _pictures, _loss]


def cases(array: Make, architecture: int) -> Iterator[Case]:
    """All functions in bfloat16, the products in float16, they and the sums in float32, too."""
    yield from convolutions(array)
    if architecture >= 90:
        yield from _bordered(array)
    for dtype in ("bfloat16", "float16", "float32"):
        families = {"float16": [_dense], "float32": [_dense, _norms]}.get(dtype, FAMILIES)
        for family in families:
            for label, function, arguments in family(array, dtype):
                yield f"{label} {dtype}", function, arguments
    for label, function, arguments in _updates(array, "bfloat16"):
        yield f"{label} bfloat16", function, arguments
