"""What lies between an array and a kernel: checks, pointers, and the launch itself.

    usable("relu", x=x, out=out)
    launch(_relu_kernel, cdiv(x.size, 1024), x, out, x.size, BLOCK_ELEMENTS=1024)

A kernel can also take a matrix as a tensor descriptor, of which it reads whole blocks: on sm_90 and
later the copy engine (TMA) fetches them, with zeros for what lies outside.

On a GPU the arrays are CuPy's and a launch goes to CuPy's current stream. In Triton's interpreter
they are NumPy's and a kernel reads and writes their memory in place. Neither needs PyTorch: Triton
asks of an argument only where it lies and which type its elements have.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy
import triton
import triton.language as tl
from triton.compiler.errors import CompilationError
from triton.runtime import interpreter
from triton.runtime.errors import OutOfResources, PTXASError
from triton.tools.tensor_descriptor import TensorDescriptor

from .. import cuda
from ..arrays import cdiv as cdiv
from ..arrays import pixel_pitch as pixel_pitch
from ..arrays import require_usable
from ..errors import BackendError, ShapeError
from ..spec.contract import ITEMSIZE
from ..spec.contract import address as address
from . import interpreted
from .gpu import Launch, Recorder
from .gpu import fetches_blocks as fetches_blocks
from .gpu import multiprocessors as multiprocessors
from .gpu import recorded as recorded

INTERPRETED = tl.constexpr(interpreted())
OPTIONS = {"enable_fp_fusion": True}  # of the compiler: a * b + c may round once
Number = int | float | None
LARGE = 2**31  # elements from which offsets need 64 bits
MOST_PROGRAMS = 2**31 - 1  # of the first axis of a grid; the others end at 65,535


class ElementType(str):
    """The name of an element type, which also tells its size: a descriptor asks for that."""

    __slots__ = ()

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ITEMSIZE[self]


class Pointer:
    """The memory of an array as Triton sees it: an address and the name of an element type."""

    __slots__ = ("address", "dtype")

    def __init__(self, address: int, dtype: ElementType) -> None:
        """A pointer to elements of the type called `dtype` at `address`."""
        self.address = address
        self.dtype = dtype

    def data_ptr(self) -> int:
        """The address in bytes."""
        return self.address

    # The interpreter asks a tensor for a copy on the host; this memory is on the host already.
    def untyped_storage(self) -> Pointer:
        """The memory itself."""
        return self

    def cpu(self) -> Pointer:
        """The memory itself."""
        return self

    def new_empty(self, size: int, device: str) -> Pointer:
        """The memory itself."""
        return self

    def set_(self, storage: Pointer, offset: int, size: tuple[()], stride: tuple[()]) -> None:
        """Nothing: the pointer stays where it is."""

    def copy_(self, other: Pointer) -> None:
        """Nothing: the kernel has written into the memory itself."""

    def storage_offset(self) -> int:
        """0: the pointer begins where its memory begins."""
        return 0

    def size(self) -> tuple[()]:
        """No extents: kernels take them as arguments."""
        return ()

    def stride(self) -> tuple[()]:
        """No strides: kernels take them as arguments."""
        return ()


_pointer = functools.lru_cache(maxsize=4096)(Pointer)
_type_name = functools.cache(ElementType)


def pointer(array: Any) -> Pointer:
    """The memory of a NumPy or CuPy array for a kernel."""
    return _pointer(address(array), _type_name(array.dtype))


def descriptor(array: Any, matrix: tuple[int, int], pitch: int, block: tuple[int, int]) -> Any:
    """The memory of `array` as a matrix [rows, columns] of which a kernel reads `block`s.

    `pitch` is the number of elements from row to row; rows and columns outside the matrix read as
    zero. Array and rows must start at multiples of 16 bytes.

    Raises: ShapeError.
    """
    start, size = address(array), array.dtype.itemsize
    if start % 16 or pitch * size % 16:
        raise ShapeError(
            f"a tensor descriptor needs rows that start at multiples of 16 bytes; this matrix is "
            f"at address {start}, its rows are {pitch * size} bytes apart"
        )
    return TensorDescriptor(pointer(array), [*matrix], [pitch, 1], [*block])


def usable(function: str, **arrays: Any) -> None:
    """Require arrays (None is left out) that the kernels can read: place, type and alignment.

    Raises: UnsupportedError, ShapeError.
    """
    require_usable(function, "triton", host=interpreted(), arrays=arrays)


@functools.cache
def prepare() -> None:
    """Make Triton launch on CuPy's current stream, or its interpreter work with this NumPy."""
    if interpreted():
        mend_interpreter()
    else:
        from . import driver

        driver.activate()


def mend_interpreter() -> None:
    """Let kernels loop up to a number that they compute, in Triton before 3.9.

    Its interpreter keeps that number in an array of one element, of which NumPy 2.4 makes no int.
    """
    if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9):
        return
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


