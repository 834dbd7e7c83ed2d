"""The general rules of the contract, broken for every array of every function.

Type, shape, rank, layout and overlap: the right error, named in one line, and nothing written.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, product

import numpy as np
import pytest
from cases import conv, elementwise, norm, pool
from cases.draw import Draw
from samples import (
    EVERY_ARRAY,
    FUNCTIONS,
    SAMPLES,
    arguments,
    arrays,
    backends,
    extents,
    refused,
)

from cnnengine.kernels import spec
from cnnengine.kernels.errors import DTypeError, ShapeError
from cnnengine.kernels.spec import LRN, AvgPool2d, BatchNorm, Conv2d, MaxPool2d


@pytest.mark.parametrize("function", FUNCTIONS)
def test_contract__sample_is_sound(function):
    for backend in backends(function):
        assert backend.verify(SAMPLES[function])


def test_contract__every_function_has_a_sample():
    missing = sorted(set(spec.CONTRACTS) - set(SAMPLES))
    assert not missing, f"tests/cases makes no call of {missing} (or tests/samples.py takes none)"
    assert set(SAMPLES) == set(spec.CONTRACTS)


ANY_FLOAT = (("bias_grad", "dy"), ("non_finite", "x"))
ANY_LENGTH = (("non_finite", "x"), ("non_finite", "out"), ("loss_scale", "flags"))


@pytest.mark.parametrize(("function", "name"), EVERY_ARRAY)
def test_contract__refuses_another_type(function, name):
    given = arguments(function)
    other = "float64" if given[name].dtype == np.float32 else "float32"
    if (function, name) in ANY_FLOAT or function == "cast" or name == "low":
        other = "int32"  # these alone may be of several float types
    given[name] = np.zeros(given[name].shape, other)
    refused(function, given, DTypeError, name, other)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        e for e in EVERY_ARRAY if e[0] not in ("channel_slice", "pad") and e not in ANY_LENGTH
    ],  # see RULES
)
def test_contract__refuses_another_shape(function, name):
    given = arguments(function)
    array = given[name]
    given[name] = np.zeros((*array.shape[:-1], array.shape[-1] + 1), array.dtype)
    # for filters the message counts the channels of all groups
    right = () if name == "w" or function == "conv2d_wgrad" else (array.shape[-1],)
    refused(function, given, ShapeError, array.shape[-1] + 1, *right)


@pytest.mark.parametrize(
    ("function", "name"),
    [e for e in EVERY_ARRAY if e != ("bias_grad", "dy")],  # sums any rank
)
def test_contract__refuses_another_rank(function, name):
    given = arguments(function)
    given[name] = given[name][None]
    refused(function, given, ShapeError, given[name].shape)


@pytest.mark.parametrize(("function", "name"), [e for e in EVERY_ARRAY if extents(*e)[-1] > 1])
def test_contract__refuses_gaps_between_channels(function, name):
    given = arguments(function)
    given[name] = np.repeat(given[name], 2, axis=-1)[..., ::2]
    refused(function, given, ShapeError, name, given[name].strides)


@pytest.mark.parametrize(("function", "name"), [e for e in EVERY_ARRAY if len(extents(*e)) > 1])
def test_contract__refuses_another_order(function, name):
    given = arguments(function)
    given[name] = np.asfortranarray(given[name])
    refused(function, given, ShapeError, name, given[name].strides)


PITCHED = {"x", "dy", "out", "residual", "mask"}  # NHWC arrays that may be slices of channels


def may_be_pitched(function, name):
    """Whether the contract takes channel slices of a wider buffer there."""
    module = spec.CONTRACTS[function].module
    activation = len(extents(function, name)) == 4 and name in PITCHED
    filters = (function, name) == ("conv2d_wgrad", "out")
    flat = module in ("dense", "update", "loss", "shape", "activation")
    flat = (flat and function != "bias_grad") or function in FLAT
    return activation and not filters and not flat


FLAT = ("relu", "relu_backward", "add", "mul", "dropout", "cast", "normalise")


MATRICES = [entry for entry in EVERY_ARRAY if len(extents(*entry)) > 1]


@pytest.mark.parametrize(("function", "name"), [e for e in MATRICES if not may_be_pitched(*e)])
def test_contract__refuses_channel_slices(function, name):
    given = arguments(function)
    wide = np.concatenate([given[name]] * 2, axis=-1)
    given[name] = wide[..., : given[name].shape[-1]]
    refused(function, given, ShapeError, name, "C-contiguous", given[name].strides)


@pytest.mark.parametrize(("function", "name"), [e for e in MATRICES if may_be_pitched(*e)])
def test_contract__takes_channel_slices(function, name):
    for backend in backends(function):
        assert backend.verify(replace(SAMPLES[function], pitch={name: (3, 2)}, alias={}))


# arrays that the output may lie upon: the contract says so, or leaves it to the backend
IN_PLACE = {
    *(("relu", "x"), ("relu_backward", "dy"), ("relu_backward", "y")),
    *(("add", "a"), ("add", "b"), ("dropout", "x")),
    *(("mul", "a"), ("mul", "b"), ("clip", "x"), ("clip_backward", "dy"), ("clip_backward", "x")),
    *(("leaky_relu", "x"), ("leaky_relu_backward", "dy"), ("leaky_relu_backward", "x")),
    *(("prelu", "x"), ("prelu_backward", "dy"), ("prelu_backward", "x")),
    ("conv2d", "residual"),
    *(("concat", "xs"), ("channel_slice", "x")),
}


def overlapping(function):
    """(function, out, read array) for the pairs that must not share memory."""
    kinds = spec.directions(function)
    present = [name for _, name in arrays(function)]
    main = "out" if "out" in present else ("loss" if "loss" in present else "w")
    vectors = spec.CONTRACTS[function].module == "norm"
    for name in present:
        apart = kinds[name] in ("in", "out", "inout") and name != main
        if not apart or (function, name) in IN_PLACE or name in SCALARS:
            continue
        if vectors and len(extents(function, name)) == 1:
            continue  # statistics and parameters live in arenas of their own
        yield function, main, name


SCALARS = ("lr", "step", "grad_scale", "skip", "key", "labels")


@pytest.mark.parametrize(
    ("function", "out", "name"), list(chain.from_iterable(map(overlapping, FUNCTIONS)))
)
def test_contract__refuses_overlap(function, out, name):
    given = arguments(function)
    first, second = given[out], given[name]
    memory = np.zeros(first.nbytes + second.nbytes, np.uint8)
    last = first.nbytes - first.itemsize  # the second array starts in the first one's last element
    last -= last % second.itemsize
    given[out] = memory[: first.nbytes].view(first.dtype).reshape(first.shape)
    given[name] = memory[last : last + second.nbytes].view(second.dtype).reshape(second.shape)
    given[name][...] = second
    refused(function, given, ShapeError, f"overlaps {name}")


@pytest.mark.parametrize("skew", range(0, 40, 8))
def test_contract__sees_overlap_of_channel_slices_at_any_address(skew):
    # five channels of float64 a pixel; the buffer starts anywhere modulo those 40 bytes
    memory = np.zeros(65)
    start = (skew - memory.ctypes.data) % 40 // 8
    wide = memory[start : start + 60].reshape(1, 3, 4, 5)
    op = MaxPool2d((1, 1), (1, 1))
    for width in (1, 2, 3):
        for a, b in product(range(6 - width), repeat=2):
            x, out = wide[..., a : a + width], wide[..., b : b + width]
            if abs(a - b) >= width:
                spec.max_pool2d(x, out, None, op=op)
            else:
                with pytest.raises(ShapeError, match="overlaps x"):
                    spec.max_pool2d(x, out, None, op=op)


COLUMN = (2, 5, 1, 8)


def column_calls():
    """Calls on images one pixel wide, whose rows may then lie any distance apart."""
    draw = Draw("columns")
    op = Conv2d(padding=(1, 1, 0, 0), groups=2)
    yield from conv.calls(draw, COLUMN, (12, 3, 1, 4), op, "float32")
    yield from pool.calls(draw, COLUMN, MaxPool2d((2, 1), (2, 1)), "float32")
    yield from pool.calls(draw, COLUMN, AvgPool2d((2, 1), (1, 1)), "float32")
    yield from pool.global_calls(draw, COLUMN, "float32")
    yield from norm.batch_norm(draw, COLUMN, BatchNorm(), "float32")
    yield from norm.response_norm(draw, COLUMN, LRN(), "float32")
    yield from elementwise.slices(draw, COLUMN, "float32")


@pytest.mark.parametrize("call", list(column_calls()), ids=lambda call: call.function)
def test_contract__takes_a_column_of_a_wider_image(call):
    given = spec.directions(call.function)
    names = [n for n in (*PITCHED, "xs") if n in given and may_be_column(call, n)]
    for backend in backends(call.function):
        for columns in (*([name] for name in names), names):
            assert backend.verify(replace(call, columns=frozenset(columns), alias={}))


def may_be_column(call, name):
    """Whether this array of the call is an image one pixel wide in a layout that may have gaps."""
    if name == "xs":
        return True
    shape = call.oracle()[name].shape if name in call.want else np.shape(call.inputs.get(name))
    return may_be_pitched(call.function, name) and len(shape) == 4 and shape[2] == 1
