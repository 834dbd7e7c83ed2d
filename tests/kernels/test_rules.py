"""The particular rules of the contract, one broken call or parameter for each."""

from __future__ import annotations

import numpy as np
import pytest
from calls import blank
from samples import arguments, refused

from cnnengine.kernels.errors import DTypeError, ShapeError
from cnnengine.kernels.spec import (
    LRN,
    SGD,
    AdamW,
    AvgPool2d,
    BatchNorm,
    Clip,
    Conv2d,
    Dropout,
    LeakyRelu,
    MaxPool2d,
    Pad,
    SoftmaxCrossEntropy,
)

WIDE = (2, 6, 5, 8)  # the sound calls' x
# function, arguments to replace, what the message says
RULES = {
    "conv_filter_past_the_image": (
        *("conv2d", {"op": Conv2d(groups=2, dilation=(3, 1))}),
        ("the filter reaches over 7 pixels but padded H has only 6", "dilation=(3, 1)"),
    ),
    "conv_filter_past_the_row": (
        *("conv2d", {"op": Conv2d(groups=2, dilation=(1, 3))}),
        ("the filter reaches over 7 pixels but padded W has only 5", "x=(2, 6, 5, 8)"),
    ),
    "conv_channels": ("conv2d", {"op": Conv2d()}, ("C of x (8)", "groups*C of w (4)", WIDE)),
    "conv_filters": (
        *("conv2d", {"op": Conv2d(groups=2), "w": np.zeros((5, 3, 3, 4), np.float32)}),
        ("groups (2) must divide the filters K (5)",),
    ),
    "dgrad_channels": ("conv2d_dgrad", {"op": Conv2d()}, ("C of x (8)", "groups*C of w (4)")),
    "wgrad_channels": ("conv2d_wgrad", {"op": Conv2d()}, ("C of x (8)", "groups*C of w (4)")),
    "fused_channels": ("conv2d_relu_pool", {"op": Conv2d()}, ("C of x (8)",)),
    "fused_pool": (
        *("conv2d_relu_pool", {"pool": MaxPool2d((3, 3), (2, 2))}),
        ("only the 2x2 max pool of stride 2", "kernel=(3, 3)"),
    ),
    "fused_pool_backward": (
        *("conv2d_relu_pool_backward", {"pool": MaxPool2d((2, 2), (2, 2), ceil_mode=True)}),
        ("only the 2x2 max pool of stride 2", "ceil_mode=True"),
    ),
    "max_pool_window": (
        *("max_pool2d", {"op": MaxPool2d((7, 2), (1, 1))}),
        ("spans 7 pixels but padded H has only 6", WIDE),
    ),
    "avg_pool_window": (
        *("avg_pool2d", {"op": AvgPool2d((2, 6), (1, 1))}),
        ("spans 6 pixels but padded W has only 5", WIDE),
    ),
    "global_pool_of_nothing": (
        *("global_avg_pool2d", {"x": np.zeros((2, 0, 5, 8), np.float32)}),
        ("H and W must be >= 1", (2, 0, 5, 8)),
    ),
    "dense_features": (
        *("dense", {"w": np.zeros((4, 6), np.float32)}),
        ("C of x (5) must equal C of w (6)",),
    ),
    "batch_norm_of_one": (
        *("batch_norm_training", {n: np.zeros((1, 1, 1, 8), np.float32) for n in ("x", "out")}),
        ("needs at least two values a channel", (1, 1, 1, 8)),
    ),
    "concat_of_nothing": ("concat", {"xs": []}, ("needs at least one array",)),
    "concat_of_two_types": (
        *("concat", {"xs": [np.zeros(WIDE, np.float32), np.zeros(WIDE, np.float64)]}),
        ("xs[1] is float64",),
    ),
    "concat_of_two_heights": (
        *("concat", {"xs": [np.zeros(WIDE, np.float32), np.zeros((2, 7, 5, 8), np.float32)]}),
        ("xs[1] must be (2, 6, 5, 8), not (2, 7, 5, 8)",),
    ),
    "slice_past_the_end": ("channel_slice", {"offset": 8}, ("must lie inside", "offset=8", WIDE)),
    "slice_before_the_start": ("channel_slice", {"offset": -1}, ("must lie inside", "offset=-1")),
    "pad_of_another_shape": (
        *("pad", {"op": Pad((0, 1, 2, 0), (0, 0, -1, 3)), "out": np.zeros(WIDE, np.float32)}),
        ("out must be (2, 7, 6, 11), not (2, 6, 5, 8)", "x=(2, 6, 5, 8)"),
    ),
    "pad_of_other_axes": ("pad", {"op": Pad((1,), (1,))}, ("counts for 4 axes, not 1",)),
    "pad_past_the_end": (
        *("pad", {"op": Pad((0, -4, 0, 0), (0, -3, 0, 0))}),
        ("no axis may lose more than it has", "before=(0, -4, 0, 0)", WIDE),
    ),
    "transpose_twice": (
        *("transpose", {"axes": (0, 1, 1, 2)}),
        ("must name each axis of x once", "axes=(0, 1, 1, 2)", WIDE),
    ),
    "transpose_of_seven_axes": (
        *("transpose", {"x": np.zeros((1,) * 7, np.float32), "axes": (0,)}),
        ("x must have 1 to 6 dimensions",),
    ),
    "broadcast_of_other_extents": (
        *("broadcast", {"x": np.zeros((2, 3, 5, 8), np.float32)}),
        ("each of extent 1 or that of out; x=(2, 3, 5, 8), out=(2, 6, 5, 8)",),
    ),
    "sums_of_another_rank": (
        *("reduce_sum", {"out": np.zeros(8, np.float32)}),
        ("out must have as many axes as x", "out=(8,)", WIDE),
    ),
    "sums_of_two_types": (
        *("reduce_sum", {"out": np.zeros((2, 1, 5, 8), np.float64)}),
        ("as x is float32, out must be float32, not float64",),
    ),
    "slopes_of_other_channels": (
        *("prelu", {"slope": np.zeros(6, np.float32)}),
        ("slope must be (1,) or, one for each channel of x, (8,)", "slope=(6,)"),
    ),
    "softmax_without_classes": (
        *("softmax", {n: np.zeros((3, 0), np.float32) for n in ("x", "out")}),
        ("needs at least one class", (3, 0)),
    ),
    "loss_without_classes": (
        *(
            "softmax_cross_entropy",
            {n: np.zeros((3, 0), np.float32) for n in ("logits", "dlogits")},
        ),
        ("needs at least one class", (3, 0)),
    ),
    "decay_past_the_arena": ("sgd_update", {"decay_until": 9}, ("decay_until=9", (8,))),
    "decay_before_the_arena": ("adamw_update", {"decay_until": -1}, ("decay_until=-1", (8,))),
}


