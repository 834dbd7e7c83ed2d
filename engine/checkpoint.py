"""Run folders and checkpoints: everything needed to go on as if nothing had happened.

    RUN/config.toml            the resolved configuration
    RUN/metrics.jsonl          one object a step and one an epoch
    RUN/model.safetensors      parameters; architecture, classes, normalisation in its metadata
    RUN/checkpoint/last.safetensors, best.safetensors
    RUN/curves.png, confusion.png
    RUN/network.py, .onnx      a copy of the file of the network, if it was in one (`userfile`)

A checkpoint is one file: parameters, states and optimizer state as tensors, and the position in
the run as JSON metadata, so that it is whole or not there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tomli_w

from . import files, userfile
from .errors import InputError
from .model_meta import Source, parse_model, told_of_model
from .network import Description

FORMAT = 1


@dataclass
class Progress:
    """Where a run stands: what comes next, and the sums of the epoch under way.

    `metrics_bytes` is the length of metrics.jsonl that belongs to this point; `place` the device
    and the kernels that got there; `energy_wh` what the run has used, None where unknown.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    best_accuracy: float = -1.0
    metrics_bytes: int = 0
    loss_scale: float = 1.0
    good_steps: int = 0
    place: str = ""
    energy_wh: float | None = None
    energy_label: str = "unknown"


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is touched."""
        self.path = path
        self.config = path / "config.toml"
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model.safetensors"
        self.last = path / "checkpoint" / "last.safetensors"
        self.best = path / "checkpoint" / "best.safetensors"
        self.curves = path / "curves.png"
        self.confusion = path / "confusion.png"
        self.code, self.onnx = path / "network.py", path / "network.onnx"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep other processes from training in it. Raises: InputError."""
        files.make_folder(self.path)
        handle = os.open(self.path, os.O_RDONLY)
        try:
            if not _lock(handle):
                raise InputError(f"another process is training in {self.path}")
            yield
        finally:
            os.close(handle)  # and with it the lock, as at the end of the process

    def check_free(self, *, overwrite: bool = False) -> None:
        """Touch nothing. Raises: InputError when the folder may not be made or replaced.

        Overwriting removes only the files of a run; a folder with anything else in it is refused.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise InputError(f"run folder {self.path} is a file")
            taken = self.path.is_dir() and any(self.path.iterdir())
        except OSError as error:
            raise InputError(f"cannot look into {self.path}: {error.strerror}") from None
        if taken and not overwrite:
            raise InputError(
                f"run folder {self.path} exists; give --resume {self.path} to continue it, "
                "--overwrite to replace it, or another --out"
            )
        if taken:
            self._files()

    def create(self, *, overwrite: bool = False) -> None:
        """Make the folder, an overwritten run removed. Raises: InputError as `check_free` does."""
        self.check_free(overwrite=overwrite)
        try:
            for path in self._files():
                path.unlink()
        except OSError as error:
            raise InputError(f"cannot replace {self.path}: {error.strerror or error}") from None
        files.make_folder(self.last.parent)

    def _files(self) -> list[Path]:
        """The files of the run here. Raises: InputError when there is anything else."""
        mine = [
            self.config, self.metrics, self.model, self.last, self.best, self.curves,
            self.confusion, self.code, self.onnx, *self.path.glob(".*.part"),
            *self.last.parent.glob(".*.part"),
        ]  # fmt: skip
        found = [p for p in self.path.rglob("*") if not p.is_dir()]
        strange = sorted(p for p in found if p not in mine)
        if strange:
            raise InputError(
                f"run folder {self.path} holds {strange[0].name}, which is not a run's; "
                "--overwrite replaces runs only"
            )
        return found

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Write config.toml (settings that are None are left out)."""
        told = {k: v for k, v in config.items() if v is not None}
        files.write_bytes(self.config, tomli_w.dumps(told).encode())

    def save_code(self, arch: str, code: files.Content) -> None:
        """Keep a copy of the file that `arch` names; nothing where the network is in no file."""
        if len(code):
            files.write_bytes(self.onnx if userfile.is_onnx(arch) else self.code, code)

    def own_copy(self, arch: str) -> str:
        """`arch` with the copy of its file that is kept here, where there is one."""
        found = userfile.reference(arch)
        copy = self.onnx if userfile.is_onnx(arch) else self.code
        if (found is None and not userfile.is_onnx(arch)) or not copy.exists():
            return arch
        return str(copy) if found is None else str(userfile.Reference(copy, found.function))

    def load_config(self) -> dict[str, Any]:
        """Read config.toml. Raises: InputError."""
        if not self.config.exists():
            raise InputError(f"{self.path} is not a run folder: it has no {self.config.name}")
        return read_toml(self.config)

    @contextlib.contextmanager
    def open_metrics(self, progress: Progress) -> Iterator[BinaryIO]:
        """metrics.jsonl, cut back to what belongs to `progress`; every write goes out at once.

        Raises: InputError.
        """
        try:
            file = open(self.metrics, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise InputError(f"cannot write {self.metrics}: {error.strerror or error}") from None
        with file:
            file.truncate(min(file.tell(), progress.metrics_bytes))
            file.seek(0, os.SEEK_END)
            yield file

    def history(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(one object a step, one an epoch) of metrics.jsonl. Raises: InputError."""
        told: dict[str, list[dict[str, Any]]] = {"step": [], "epoch": []}
        try:
            with open(self.metrics, encoding="utf-8") as lines:
                for line in lines:
                    record = json.loads(line)
                    told[record.pop("kind")].append(record)
        except OSError as error:
            raise InputError(f"cannot read {self.metrics}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.metrics} is damaged: {error}") from None
        return told["step"], told["epoch"]

    def save_model(
        self, description: Description, arrays: Mapping[str, np.ndarray], source: Source
    ) -> None:
        """Write model.safetensors."""
        save_model(self.model, description, arrays, source)

    def save_checkpoint(
        self, path: Path, tensors: Mapping[str, np.ndarray], progress: Progress,
        identity: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Write one checkpoint; `identity` is what a resumed run must agree with."""
        meta = {"format": FORMAT, "identity": dict(identity), "progress": asdict(progress)}
        files.save_tensors(path, tensors, meta)

    def load_checkpoint(
        self, identity: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], Progress] | None:
        """The last checkpoint, or None when the run was stopped before its first.

        Raises: InputError when it is damaged or belongs to another run than `identity`.
        """
        if not self.last.exists():
            return None
        tensors, meta = files.load_tensors(self.last)
        if meta.get("format") != FORMAT:
            raise InputError(f"{self.last} has format {meta.get('format')}, not {FORMAT}")
        try:
            identity_then, progress = dict(meta["identity"]), Progress(**meta["progress"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{self.last} is no checkpoint of a run") from None
        asked = json.loads(json.dumps(dict(identity)))  # tuples become lists, as in the file
        for name, value in asked.items():
            before = identity_then.get(name)
            if before != value:
                raise InputError(
                    f"cannot resume {self.path} with another {name}: it has {before}, not {value}"
                )
        return tensors, progress


def _lock(handle: int) -> bool:
    """Whether the open folder could be locked; a file system without locks counts as yes."""
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def save_model(
    path: Path, description: Description, arrays: Mapping[str, np.ndarray], source: Source
) -> None:
    """Write a model file: parameters and states of inference, and all that `load_model` tells."""
    files.save_tensors(path, arrays, {"format": FORMAT, **told_of_model(description, source)})


def load_model(path: Path) -> tuple[Description, dict[str, np.ndarray], Source]:
    """(description, arrays, what it was trained on) of a run folder or a model.safetensors.

    The arrays are read-only and mapped (`files.load_tensors`). A network in a file is that of the
    copy beside the model, where there is one.

    Raises: InputError.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    arrays, meta = files.load_tensors(file, mapped=True)
    if meta.get("format") != FORMAT or "arch" not in meta:
        raise InputError(
            f"{file} is not a cnnengine model of format {FORMAT}; cnnengine import makes one of it"
        )
    meta.pop("format")
    description, source = parse_model(meta, file)
    return with_own_copy(description, file), arrays, source


def with_own_copy(description: Description, file: Path) -> Description:
    """A network in a file as that of the copy beside its model `file`, where there is one."""
    if not description.code:
        return description
    return replace(description, arch=RunFolder(file.parent).own_copy(description.arch))


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises: InputError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None
