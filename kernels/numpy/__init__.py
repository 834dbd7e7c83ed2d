"""The CPU backend: the whole contract in NumPy, on all cores, in blocks that stay in cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import spec
from .threads import get_threads, session, set_threads

__all__ = ["choose", "get_threads", "missing", "session", "set_threads", "supports"]


def missing() -> str | None:
    """None: NumPy is always here."""
    return None


def supports(function: str, arguments: Mapping[str, Any]) -> str | None:
    """None: NumPy runs the whole contract."""
    return None


def choose(function: str, arguments: Mapping[str, Any]) -> spec.Config:
    """The algorithm, block and workspace for one call; see `choose` in `conv.py`."""
    if spec.CONTRACTS[function].module == "conv":  # type: ignore[attr-defined]
        from . import conv

        return conv.choose(function, arguments)
    return spec.Config("numpy", reason="one way")
