"""Arrays in the files of others: safetensors, .npz, and torch's .pth, told apart by content.

    with open_tensors(Path("resnet18.pth")) as file:
        file.shapes["conv1.weight"]          # (64, 3, 7, 7): nothing is read yet
        file.read("conv1.weight")            # float array as the file has it

Names, shapes and types come first and numbers only when they are asked for, so what a file declares
costs nothing until somebody has compared it with what he wants. Nothing is unpickled by Python:
.npz files are read without pickles, .pth files by torch's loader that makes tensors only.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import math
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import ml_dtypes  # noqa: F401  (NumPy then knows bfloat16)
import numpy as np
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open

from . import files
from .errors import InputError

MOST_NAMES = 100_000  # arrays in one file; the largest networks have some thousands
ZIP, PICKLE = b"PK", b"\x80"
SAFETENSORS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
TORCH_HOME = "pip install torch"
NESTED = ("state_dict", "model")  # where training scripts put the weights of a checkpoint

DAMAGES = (  # what NumPy and zipfile raise for a damaged array
    ValueError, RuntimeError, EOFError, SyntaxError, OSError, MemoryError, TypeError, OverflowError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensors:
    """An open file: name → shape, name → type, `read(name)`, and the metadata cnnengine wrote."""

    path: Path
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, str]
    read: Callable[[str], np.ndarray]
    meta: Mapping[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Tensors]:
    """The arrays of `path`, or of the model in a run folder. Raises: InputError."""
    path = _file(path)
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if start[8:9] == b"{":
        reader = _safetensors
    elif start[:2] == ZIP:
        reader = _zip
    elif start[:1] == PICKLE:
        reader = _torch
    else:
        raise InputError(
            f"{path} is no file of weights: neither safetensors, .npz nor torch's .pth"
        )
    with reader(path) as tensors:
        if len(tensors.shapes) > MOST_NAMES:
            raise InputError(f"{path} has {len(tensors.shapes)} arrays, more than {MOST_NAMES}")
        yield tensors


def _file(path: Path) -> Path:
    """The file itself. Raises: InputError for what is none."""
    if path.is_dir():
        if not (path / "model.safetensors").is_file():
            raise InputError(f"{path} is a folder without model.safetensors; name a file")
        return path / "model.safetensors"
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    return path


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Tensors]:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(safe_open(path, framework="numpy"))
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path} is no readable safetensors file: {error}") from None
        kinds = {name: part.get_dtype() for name, part in slices.items()}
        yield Tensors(
            path, {name: tuple(part.get_shape()) for name, part in slices.items()},
            {name: SAFETENSORS.get(str(kind), str(kind)) for name, kind in kinds.items()},
            file.get_tensor, _meta(path, file.metadata()),
        )  # fmt: skip


def _meta(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        told = json.loads((metadata or {}).get(files.META, "{}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} has damaged metadata: {error}") from None
    if not isinstance(told, dict):
        raise InputError(f"{path} has damaged metadata: no object")
    return told


@contextlib.contextmanager
def _zip(path: Path) -> Iterator[Tensors]:
    """.npz and .pth are both zip archives."""
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise InputError(f"{path} is a damaged archive: {error}") from None
        members = archive.infolist()
        if not any(member.filename.endswith("/data.pkl") for member in members):
            yield _npz(path, archive, members)
            return
        packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
        if packed:  # torch stores its records as they are; unpacking could fill the memory
            raise InputError(
                f"{path} is no file of torch's: {shown(packed[0])} in it is compressed"
            )
        yield stack.enter_context(_torch(path))


def _npz(path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Tensors:
    """The arrays of a .npz file; what each says of itself is held to its size in the archive."""
    if len(members) > MOST_NAMES:
        raise InputError(f"{path} has {len(members)} arrays, more than {MOST_NAMES}")
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, str] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name == member.filename:
            raise InputError(f"{path} is no .npz file: {shown(name)} in it is no .npy file")
        if name in shapes:
            raise InputError(f"{path} has {shown(name)} twice")
        try:
            with archive.open(member) as file:
                shapes[name], dtype = _npy_header(file)
                size = file.tell() + math.prod(shapes[name]) * dtype.itemsize
        except DAMAGES as error:
            raise InputError(f"{path}: {shown(name)} cannot be read: {error}") from None
        if dtype.hasobject:
            raise InputError(
                f"{path}: {shown(name)} holds Python objects, which are never unpickled"
            )
        if size != member.file_size:
            raise InputError(
                f"{path}: {shown(name)} says it is {shapes[name]} of {dtype}, which with its "
                f"header are {size} bytes, but has {member.file_size}"
            )
        dtypes[name] = dtype.name

    def read(name: str) -> np.ndarray:
        try:
            with archive.open(f"{name}.npy") as file:
                return npy.read_array(file, allow_pickle=False)
        except DAMAGES as error:
            raise InputError(f"{path}: {shown(name)} cannot be read: {error}") from None

    return Tensors(path, shapes, dtypes, read)


def _npy_header(file: IO[bytes]) -> tuple[Shape, np.dtype]:
    """Shape and type of an array in .npy format. Raises: ValueError."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy format")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if any(extent < 0 for extent in shape):
        raise ValueError(f"its shape is {shape}")
    return shape, dtype


@contextlib.contextmanager
def _torch(path: Path) -> Iterator[Tensors]:
    """A file of `torch.save`, through the loader that makes tensors and runs no code."""
    try:
        import torch
    except ImportError:
        raise InputError(f"{path} is a file of torch's; to read it: {TORCH_HOME}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages in old files
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} holds more than tensors: reading it would run code, so it is not read; save "
            "the weights alone, torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # damaged files make its loader raise whatever it stumbles over
        told = "".join(c if c.isprintable() else " " for c in str(error)[:200])
        raise InputError(f"{path} cannot be read as a file of torch's: {told}") from None
    nested = next((k for k in NESTED if isinstance(loaded, dict) and _is_dict(loaded.get(k))), None)
    tensors = loaded[nested] if nested else loaded
    if not _is_dict(tensors):
        raise InputError(f"{path} holds no tensors by name but {type(tensors).__name__}")
    strange = [n for n, t in tensors.items() if not isinstance(t, torch.Tensor)]
    if strange:
        raise InputError(
            f"{path}: {shown(strange[0])} is no tensor but {tensors[strange[0]]!r:.60}"
        )
    kinds = {n: str(t.dtype).removeprefix("torch.") for n, t in tensors.items()}
    sparse = [n for n, t in tensors.items() if t.layout is not torch.strided or t.is_quantized]
    if sparse:
        raise InputError(f"{path}: {shown(sparse[0])} is sparse or quantized; give plain tensors")

    def read(name: str) -> np.ndarray:
        tensor = tensors[name].detach()
        return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()

    yield Tensors(path, {n: tuple(t.shape) for n, t in tensors.items()}, kinds, read)


def _is_dict(told: object) -> bool:
    return isinstance(told, dict) and bool(told) and all(isinstance(name, str) for name in told)


def shown(name: str) -> str:
    """A name from a file, as it may be printed."""
    return name if name.isprintable() and len(name) <= 200 else f"{name[:200]!r}"
