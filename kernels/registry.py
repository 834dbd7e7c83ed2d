"""The backends: their names, which can run here and, where one cannot, why not and what mends it.

    backend = registry.load("numpy")
    backend.function("conv2d")(x, w, b, out, op=Conv2d(padding=(1, 1, 1, 1)))

Adding a backend is one folder with one file per file of `spec/` and one line in `BACKENDS`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from . import spec
from .errors import BackendError, UnsupportedError
from .prepared import Prepared

BACKENDS = ("numpy", "native", "triton", "cupy")


@dataclass(frozen=True)
class Backend:
    """A loaded backend: contract functions by name, and how it chooses among its algorithms."""

    name: str
    package: ModuleType

    @property
    def borders(self) -> bool:
        """Whether some convolutions are faster on images with a border of zeros."""
        return getattr(self.package, "BORDERS", False)

    def function(self, name: str) -> Callable[..., None]:
        """The backend's implementation of the contract function `name`, checks included.

        Raises: UnsupportedError where the backend has it not.
        """
        module = importlib.import_module(f".{spec.CONTRACTS[name].module}", self.package.__name__)  # type: ignore[attr-defined]
        if not hasattr(module, name):
            raise UnsupportedError(f"{name}: backend {self.name} has no {name}; use backend numpy")
        return getattr(module, name)

    def supports(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        """Why this backend cannot run one call; None if it can. `arguments` as in `choose`."""
        return self.package.supports(name, arguments)

    def choose(self, name: str, arguments: Mapping[str, Any]) -> spec.Config:
        """The algorithm, tile and workspace for one call, from shapes and parameters alone.

        `arguments` are those of the contract function; arrays may be graph values.
        """
        return self.package.choose(name, arguments)

    def pretended(self, processors: int) -> contextlib.AbstractContextManager[None]:
        """A context in which a GPU backend without a GPU chooses as for one of that size.

        Multiprocessors decide into how many parts sums are split. Elsewhere it changes nothing.
        """
        pretend = getattr(self.package, "pretended", lambda _: contextlib.nullcontext())
        return pretend(processors)

    def prepare(self, name: str, arguments: Mapping[str, Any]) -> Prepared | None:
        """How to make one call whose filters never change; None: as any other."""
        offered = getattr(self.package, "prepare", None)
        return None if offered is None else offered(name, arguments)

    def session(self) -> contextlib.AbstractContextManager[None]:
        """A context inside which the backend owns its threads or stream; runs happen in one."""
        return self.package.session()


def missing(name: str) -> str | None:
    """Why the backend cannot run here and which install line mends it; None if it can."""
    if name not in BACKENDS:
        return f"unknown backend {name!r}; known: {', '.join(BACKENDS)}"
    return importlib.import_module(f".{name}", __package__).missing()


class _Process:
    only_shown = False


@contextlib.contextmanager
def only_shown() -> Iterator[None]:
    """Inside, `load` also gives backends that cannot run here: to see what they would choose."""
    load.cache_clear()
    _Process.only_shown = True
    try:
        yield
    finally:
        _Process.only_shown = False
        load.cache_clear()


@functools.cache
def load(name: str) -> Backend:
    """The backend called `name`. Raises: BackendError when it is unknown or cannot run here."""
    if not _Process.only_shown and (reason := missing(name)) is not None:
        known = name in BACKENDS
        raise BackendError(f"backend {name}: {reason}, or use backend numpy" if known else reason)
    return Backend(name, importlib.import_module(f".{name}", __package__))
