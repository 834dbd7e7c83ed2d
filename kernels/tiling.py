"""Tile tables: which tile a GPU was measured to like for a problem, and who is asked first.

A table is a JSON file for one architecture, `sm_90.json`:

    {"format": 1, "entries": [{
      "backend": "triton", "function": "conv2d", "algorithm": "implicit-gemm",
      "dtype": "bfloat16", "x": [64, 56, 56, 256], "w": [256, 3, 3, 256],
      "op": {"stride": [1, 1], "padding": [1, 1, 1, 1], "padding_mode": "zeros",
             "dilation": [1, 1], "groups": 1, "precision": "ieee"},
      "tile": {"rows": 128, "columns": 256, "depth": 64, "group": 8, "warps": 8, "stages": 3},
      "provenance": {"kind": "measured", "device": "...", "driver": "...", "cuda": "...",
                     "compiler": "triton 3.9", "date": "2026-11-23", "commit": "...",
                     "median_us": 291.0, "rule_us": 312.5}}]}

`x` and `w` are the shapes of images and filters (dense: [N, C] and [K, C], `op` null), "rule_us" is
what the rule's tile took in the same run. Other kinds of provenance are "modelled" and "rule",
where no GPU has measured. For each problem the first of these that has an entry is asked:

1. the tables' entry of exactly this problem;
2. the tables' entry of a near one: any batch, sizes rounded up to powers of two, all else equal;
   only where its tiles keep as many processors busy as the rule's would;
3. the rule of the backend.

There are two tables. The repository's stands in `tiles/` beside this file. The user's, written by
`cnnengine tune`, lies in the cache folder; its entry goes first if it was measured on this model of
GPU with this version of the compiler, and not before the repository's entry. What is wrong in a
table is warned of once and left out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import platformdirs

from .spec import Conv2d

FORMAT = 1
FUNCTIONS = ("conv2d", "conv2d_dgrad", "conv2d_wgrad", "conv2d_relu_pool")
FUNCTIONS += ("dense", "dense_dgrad", "dense_wgrad")
MEASURED = {"device", "driver", "cuda", "compiler", "date", "commit", "median_us", "rule_us"}
KINDS = {"measured": MEASURED, "modelled": {"model"}, "rule": set[str]()}


@dataclass(frozen=True)
class Problem:
    """One product: who computes what, on images x [N, H, W, C] and filters w [K, R, S, C/groups].

    For dense x is [N, C], w [K, C] and op None.
    """

    backend: str
    function: str
    algorithm: str
    dtype: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    op: Conv2d | None = None

    def key(self) -> Problem:
        """The same problem without a precision that its type does not have."""
        if self.op is None or self.dtype == "float32":
            return self
        return replace(self, op=replace(self.op, precision="ieee"))

    def near(self) -> Problem:
        """What it shares with problems of another batch and about the same size."""
        _, *sizes, channels = self.x
        sizes = [1 << (size - 1).bit_length() for size in sizes]
        return replace(self.key(), x=(0, *sizes, channels))

    @property
    def pixels(self) -> int:
        """N H W, or N of dense."""
        return math.prod(self.x[:-1])


@dataclass(frozen=True)
class Machine:
    """The GPU: architecture (90 for sm_90, 0: unknown), model, and the kernels' compiler."""

    architecture: int
    device: str
    compiler: str


@dataclass(frozen=True)
class Entry:
    """A tile for a problem, and where it comes from."""

    problem: Problem
    tile: Mapping[str, int]
    provenance: Mapping[str, Any]

    def told(self) -> str:
        """Where it comes from, in words."""
        kind = self.provenance["kind"]
        return f"measured {self.provenance['date']}" if kind == "measured" else kind

    def as_json(self) -> dict[str, Any]:
        """The entry as it stands in a table."""
        return {**asdict(self.problem), "tile": self.tile, "provenance": self.provenance}


Impossible = Callable[[Mapping[str, Any], str], str | None]  # (tile, dtype) -> why, or None


@dataclass(frozen=True)
class Asked:
    """A question for a tile: the problem, the products that are cut, and the rule's answer.

    `products` are (rows, columns, how many).
    """

    problem: Problem
    products: tuple[int, int, int]
    rule: Mapping[str, int]


class _State:
    committed = Path(__file__).parent / "tiles"
    user: Path | None = None
    tried: Mapping[str, int] | None = None
    asked: list[Asked] | None = None


def user_folder() -> Path:
    """Where `cnnengine tune` keeps the user's tables."""
    return _State.user or platformdirs.user_cache_path("cnnengine") / "tiles"


def committed_folder() -> Path:
    """Where the repository's tables stand."""
    return _State.committed


def table_name(architecture: int) -> str:
    """90 → "sm_90.json"."""
    return f"sm_{architecture}.json"


@contextlib.contextmanager
def using(committed: Path, user: Path) -> Iterator[None]:
    """Read the tables of these folders instead."""
    before = _State.committed, _State.user
    _State.committed, _State.user = committed, user
    forget()
    try:
        yield
    finally:
        _State.committed, _State.user = before
        forget()


@contextlib.contextmanager
def trying(tile: Mapping[str, int]) -> Iterator[None]:
    """Give this tile to every problem: how candidates are measured."""
    _State.tried = tile
    try:
        yield
    finally:
        _State.tried = None


