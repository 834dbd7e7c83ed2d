"""cli -> engine, bench; bench -> engine, kernels; engine -> kernels; kernels -> nothing of ours."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cnnengine.kernels
from cnnengine.bench import accuracy

ROOT = Path(next(iter(cnnengine.kernels.__path__))).resolve().parent
ALLOWED = {
    "kernels": {"kernels"},
    "engine": {"engine", "kernels"},
    "bench": {"bench", "engine", "kernels"},
    "cli": {"cli", "bench", "engine"},
}
# packages that are heavy or not everywhere, and the places (files or folders) that may use them
PLACES = {
    "torch": ("bench/", "engine/distributed.py", "engine/tensorfiles.py"),
    "triton": ("kernels/triton/", "kernels/cuda.py", "bench/compile_check.py"),
    "cupy": (
        "kernels/cupy/",
        "kernels/cuda.py",
        "kernels/triton/driver.py",
        "kernels/stopwatch.py",
    ),
}
LONGEST = 320
LONGER: dict[str, tuple[int, str]] = {}  # file: (lines it may have, why)

FILES = sorted(str(f.relative_to(ROOT)) for top in ALLOWED for f in (ROOT / top).rglob("*.py"))


def imports(file: str) -> Iterator[tuple[int, tuple[str, ...], int]]:
    """Yield (line, the imported module from the top, relative level) of every import of a file."""
    package = Path(file).parent.parts
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split(".")), 0
        elif isinstance(node, ast.ImportFrom):
            named = tuple(node.module.split(".")) if node.module else ()
            if not node.level:
                yield node.lineno, named, 0
                continue
            base = ("cnnengine", *package)[: len(package) + 2 - node.level]
            for alias in node.names:
                yield node.lineno, (*base, *named, alias.name), node.level


def test_layering__finds_files():
    assert {file.split("/")[0] for file in FILES} == set(ALLOWED)
    assert "kernels/spec/conv.py" in FILES


@pytest.mark.parametrize("file", FILES)
def test_imports__go_one_way_and_are_relative(file):
    top = file.split("/")[0]
    for line, module, level in imports(file):
        where = f"{file}:{line}: {'.'.join(module)}"
        if level:
            assert len(module) > 1, f"{where} reaches outside the packages"
            assert module[1] in ALLOWED[top], f"{where}: {top} must not import {module[1]}"
        else:
            assert module[0] != "cnnengine", f"{where}: inside the packages imports are relative"


@pytest.mark.parametrize("file", FILES)
def test_imports__keep_packages_in_their_places(file):
    for line, module, level in imports(file):
        places = PLACES.get(module[0], ("",)) if not level else ("",)
        told = f"{file}:{line}: only {' and '.join(places)} may import {module[0]}"
        assert file.startswith(places), told


@pytest.mark.parametrize("file", FILES)
def test_files__stay_short(file):
    lines = len((ROOT / file).read_text().splitlines())
    limit, _ = LONGER.get(file, (LONGEST, ""))
    assert lines <= limit, f"{file} has {lines} lines, more than {limit}: split it"
    assert file not in LONGER or lines > LONGEST, f"{file} is short now: take it out of LONGER"


def test_longer__names_files_that_exist():
    assert set(LONGER) <= set(FILES)


def test_metadata__names_every_package_and_what_it_reads():
    """Whoever installs it has them, too: a folder that is not named is left out of a wheel."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {Path(file).parent for file in FILES}
    assert sorted(told["packages"]) == sorted(".".join(("cnnengine", *f.parts)) for f in folders)
    data = told["package-data"]
    held = {f for n, globs in data.items() for g in globs for f in _folder(n).glob(g)}
    pages = {f for top in ALLOWED for f in (ROOT / top).glob("**/page_files/*") if f.is_file()}
    assert pages <= held
    assert accuracy.KEPT in held


def _folder(package: str) -> Path:
    return ROOT.joinpath(*package.split(".")[1:])