@pytest.mark.parametrize("rule", RULES)
def test_contract__refuses(rule):
    function, changes, told = RULES[rule]
    given = arguments(function) | changes
    if rule.startswith("slice"):
        given["out"] = blank((2, 6, 5, 1), "float32")
    error = DTypeError if "types" in rule else ShapeError
    refused(function, given, error, *told)


# one class, settings it must refuse, what the message says
SETTINGS = [
    (Conv2d, {"stride": (0, 1)}, "conv2d: stride must be 2 integers >= 1; stride=(0, 1)"),
    (Conv2d, {"stride": (1, 1, 1)}, "stride=(1, 1, 1)"),
    (Conv2d, {"stride": 2}, "stride=2"),
    (Conv2d, {"stride": (1.0, 1)}, "stride=(1.0, 1)"),
    (Conv2d, {"dilation": (1, 0)}, "dilation=(1, 0)"),
    (Conv2d, {"padding": (1, 1)}, "padding must be 4 integers >= 0; padding=(1, 1)"),
    (Conv2d, {"padding": (0, 0, -1, 0)}, "padding=(0, 0, -1, 0)"),
    (Conv2d, {"padding_mode": "reflect"}, "padding_mode=reflect"),
    (Conv2d, {"precision": "fp8"}, "precision=fp8"),
    (Conv2d, {"groups": 0}, "groups must be an integer >= 1; groups=0"),
    (Pad, {"before": (1, 0), "after": (1,)}, "one for each axis; before=(1, 0), after=(1,)"),
    (Pad, {"before": (0.5,), "after": (1,)}, "before=(0.5,)"),
    (Clip, {"low": float("nan")}, "clip: bounds must not be NaN; low=nan, high=inf"),
    (LeakyRelu, {"slope": float("inf")}, "leaky_relu: slope must be a finite number; slope=inf"),
    (MaxPool2d, {"kernel": (0, 2), "stride": (1, 1)}, "max_pool2d: kernel must be"),
    (MaxPool2d, {"kernel": (2, 2), "stride": (0, 1)}, "stride=(0, 1)"),
    (MaxPool2d, {"kernel": (2, 2), "stride": (1, 1), "padding": (2, 0, 0, 0)}, "window=(2, 2)"),
    (MaxPool2d, {"kernel": (2, 2), "stride": (1, 1), "dilation": (0, 1)}, "dilation=(0, 1)"),
    (MaxPool2d, {"kernel": (8, 16), "stride": (1, 1)}, "up to 127 pixels; kernel=(8, 16)"),
    (AvgPool2d, {"kernel": (2, 2), "stride": (1,)}, "avg_pool2d: stride must be"),
    (AvgPool2d, {"kernel": (3, 1), "stride": (1, 1), "padding": (0, 0, 0, 1)}, "window=(3, 1)"),
    (Dropout, {"p": 1.0}, "dropout: p must be in [0, 1); p=1.0"),
    (Dropout, {"p": -0.1}, "p=-0.1"),
    (Dropout, {"p": float("nan")}, "p=nan"),
    (SoftmaxCrossEntropy, {"label_smoothing": 1.0}, "label_smoothing=1.0"),
    (SoftmaxCrossEntropy, {"weight": float("inf")}, "weight must be finite; weight=inf"),
    (BatchNorm, {"eps": 0.0}, "batch_norm: eps must be > 0; eps=0.0"),
    (BatchNorm, {"momentum": 1.5}, "momentum=1.5"),
    (LRN, {"size": 0}, "lrn: size must be >= 1; size=0"),
    (LRN, {"alpha": -1.0}, "alpha=-1.0"),
    (LRN, {"k": 0.0}, "k=0.0"),
    (SGD, {"momentum": 1.0}, "sgd: momentum must be in [0, 1); momentum=1.0"),
    (SGD, {"weight_decay": -1e-4}, "weight_decay=-0.0001"),
    (SGD, {"momentum": 0.0, "nesterov": True}, "nesterov needs momentum > 0"),
    (AdamW, {"beta1": 1.0}, "adamw: betas must be in [0, 1); beta1=1.0, beta2=0.999"),
    (AdamW, {"beta2": -0.5}, "beta2=-0.5"),
    (AdamW, {"eps": 0.0}, "eps=0.0"),
    (AdamW, {"weight_decay": -1.0}, "weight_decay=-1.0"),
]


@pytest.mark.parametrize(("kind", "settings", "told"), SETTINGS)
def test_parameters__refuse(kind, settings, told):
    with pytest.raises(ShapeError) as caught:
        kind(**settings)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