@contextlib.contextmanager
def listening() -> Iterator[list[Asked]]:
    """Collect the questions for tiles that are asked meanwhile."""
    _State.asked = []
    try:
        yield _State.asked
    finally:
        _State.asked = None


def ask(
    problem: Problem, products: tuple[int, int, int], rule: Mapping[str, int]
) -> Mapping[str, int] | None:
    """The tile of `trying`, or None. A backend asks here before it looks into the tables."""
    if _State.asked is not None:
        _State.asked.append(Asked(problem.key(), products, dict(rule)))
    return _State.tried


def forget() -> None:
    """Read the tables again at the next question."""
    _load.cache_clear()
    find.cache_clear()


def parse(made: Any, impossible: Impossible) -> Entry:
    """An entry of a table. Raises: ValueError, in one line."""
    keys = {field.name for field in fields(Problem)} | {"tile", "provenance"}
    if not isinstance(made, dict) or set(made) != keys:
        found = sorted(set(made) ^ keys) if isinstance(made, dict) else type(made).__name__
        raise ValueError(f"unknown or missing keys: {found}")
    if made["function"] not in FUNCTIONS:
        raise ValueError(f"no function {made['function']!r} has tiles")
    _check_provenance(made["provenance"])
    try:
        op = None if made["op"] is None else _op(made["op"])
        x, w = (tuple(int(extent) for extent in made[name]) for name in ("x", "w"))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"no problem: {error}") from None
    if {len(x), len(w)} != {2 if op is None else 4} or min(*x, *w) < 1:
        raise ValueError(f"no problem: x {x} and w {w}")
    names = {name: str(made[name]) for name in ("backend", "function", "algorithm", "dtype")}
    why = impossible(made["tile"], names["dtype"])
    if why is not None:
        raise ValueError(f"impossible tile {made['tile']!r}: {why}")
    return Entry(Problem(**names, x=x, w=w, op=op).key(), made["tile"], made["provenance"])


def _check_provenance(made: Any) -> None:
    """Raises: ValueError."""
    kind = str(made.get("kind")) if isinstance(made, dict) else ""
    if kind not in KINDS or set(made) != KINDS[kind] | {"kind"}:
        raise ValueError(f"provenance {made!r} is of no known kind, or not complete")
    for name, value in made.items():
        ok = isinstance(value, (int, float) if name.endswith("_us") else str)
        if not ok:
            raise ValueError(f"provenance: {name} must not be {value!r}")


def _op(made: Mapping[str, Any]) -> Conv2d:
    told: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in made.items()}
    return Conv2d(**told)


def read(file: Path, backend: str, impossible: Impossible) -> tuple[list[Entry], list[str]]:
    """The entries of one backend in a table, and what is wrong in it, a line each."""
    if not file.exists():
        return [], []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found, made = content["format"], list(content["entries"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], [f"it is damaged ({type(error).__name__}: {error})"]
    if found != FORMAT:
        return [], [f"its format is {found!r}, this version reads {FORMAT}"]
    entries, wrong = [], []
    for number, entry in enumerate(made, 1):
        if isinstance(entry, dict) and entry.get("backend") not in (backend, None):
            continue
        try:
            entries.append(parse(entry, impossible))
        except ValueError as error:
            wrong.append(f"entry {number}: {error}")
    return entries, wrong


@functools.cache
def _load(file: Path, backend: str, impossible: Impossible) -> dict[Problem, list[Entry]]:
    entries, wrong = read(file, backend, impossible)
    if wrong:
        more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        warnings.warn(f"tile table {file}: left out: {wrong[0]}{more}", stacklevel=2)
    table: dict[Problem, list[Entry]] = {}
    for entry in entries:
        for key in (entry.problem, entry.problem.near()):
            table.setdefault(key, []).append(entry)
    return table


@dataclass(frozen=True)
class Found:
    """What the tables have for a problem: the entry, whose table it is, and of a near problem?"""

    entry: Entry
    table: str
    near: bool


@functools.lru_cache(maxsize=4096)
def find(problem: Problem, machine: Machine, impossible: Impossible) -> tuple[Found, ...]:
    """What the tables have for exactly this problem, then for one near to it."""
    keys = ((problem.key(), False), (problem.near(), True))
    found = (_find(problem, key, near, machine, impossible) for key, near in keys)
    return tuple(one for one in found if one is not None)


def _find(
    problem: Problem, key: Problem, near: bool, machine: Machine, impossible: Impossible
) -> Found | None:
    name = table_name(machine.architecture)
    committed = _load(committed_folder() / name, problem.backend, impossible).get(key, [])
    latest = max((_date(entry) for entry in committed), default="")
    mine = [
        entry
        for entry in _load(user_folder() / name, problem.backend, impossible).get(key, [])
        if entry.provenance.get("device") == machine.device
        and entry.provenance.get("compiler") == machine.compiler
        and _date(entry) >= latest
    ]
    # of near ones the nearest in size, then the youngest
    entries = sorted(mine or committed, key=lambda e: (-_distance(problem, e), _date(e)))
    return Found(entries[-1], "your table" if mine else "table", near) if entries else None


def _date(entry: Entry) -> str:
    return entry.provenance.get("date", "")


def _distance(problem: Problem, entry: Entry) -> float:
    return abs(math.log(max(problem.pixels, 1) / max(entry.problem.pixels, 1)))