def launch(
    kernel: Any, programs: int, *arguments: Any, warps: int = 4, stages: int = 2, **constants: Any
) -> None:
    """Run `kernel` on a one-dimensional grid; arrays become pointers, all else stays.

    No programs: nothing is launched. `constants` are the kernel's `tl.constexpr` parameters.

    Raises: ShapeError, BackendError where Triton cannot compile the kernel for this GPU or the GPU
    has not what it takes.
    """
    if programs == 0:
        return
    if programs > MOST_PROGRAMS:
        raise ShapeError(f"{kernel.__name__}: {programs} programs are more than {MOST_PROGRAMS}")
    given = [a if isinstance(a, Number | TensorDescriptor) else pointer(a) for a in arguments]
    if Recorder.launches is not None:
        Recorder.launches.append(Launch(kernel, tuple(given), constants, warps, stages))
        return
    prepare()
    options = {"num_warps": warps, "num_stages": stages, **OPTIONS}
    try:
        with numpy.errstate(all="ignore"):  # the interpreter's: as on a GPU, inf - inf is just NaN
            kernel[(programs,)](*given, **options, **constants)
    except (OutOfResources, PTXASError, CompilationError) as error:
        raise BackendError(
            f"backend triton: {kernel.__name__} cannot run on this GPU: {_reason(error)}; use "
            "another --kernels or --precision"
        ) from error


def _reason(error: Exception) -> str:
    """The line of a compiler's message that says why: ptxas' own, or the first."""
    first, *rest = filter(None, map(str.strip, str(error).splitlines()))
    return next((line for line in rest if re.search(r"ptxas.*\b(error|fatal)\b", line)), first)


def large(*arrays: Any) -> bool:
    """Whether offsets into any of the arrays (None is left out) can pass 31 bits."""
    return any(
        array is not None
        and sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True))
        // array.dtype.itemsize
        >= LARGE
        for array in arrays
    )


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr):
    """total + a @ b, accumulated in float32; PRECISION is how float32 products are formed."""
    if INTERPRETED:  # it would multiply the bits of bfloat16
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def wide(v):
    """A block of any float type in float32."""
    if INTERPRETED and v.dtype == tl.bfloat16:
        bits = v.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        v = bits.to(tl.float32, bitcast=True)
    return v.to(tl.float32)


@triton.jit
def narrow(v, TYPE: tl.constexpr):
    """A float32 block rounded to the float type TYPE, ties to even."""
    if INTERPRETED and tl.bfloat16 == TYPE:  # its own conversion cuts the last bits off
        bits = v.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(v == v, bits, 0x7FC0)
        v = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return v.to(TYPE)


FAN_IN = 64  # rows that one program adds up: more would be a long walk for few programs


@triton.jit
def add_rows_kernel(
    parts,  # [terms, count] float32, a row every `stride`
    out,  # [count], or None: the sums replace the first of their rows
    count,
    terms,
    stride,
    scale,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    LONG: tl.constexpr,
):
    """Each program adds BLOCK_ROWS rows of its columns, in the order of its reduction tree."""
    blocks = tl.cdiv(count, BLOCK_COLUMNS)
    first = tl.program_id(0) // blocks * BLOCK_ROWS
    i = tl.program_id(0) % blocks * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)  # [columns]
    if LONG:
        first = first.to(tl.int64)
    row = (first + tl.arange(0, BLOCK_ROWS))[:, None]
    ok = (row < terms) & (i < count)[None, :]
    total = tl.sum(tl.load(parts + (row * stride * count + i[None, :]), mask=ok, other=0.0), 0)
    if out is None:
        tl.store(parts + (first * stride * count + i), total, mask=i < count)
    else:
        tl.store(out + i, narrow(total * scale, out.dtype.element_ty), mask=i < count)


def add_in_order(parts: Any, out: Any, terms: int, scale: float = 1.0) -> None:
    """out = scale * the sum of parts [terms, out.size] (flat float32) over terms, in fixed order.

    The order is that of a tree with FAN_IN branches; parts is overwritten.
    """
    count, stride, columns = out.size, 1, 128
    blocks = cdiv(count, columns)
    constants = {"BLOCK_COLUMNS": columns, "LONG": parts.size >= LARGE}
    while terms > FAN_IN:
        groups = cdiv(terms, FAN_IN)
        launch(
            add_rows_kernel,
            blocks * groups,
            *(parts, None, count, terms, stride, 1.0),
            BLOCK_ROWS=FAN_IN,
            **constants,
        )
        terms, stride = groups, stride * FAN_IN
    rows = 1 << (terms - 1).bit_length()
    arguments = (parts, out, count, terms, stride, float(scale))
    launch(add_rows_kernel, blocks, *arguments, BLOCK_ROWS=rows, **constants)


def scratch(workspace: Any, count: int) -> Any:
    """The first `count` float32 of a uint8 workspace, or memory of its own; None for no count."""
    if count == 0:
        return None
    if workspace is not None:
        return workspace[: 4 * count].view("float32")
    return numpy.empty(count, "float32") if interpreted() else cuda.floats(count)
