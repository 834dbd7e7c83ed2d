"""The CUDA device: arrays in one arena on a GPU, and work that is replayed as CUDA graphs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..kernels import cuda, registry
from ..kernels.errors import BackendError
from .device import Device, numpy_dtype

ALIGNMENT = 256  # bytes: as CUDA's own allocator; whole cache lines and memory transactions
SPARE = 256 << 20  # bytes left for the kernels' code and for CUDA itself
SLOTS = 3  # training steps on their way: one runs, one is copied in, one is prepared


class CudaDevice(Device):
    """A GPU. All work is put on its compute stream, in order; only reading a result waits."""

    def __init__(
        self, gpu: cuda.Gpu, backends: tuple[str, ...], declined: tuple[str, ...] = (), *,
        graphs: bool = True,
    ) -> None:  # fmt: skip
        """Use an opened GPU. `graphs` False launches every kernel one by one."""
        super().__init__(
            f"cuda:{gpu.index}", backends, declined,
            precisions=("fp32", "tf32", "fp16", "bf16"), products="tf32x3", slots=SLOTS,
            pictures=True,
        )  # fmt: skip
        self.gpu = gpu
        self.graphs = graphs
        self._arena: Any = None
        self._taken = 0

    def reserve(self, size: int) -> None:
        """Allocate an arena of `size` bytes, from which arrays are cut until it is used up.

        Raises: MemoryError.
        """
        free, total = (n / 1e9 for n in self.gpu.memory())
        if not self.has_room(size):
            raise MemoryError(
                f"{(size + SPARE) / 1e9:.2f} GB needed, {free:.2f} of {total:.2f} GB free"
            )
        self._arena, self._taken = self.gpu.empty((size,), np.dtype(np.uint8)), 0
        self.arena_bytes += size

    def release(self) -> None:
        """Give the arena back: nobody uses its arrays any more."""
        self.gpu.compute.synchronize()
        self._arena, self._taken, self.arena_bytes = None, 0, 0

    def has_room(self, size: int) -> bool:
        """Whether so many bytes could be reserved."""
        return size + SPARE <= self.gpu.memory()[0]

    def left(self) -> int:
        """Bytes of the arena that are not used yet."""
        return 0 if self._arena is None else self._arena.size - self._taken

    def aligned(self, size: int) -> int:
        """Bytes that an array of `size` bytes takes."""
        return -(-size // ALIGNMENT) * ALIGNMENT

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """An array with arbitrary content: from the arena while it has room, else on its own."""
        kind = numpy_dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if self.aligned(size) > self.left():
            return self.gpu.empty(shape, kind)
        start = self._taken
        self._taken += self.aligned(size)
        return self._arena[start : start + size].view(kind).reshape(tuple(shape))

    def zeros(self, shape: Sequence[int], dtype: str) -> Any:
        """An array of zeros."""
        array = self.empty(shape, dtype)
        self.gpu.fill(array, 0)
        return array

    def to_host(self, array: Any) -> np.ndarray:
        """A copy as a NumPy array, after all work that was put on the GPU before."""
        host = np.empty(array.shape, array.dtype)
        self.gpu.copy(host, array)
        self.gpu.compute.synchronize()
        return host

    def copy_from_host(self, array: Any, host: np.ndarray) -> None:
        """Fill `array` from a NumPy array of the same shape, converting the element type."""
        converted = np.empty(array.shape, array.dtype)
        converted[...] = host
        self.gpu.copy(array, converted)
        self.gpu.compute.synchronize()  # before `converted` goes

    def stage(self, block: Any) -> np.ndarray:
        """Host memory for the content of `block`, a uint8 array; `upload` brings it there."""
        return np.zeros(block.shape, np.uint8)

    def upload(self, block: Any, staged: np.ndarray) -> None:
        """Bring what was written into `stage(block)` into `block`."""
        self.gpu.copy(block, staged)

    def repeatable(self, run: Callable[[], None]) -> Callable[[], None]:
        """`run` itself at first, so that every kernel is loaded; then one graph, replayed."""
        return Replayed(self.gpu, run) if self.graphs else run

    def wait(self) -> None:
        """Until all work that was put on the GPU is done."""
        self.gpu.copies.synchronize()
        self.gpu.compute.synchronize()

    def works(self) -> bool:
        """Whether work can still run here: after some errors CUDA refuses all that follows.

        If not, nothing is printed any more of what it refuses to free.
        """
        try:
            self.gpu.compute.synchronize()
        except RuntimeError:
            cuda.quieten()
            return False
        return True

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Open while work runs; ends when all is done, whatever ends it. Raises: BackendError."""
        with contextlib.ExitStack() as stack:
            try:
                self.gpu.use()
                for name in self.backends:
                    stack.enter_context(registry.load(name).session())
                try:
                    yield
                except BaseException:  # memory that work under way still uses may be freed now
                    with contextlib.suppress(Exception):
                        self.wait()
                    raise
                self.wait()
            except cuda.out_of_memory() as error:
                raise BackendError(
                    f"{self.name} ({self.gpu.name}) has too little memory left: {error}; use "
                    "smaller batches, or end what else runs on it"
                ) from error
            except RuntimeError as error:
                # Triton has no type of its own for what CUDA tells it
                if not isinstance(error, cuda.failures()) and "[CUDA]" not in str(error):
                    raise
                self.works()  # else it is quietened
                told = " ".join(str(error).split())
                raise BackendError(f"{self.name} ({self.gpu.name}) failed: {told}") from error


class Replayed:
    """Work that is launched the first time, captured as a graph the second, and then replayed."""

    def __init__(self, gpu: cuda.Gpu, run: Callable[[], None]) -> None:
        """Nothing runs yet."""
        self._gpu, self._run = gpu, run
        self._loaded = False
        self._graph: Any = None

    def __call__(self) -> None:
        """Put the work on the compute stream once more."""
        if not self._loaded:
            self._run()
            self._loaded = True
            return
        if self._graph is None:
            self._graph = self._gpu.capture(self._run)
        self._graph.launch(self._gpu.compute)
