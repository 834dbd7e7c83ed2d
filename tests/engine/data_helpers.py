"""Small synthetic data sets in the published formats, and a registry that knows them."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

from cnnengine.engine.data.cifar import RECORD
from cnnengine.engine.data.dataset import Dataset
from cnnengine.engine.data.registry import (
    Download,
    Entry,
    Member,
    parse_cifar10,
    parse_mnist,
)

CLASSES = ("a", "b", "c")


def idx_bytes(array: np.ndarray) -> bytes:
    """`array` uint8 in the IDX format."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + np.ascontiguousarray(array, np.uint8).tobytes()


def pictures(count: int, side: int = 28, seed: int = 0) -> np.ndarray:
    """Random uint8[count, side, side]."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), np.uint8)


def cycle_labels(count: int, classes: int = len(CLASSES)) -> np.ndarray:
    """Labels 0, 1, 2, 0, 1, 2, …, uint8[count]."""
    return (np.arange(count) % classes).astype(np.uint8)


def toy_dataset(count: int = 23, shape: tuple[int, int, int] = (8, 6, 1)) -> Dataset:
    """A data set of random images."""
    images = np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)
    return Dataset("toy", images, cycle_labels(count).astype(np.int32), CLASSES)


def member(name: str, data: bytes) -> Member:
    """What a registry knows of a file."""
    return Member(name, len(data), hashlib.sha256(data).hexdigest())


def toy_mnist(base_url: str = "http://127.0.0.1:9/", train: int = 30, test: int = 9):
    """An entry in MNIST's four files, and those files' decompressed bytes by name."""
    files = {
        "train-images-idx3-ubyte": idx_bytes(pictures(train, seed=1)),
        "train-labels-idx1-ubyte": idx_bytes(cycle_labels(train)),
        "t10k-images-idx3-ubyte": idx_bytes(pictures(test, seed=2)),
        "t10k-labels-idx1-ubyte": idx_bytes(cycle_labels(test)),
    }
    entry = Entry(
        name="toy-mnist",
        description="Toy",
        licence="none",
        home="none",
        verified="SHA-256",
        classes=CLASSES,
        counts=((train // 3,) * 3, (test // 3,) * 3),
        downloads=tuple(
            Download(f"{base_url}{name}.gz", (member(name, data),)) for name, data in files.items()
        ),
        parse=parse_mnist,
    )
    return entry, files


def cifar_bytes(count: int, seed: int = 0) -> bytes:
    """`count` records of CIFAR-10 with labels 0, 1, 2, 0, …"""
    records = np.random.default_rng(seed).integers(0, 256, (count, RECORD), np.uint8)
    records[:, 0] = cycle_labels(count)
    return records.tobytes()


def toy_cifar(base_url: str = "http://127.0.0.1:9/"):
    """An entry in CIFAR-10's six files within one archive, and those files' bytes by name."""
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    files = {name: cifar_bytes(3, seed) for seed, name in enumerate(names)}
    entry = Entry(
        name="toy-cifar",
        description="Toy",
        licence="none",
        home="none",
        verified="SHA-256",
        classes=CLASSES,
        counts=((5,) * 3, (1,) * 3),
        downloads=(
            Download(
                f"{base_url}cifar.tar.gz",
                tuple(member(name, data) for name, data in files.items()),
            ),
        ),
        parse=parse_cifar10,
    )
    return entry, files


def write_gzip(folder: Path, files: dict[str, bytes]) -> Path:
    """Each file as `name.gz` in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    return folder


def tar_gz(files: dict[str, bytes], inside: str = "cifar-10-batches-bin") -> bytes:
    """The files in a folder `inside` a tar.gz archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{inside}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
