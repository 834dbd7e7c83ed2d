"""The contract of normalisation: batch norm (training, inference, gradient) and LRN.

Batch norm (Ioffe & Szegedy 2015) over N, H, W for each channel c:
    y = gamma * (x - mean) / sqrt(var + eps) + beta      var: biased, computed in two passes
LRN (Krizhevsky et al. 2012) over `size` neighbouring channels:
    y = x / (k + alpha / size * sum of x² over channels c - size//2 … c + (size-1)//2) ** beta
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import require
from .contract import (
    Array,
    Config,
    InOut,
    Out,
    accumulator,
    contiguous,
    contract,
    disjoint,
    has_dtype,
    has_rank,
    has_shape,
    pitched,
    same_float,
)


@dataclass(frozen=True)
class BatchNorm:
    """eps is added to the variance; running = (1 - momentum) * running + momentum * batch."""

    eps: float = 1e-5
    momentum: float = 0.1

    def __post_init__(self) -> None:
        """Check the parameters. Raises: ShapeError."""
        require(self.eps > 0, "batch_norm", "eps must be > 0", eps=self.eps)
        require(
            0 <= self.momentum <= 1,
            "batch_norm",
            "momentum must be in [0, 1]",
            momentum=self.momentum,
        )


def _per_channel(name: str, x: Array, dtype: str, **vectors: Array | None) -> None:
    has_shape(name, (x.shape[3],), **vectors)
    has_dtype(name, accumulator(dtype), **vectors)
    contiguous(name, **vectors)


@contract()
def batch_norm_training(
    x: Array,
    gamma: Array,
    beta: Array,
    out: Out,
    mean: Out,
    invstd: Out,
    running_mean: InOut,
    running_var: InOut,
    *,
    op: BatchNorm,
    relu: bool = False,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """Normalise by this batch's statistics, keep them, and move the running ones.

    x and out [N,H,W,C] of one float type; gamma, beta, mean, invstd = 1/sqrt(var + eps),
    running_mean and running_var (fed with the unbiased variance) [C] of the accumulator's type.
    Needs N*H*W >= 2; an empty batch writes mean 0 and invstd 0 and leaves the running ones alone.

    Raises: ShapeError, DTypeError.
    """
    name = "batch_norm_training"
    has_rank(name, 4, x=x, out=out)
    dtype = same_float(name, x=x, out=out)
    has_shape(name, tuple(x.shape), out=out)
    n, h, w, _ = x.shape
    require(n == 0 or n * h * w >= 2, name, "needs at least two values a channel", x=tuple(x.shape))
    _per_channel(
        name,
        x,
        dtype,
        gamma=gamma,
        beta=beta,
        mean=mean,
        invstd=invstd,
        running_mean=running_mean,
        running_var=running_var,
    )
    pitched(name, x=x, out=out)
    disjoint(name, out, x=x)


@contract()
def batch_norm_inference(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    out: Out,
    *,
    op: BatchNorm,
    relu: bool = False,
) -> None:
    """Normalise by the running statistics. Shapes and types as in `batch_norm_training`.

    Raises: ShapeError, DTypeError.
    """
    name = "batch_norm_inference"
    has_rank(name, 4, x=x, out=out)
    dtype = same_float(name, x=x, out=out)
    has_shape(name, tuple(x.shape), out=out)
    _per_channel(
        name, x, dtype, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var
    )
    pitched(name, x=x, out=out)
    disjoint(name, out, x=x)


@contract()
def batch_norm_backward(
    x: Array,
    dy: Array,
    gamma: Array,
    mean: Array,
    invstd: Array,
    out: Out,
    dgamma: Out,
    dbeta: Out,
    *,
    op: BatchNorm,
    mask: Array | None = None,
    workspace: Array | None = None,
    config: Config | None = None,
) -> None:
    """All three gradients of `batch_norm_training`, optionally through the ReLU behind it.

    x, dy, out (= dx) and mask [N,H,W,C] of one float type; the rest [C] of the accumulator's type.
    `mask` is the fused ReLU's output: dy counts as 0 where mask <= 0. With M = N*H*W and
    xhat = (x - mean) * invstd:  dbeta = sum dy,  dgamma = sum dy*xhat,
    dx = gamma * invstd * (dy - dbeta/M - xhat * dgamma/M).

    Raises: ShapeError, DTypeError.
    """
    name = "batch_norm_backward"
    has_rank(name, 4, x=x, dy=dy, out=out)
    dtype = same_float(name, x=x, dy=dy, out=out, mask=mask)
    has_shape(name, tuple(x.shape), dy=dy, out=out, mask=mask)
    _per_channel(name, x, dtype, gamma=gamma, mean=mean, invstd=invstd, dgamma=dgamma, dbeta=dbeta)
    pitched(name, x=x, dy=dy, out=out, mask=mask)
    disjoint(name, out, x=x, dy=dy, mask=mask)


@dataclass(frozen=True)
class LRN:
    """Local response normalisation across channels; the defaults are AlexNet's of 2012."""

    size: int = 5
    alpha: float = 5e-4
    beta: float = 0.75
    k: float = 2.0

    def __post_init__(self) -> None:
        """Check the parameters. Raises: ShapeError."""
        require(
            isinstance(self.size, int) and self.size >= 1,
            "lrn",
            "size must be >= 1",
            size=self.size,
        )
        require(
            self.alpha >= 0 and self.k > 0,
            "lrn",
            "alpha must be >= 0 and k > 0",
            alpha=self.alpha,
            k=self.k,
        )


@contract()
def lrn(x: Array, out: Out, *, op: LRN) -> None:
    """Divide by the local response. x and out [N,H,W,C] of one float type.

    Raises: ShapeError, DTypeError.
    """
    has_rank("lrn", 4, x=x, out=out)
    same_float("lrn", x=x, out=out)
    has_shape("lrn", tuple(x.shape), out=out)
    pitched("lrn", x=x, out=out)
    disjoint("lrn", out, x=x)


@contract()
def lrn_backward(x: Array, dy: Array, out: Out, *, op: LRN) -> None:
    """Gradient of lrn with respect to x; the response is computed again.

    x, dy and out (= dx) [N,H,W,C] of one float type.

    Raises: ShapeError, DTypeError.
    """
    has_rank("lrn_backward", 4, x=x, dy=dy, out=out)
    same_float("lrn_backward", x=x, dy=dy, out=out)
    has_shape("lrn_backward", tuple(x.shape), dy=dy, out=out)
    pitched("lrn_backward", x=x, dy=dy, out=out)
    disjoint("lrn_backward", out, x=x, dy=dy)
