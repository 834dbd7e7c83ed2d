"""Networks in a file of the user's: `mynet.py:build`, a function like those of `models`.

    def build(b, x, classes, *, width=1.0):            # GraphBuilder, image [N,H,W,C], how many
        x = b.relu(b.conv2d(x, round(32 * width), 3, padding="same", name="conv1"))
        return b.dense(b.global_avg_pool2d(x), classes, name="top")

To name such a file is to run it: it is Python with all rights of whoever calls. The content is
read once, known by its SHA-256, and kept beside what was trained with it, so that a network is
always built by the code that it was trained with, or not at all.
"""

from __future__ import annotations

import functools
import linecache
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import InputError, KernelError

if TYPE_CHECKING:
    from .files import Content
    from .ir import Value

LARGEST = 1 << 20  # bytes of a file
_loaded: dict[tuple[Path, str], ModuleType] = {}


@dataclass(frozen=True)
class Reference:
    """A function in a file."""

    file: Path
    function: str

    def __str__(self) -> str:
        """As it is written: FILE.py:FUNCTION."""
        return f"{self.file}:{self.function}"


def reference(arch: str) -> Reference | None:
    """FILE.py:FUNCTION in its parts with the file's whole path; None for anything else."""
    file, colon, function = arch.rpartition(":")
    if not (colon and file.endswith(".py") and function.isidentifier()):
        return None
    return Reference(Path(file).resolve(), function)


def is_onnx(arch: str) -> bool:
    """Whether `arch` names an ONNX file: nothing in it is run, but it is kept and known alike."""
    return arch.endswith(".onnx")


def file_of(arch: str) -> Path | None:
    """The file that `arch` names, or None."""
    found = reference(arch)
    if found is not None:
        return found.file
    return Path(arch).resolve() if is_onnx(arch) else None


def settled(arch: str) -> str:
    """`arch` with a whole path if it names a file, so that it holds in any folder."""
    found = reference(arch)
    if found is not None:
        return str(found)
    return str(file_of(arch)) if is_onnx(arch) else arch


def read(file: Path) -> bytes:
    """The content. Raises: InputError."""
    try:
        with open(file, "rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    if len(content) > LARGEST:
        raise InputError(f"{file} is larger than {LARGEST} bytes: no network is written so")
    return content


def content(arch: str) -> Content:
    """The content of the file that `arch` names, an ONNX file mapped; nothing where it names none.

    Raises: InputError.
    """
    found = file_of(arch)
    if found is None or not is_onnx(arch):
        return b"" if found is None else read(found)
    from . import files  # loads NumPy, which the help of commands does without

    try:
        return files.mapped(found)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {found}: {getattr(error, 'strerror', error)}") from None


def digest(code: Content) -> str:
    """SHA-256, hexadecimal; "" for nothing."""
    from . import files

    return files.sha256(code) if len(code) else ""


def check(arch: str, code: str) -> None:
    """Raises: InputError when the file that `arch` names is no longer the one of digest `code`."""
    from .onnx.network import open_network  # which builds on much that builds on this

    now = open_network(Path(arch)).digest if is_onnx(arch) else digest(content(arch))
    if now != code:
        raise InputError(
            f"{arch} has changed since the network was trained: its SHA-256 is {now[:16]}…, not "
            f"{code[:16]}…"
        )


def load(found: Reference) -> Callable[..., Value]:
    """The function, from the file as it is now; runs the file unless the same content ran before.

    Raises: InputError naming file, line and what went wrong, also while the function builds.
    """
    code = read(found.file)
    key = (found.file, digest(code))
    if key not in _loaded:
        name = f"{found.file.stem}_{digest(f'{key}'.encode())}"
        module = sys.modules[name] = ModuleType(name)  # dataclasses look their module up
        module.__file__ = str(found.file)
        linecache.checkcache(str(found.file))
        with _Told(found.file):
            exec(compile(code, str(found.file), "exec"), module.__dict__)
        _loaded[key] = module
    function = getattr(_loaded[key], found.function, None)
    if not callable(function):
        known = [n for n, v in vars(_loaded[key]).items() if callable(v) and not n.startswith("_")]
        raise InputError(
            f"{found.file} has no function {found.function!r}; known: {', '.join(known) or 'none'}"
        )

    @functools.wraps(function)
    def build(*arguments: Any, **options: Any) -> Value:
        with _Told(found.file):
            logits: Any = function(*arguments, **options)
        return logits

    return build


class _Told:
    """Turns an exception of the user's code into one line."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, InputError) or not isinstance(error, Exception):
            return
        lines = [f.lineno for f in traceback.extract_tb(trace) if f.filename == str(self.file)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        what = str(error) if isinstance(error, KernelError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{self.file}{f', line {line}' if line else ''}: {what}") from error
