"""A filter walked over an image: what a convolution does, step by step, on our own kernels."""

from . import outputs, pictures
from .filters import FILTERS, read_filter
from .stages import Stage, Walk, convolve, default_padding
from .texts import looks_like_matrix, parse_matrix, read_matrix

__all__ = [
    "FILTERS",
    "Stage",
    "Walk",
    "convolve",
    "default_padding",
    "looks_like_matrix",
    "outputs",
    "parse_matrix",
    "pictures",
    "read_filter",
    "read_matrix",
]
