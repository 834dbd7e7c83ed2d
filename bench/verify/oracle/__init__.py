"""The float64 oracle: every contract function again, as plain loops written from `kernels/spec`.

The functions have the contract's names and input parameters, take and give float64 arrays (codes
and labels are integers), and return their outputs by name. Where the contract reads a size from
the output array, the parameter `out_shape` states it. Loops run over pixels, taps and channels;
at most the images and channels of one pixel are handled together. Nothing here is fast, and
nothing is shared with a backend.
"""

from .activation import (
    clip,
    clip_backward,
    leaky_relu,
    leaky_relu_backward,
    prelu,
    prelu_backward,
    softmax,
    softmax_backward,
)
from .conv import (
    conv2d,
    conv2d_dgrad,
    conv2d_relu_pool,
    conv2d_relu_pool_backward,
    conv2d_wgrad,
)
from .dense import bias_grad, dense, dense_dgrad, dense_wgrad
from .elementwise import add, cast, channel_slice, concat, dropout, mul, relu, relu_backward
from .images import normalise
from .loss import softmax_cross_entropy
from .norm import (
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_training,
    lrn,
    lrn_backward,
)
from .pool import (
    avg_pool2d,
    avg_pool2d_backward,
    global_avg_pool2d,
    global_avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from .shape import broadcast, pad, reduce_sum, transpose
from .update import adamw_update, loss_scale, non_finite, sgd_update

__all__ = [
    "adamw_update",
    "add",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_norm_training",
    "bias_grad",
    "broadcast",
    "cast",
    "channel_slice",
    "clip",
    "clip_backward",
    "concat",
    "conv2d",
    "conv2d_dgrad",
    "conv2d_relu_pool",
    "conv2d_relu_pool_backward",
    "conv2d_wgrad",
    "dense",
    "dense_dgrad",
    "dense_wgrad",
    "dropout",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "loss_scale",
    "lrn",
    "lrn_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "mul",
    "non_finite",
    "normalise",
    "pad",
    "prelu",
    "prelu_backward",
    "reduce_sum",
    "relu",
    "relu_backward",
    "sgd_update",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "transpose",
]
