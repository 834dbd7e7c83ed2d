"""The CUDA kernels on a CPU, from the same source: slow, but without a GPU, and strict.

`simulator.h` gives C++ the words of CUDA C++; a C++ compiler makes a shared library of each kernel
that is used (kept in the user's cache folder, named by a digest of source and flags), and
`simulator.cpp` runs a grid block by block with one fiber for each thread. What a GPU would leave
undefined is an error here or gives NaN: barriers that not all threads reach, reads of shared memory
that nobody wrote, writes behind an array, vectors at odd addresses, asynchronous copies that nobody
waited for. Threads run in a random order that depends on the seed, so a missing barrier shows.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import platformdirs

from ..errors import BackendError

FOLDER = Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")  # the first that is installed
FLAGS = (
    *("-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-nostdinc++", "-fno-strict-aliasing"),
    *("-ffp-contract=off", "-fcf-protection=none"),
)
ALONE = "-fno-gnu-unique"  # GCC: libraries of several kernels must not share static variables
ROOM = 300  # bytes for a message
MONTH = 30 * 24 * 3600  # seconds

_running = threading.Lock()


def compiler() -> str | None:
    """The path of the C++ compiler that is used here, or None."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def missing() -> str | None:
    """Why the simulator cannot run here and what mends it; None if it can."""
    if compiler() is None:
        return "the simulator needs a C++ compiler; install g++"
    return None


@functools.cache
def included(file: str) -> tuple[str, ...]:
    """The names of the package's files that `file` includes, each once, itself first."""
    found = {file: None}
    for name in re.findall(r'^#include "(.+)"', (FOLDER / file).read_text(), re.MULTILINE):
        found |= dict.fromkeys(included(name))
    return tuple(found)


@functools.cache
def digest(file: str) -> str:
    """A digest of the text of `file` and of all that it includes."""
    texts = (f"{name}\n{(FOLDER / name).read_text()}" for name in included(file))
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def cache_folder() -> Path:
    """Where compiled kernels are kept: a folder of the user's cache."""
    return platformdirs.user_cache_path("cnnengine") / "simulator"


def _library(source: str, name: str, told: str) -> Path:
    """The shared library of a C++ text, compiled if the cache has none. Raises: BackendError."""
    path = compiler()
    if path is None:
        raise BackendError(f"backend cupy: {missing()}")
    flags = (*FLAGS, *([ALONE] if "g++" in Path(os.path.realpath(path)).name else []))
    stamp = os.stat(path)
    told_all = f"{source}\n{flags}\n{path} {stamp.st_size} {stamp.st_mtime_ns}\n{FOLDER}"
    key = hashlib.sha256(told_all.encode()).hexdigest()[:24]
    folder = cache_folder()
    file = folder / f"{re.sub('[^a-z0-9_]+', '-', name.lower())[:80]}-{key}.so"
    with contextlib.suppress(FileNotFoundError):
        os.utime(file)  # used today
        return file
    folder.mkdir(parents=True, exist_ok=True)
    with open(file.with_suffix(".lock"), "w") as lock:  # one of several processes compiles
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            with tempfile.TemporaryDirectory(dir=folder) as place:
                made = Path(place) / file.name
                command = [path, *flags, f"-I{FOLDER}", "-x", "c++", "-", "-o", str(made)]
                found = subprocess.run(command, input=source, capture_output=True, text=True)
                if found.returncode:
                    raise BackendError(f"{told}: the simulator cannot compile it\n{found.stderr}")
                os.replace(made, file)
                _forget_old(folder)
    return file


def _forget_old(folder: Path) -> None:
    """Remove the libraries that have not been used for a month."""
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another process removes it, too
            if time.time() - file.stat().st_mtime > MONTH:
                file.unlink(missing_ok=True)


@functools.cache
def _machine() -> ctypes.CDLL:
    source = f'// {digest("simulator.cpp")}\n#include "{FOLDER}/simulator.cpp"\n'
    machine = ctypes.CDLL(str(_library(source, "machine", "simulator.cpp")), ctypes.RTLD_GLOBAL)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    machine.simulator_run.argtypes = [*[pointer] * 4, size, size, ctypes.c_uint64, pointer, size]
    return machine


class Compiled:
    """One kernel instantiation as a shared library."""

    def __init__(self, file: str, name: str) -> None:
        """Compile (or find) the instantiation `name` of `file`. Raises: BackendError."""
        _machine()  # whose symbols the library needs
        digests = f"// {digest(file)} {digest('simulated.h')}\n"
        # the language first, the kernel, and what needs to know the kernel's types last
        files = ("simulator.h", file, "simulated.h")
        source = digests + "".join(f'#include "{FOLDER / name}"\n' for name in files)
        source += f"SIMULATE({name})\n"
        library = ctypes.CDLL(str(_library(source, name, f"{file}: {name}")))
        text = ctypes.create_string_buffer(4096)
        library.signature(text, ctypes.c_size_t(len(text)))
        self.types = tuple(text.value.decode().split())  # "*float16" points to float16
        self.thread = library.thread


_compiled = functools.cache(Compiled)

CTYPES: dict[str, Any] = {
    "int32": ctypes.c_int32,
    "uint32": ctypes.c_uint32,
    "int64": ctypes.c_int64,
    "uint64": ctypes.c_uint64,
    "float32": ctypes.c_float,
}


def run(
    file: str,
    name: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    arguments: tuple[tuple[str, Any], ...],
    shared_bytes: int,
    shared_limit: int,
    seed: int,
) -> None:
    """Run a kernel; `arguments` are (type, value) as in `launch.typed`. Raises: BackendError."""
    kernel = _compiled(file, name)
    told = f"{file}: {name}"
    if len(kernel.types) != len(arguments):
        raise BackendError(
            f"{told}: takes {len(kernel.types)} arguments, {len(arguments)} were given"
        )
    kept = []
    for i, (wanted, (kind, value)) in enumerate(zip(kernel.types, arguments, strict=True)):
        if kind != wanted and not (kind == "*" and wanted.startswith("*")):
            raise BackendError(f"{told}: argument {i} must be {wanted}, not {kind}")
        kept.append(CTYPES.get(kind, ctypes.c_void_p)(value))
    values = (ctypes.c_void_p * len(kept))(*(ctypes.addressof(v) for v in kept))
    three, text = ctypes.c_uint * 3, ctypes.create_string_buffer(ROOM)
    with _running:
        done = _machine().simulator_run(
            *(kernel.thread, values, three(*grid), three(*block)),
            *(shared_bytes, shared_limit, seed, text, len(text)),
        )
    if not done:
        raise BackendError(f"{told}: simulator: {text.value.decode()}")
