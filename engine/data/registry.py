"""The data sets that have a name: what they are, where they live, how their content is verified.

Checksums are of the decompressed content, because the same data is often packed anew. Those of
Fashion-MNIST were computed from the data set itself. Those of MNIST and of CIFAR-10's test batch
are values that several independent public projects agree on; those of CIFAR-10's train batches come
from one publisher. Structure and images per class are checked besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .cifar import parse_cifar
from .dataset import Dataset
from .idx import parse_pair

Arrays = tuple[np.ndarray, np.ndarray]
Parser = Callable[[Mapping[str, bytes], int], tuple[Arrays, Arrays]]


@dataclass(frozen=True)
class Member:
    """One decompressed file: its name, its size in bytes, its SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Download:
    """One file of the data set's home and what it holds: gzip (one member) or a tar archive."""

    url: str
    members: tuple[Member, ...]

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Entry:
    """A named data set; `embedded` ones come with the package and have no downloads.

    `counts` are the images per class of the train and the test split. `parse(contents, classes)`
    turns the members' bytes into (images uint8[N, H, W, C], labels int32[N]) of both splits.
    """

    name: str
    description: str
    licence: str
    home: str
    verified: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], tuple[int, ...]]
    downloads: tuple[Download, ...] = ()
    parse: Parser | None = None
    embedded: bool = False

    @property
    def members(self) -> tuple[Member, ...]:
        """Every decompressed file of the data set."""
        return tuple(member for download in self.downloads for member in download.members)

    @property
    def size(self) -> int:
        """Bytes on disk once fetched; 0 for an embedded data set."""
        return sum(member.size for member in self.members)

    def datasets(self, contents: Mapping[str, bytes]) -> tuple[Dataset, Dataset]:
        """Train and test from the bytes of every member, held to the published class counts.

        Raises:
            InputError: a file has another structure or the classes have other counts.
        """
        if self.parse is None:
            raise InputError(f"data set {self.name!r} comes with the package, not in files")
        both = []
        arrays = self.parse(contents, len(self.classes))
        for split, counts, (images, labels) in zip(
            ("train", "test"), self.counts, arrays, strict=True
        ):
            dataset = Dataset(f"{self.name}/{split}", images, labels, self.classes)
            actual = tuple(dataset.class_counts().tolist())
            if actual != counts:
                raise InputError(f"{dataset.name}: images per class are {actual}, not {counts}")
            both.append(dataset)
        return both[0], both[1]


def parse_mnist(contents: Mapping[str, bytes], classes: int) -> tuple[Arrays, Arrays]:
    """Train and test of a data set in the four files of MNIST.

    Raises:
        InputError: a file is not sound or does not fit its partner.
    """
    train, test = (
        parse_pair(
            contents[f"{split}-images-idx3-ubyte"],
            contents[f"{split}-labels-idx1-ubyte"],
            classes,
            split,
        )
        for split in ("train", "t10k")
    )
    return train, test


def parse_cifar10(contents: Mapping[str, bytes], classes: int) -> tuple[Arrays, Arrays]:
    """Train and test of CIFAR-10 in its five train batches and its test batch.

    Raises:
        InputError: a file is no whole number of records or has a wrong label.
    """
    names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    parts = [parse_cifar(contents[name], classes, name) for name in names]
    train = (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
    return train, parse_cifar(contents["test_batch.bin"], classes, "test_batch.bin")


def _mnist_downloads(base: str, *checksums: str) -> tuple[Download, ...]:
    """The four files of MNIST or a drop-in for it, under `base`."""
    members = (
        ("train-images-idx3-ubyte", 47_040_016),
        ("train-labels-idx1-ubyte", 60_008),
        ("t10k-images-idx3-ubyte", 7_840_016),
        ("t10k-labels-idx1-ubyte", 10_008),
    )
    return tuple(
        Download(f"{base}{name}.gz", (Member(name, size, sha256),))
        for (name, size), sha256 in zip(members, checksums, strict=True)
    )


_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

FASHION_MNIST_MINI = Entry(
    name="fashion-mnist-mini",
    description="Subset of Fashion-MNIST: 5,000 train and 1,000 test images, 28x28 grey",
    licence="MIT, Copyright (c) 2017 Zalando SE",
    home="https://github.com/zalandoresearch/fashion-mnist",
    verified="SHA-256 of the decoded pixels and labels",
    classes=_FASHION_CLASSES,
    counts=((500,) * 10, (100,) * 10),
    embedded=True,
)

FASHION_MNIST = Entry(
    name="fashion-mnist",
    description="Fashion-MNIST: 60,000 train and 10,000 test images of clothing, 28x28 grey",
    licence="MIT, Copyright (c) 2017 Zalando SE",
    home="https://github.com/zalandoresearch/fashion-mnist",
    verified="SHA-256 of each decompressed file, images per class",
    classes=_FASHION_CLASSES,
    counts=((6000,) * 10, (1000,) * 10),
    downloads=_mnist_downloads(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    parse=parse_mnist,
)

MNIST = Entry(
    name="mnist",
    description="MNIST: 60,000 train and 10,000 test images of handwritten digits, 28x28 grey",
    licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
    home="http://yann.lecun.com/exdb/mnist/",
    verified="SHA-256 of each decompressed file (as published by others), images per class",
    classes=tuple("0123456789"),
    counts=(
        (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    ),
    downloads=_mnist_downloads(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    parse=parse_mnist,
)

_CIFAR_CHECKSUMS = (
    ("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
    ("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
    ("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
    ("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
    ("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
    ("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
)

CIFAR10 = Entry(
    name="cifar10",
    description="CIFAR-10: 50,000 train and 10,000 test photographs, 32x32 RGB",
    licence="none stated by its authors; cite Krizhevsky 2009",
    home="https://www.cs.toronto.edu/~kriz/cifar.html",
    verified="SHA-256 of each decompressed file (as published by others), images per class",
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    counts=((5000,) * 10, (1000,) * 10),
    downloads=(
        Download(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            tuple(Member(name, 30_730_000, sha256) for name, sha256 in _CIFAR_CHECKSUMS),
        ),
    ),
    parse=parse_cifar10,
)

REGISTRY: Mapping[str, Entry] = {
    entry.name: entry for entry in (FASHION_MNIST_MINI, FASHION_MNIST, MNIST, CIFAR10)
}
