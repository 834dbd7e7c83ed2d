"""The compile check of the CUDA C++ kernels: its table, and what it compiles."""

from __future__ import annotations

import pytest

from cnnengine.kernels import cupy, registry, spec

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"its disassembler is Triton's: {REASON}", allow_module_level=True)

from cnnengine.bench import compile_cupy, ratchet
from cnnengine.kernels.cupy import compile, launch

TABLES = sorted(ratchet.FOLDER.glob("nvrtc-*.json"))


def test_tables__are_there():
    assert [table.stem for table in TABLES] == ["nvrtc-12.9"]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_tables__spill_nothing_and_use_tensor_cores(table):
    rows = ratchet.read(table)
    assert not ratchet.spills(rows)
    for label, by_architecture in rows.items():
        for architecture, row in by_architecture.items():
            assert (row["mma"] > 0) == ("_mma_kernel" in label), f"{label}, {architecture}"


@pytest.mark.parametrize("architecture", compile_cupy.ARCHITECTURES)
def test_kernels__are_those_of_the_table(architecture, monkeypatch):
    monkeypatch.setattr(launch._Process, "simulated", None)
    labels = {compile_cupy.label(kernel) for kernel in compile_cupy.kernels(architecture)}
    assert any("conv2d_kernel" in label for label in labels)
    for table in TABLES:
        known = {n for n, row in ratchet.read(table).items() if f"sm_{architecture}" in row}
        told = f"{table.name}: run python -m cnnengine.bench.compile_cupy --missing"
        assert labels == known, told


def test_call__goes_through_every_function_that_is_there(monkeypatch):
    monkeypatch.setattr(launch._Process, "simulated", None)
    called = set()
    made = compile_cupy._call
    monkeypatch.setattr(
        compile_cupy, "_call", lambda b, name, given: (made(b, name, given), called.add(name))
    )
    list(compile_cupy.kernels(90))
    here = {n for n in spec.CONTRACTS if cupy.supports(n, {}) is None}
    assert here - called <= {"channel_slice"}  # whose kernel is concat's


def test_figures__of_a_kernel():
    if (reason := compile.missing()) is not None:
        pytest.skip(reason)
    row, broken = compile_cupy.figures(launch.Kernel("reduce.cu", "add_rows_kernel<256>"), 90)
    assert not broken
    assert row["spill_bytes"] == row["mma"] == 0
    assert 8 <= row["registers"] <= 64


def test_main__quick_finds_nothing_worse(monkeypatch, capsys):
    """The ratchet on the smallest of its kernels, with the compiler."""
    if (reason := compile.missing()) is not None:
        pytest.skip(reason)
    if ratchet.table_file("nvrtc", compile.version()) not in TABLES:
        pytest.skip(f"there is no table of NVRTC {compile.version()}")
    monkeypatch.setattr(launch._Process, "simulated", None)
    files = {kernel.file for kernel in compile_cupy.kernels(compile_cupy.QUICK[0])}
    assert {*compile_cupy.QUICK[1], "reduce.cu"} <= files
    monkeypatch.setattr(compile_cupy, "QUICK", (90, ("reduce.cu",)))
    assert compile_cupy.main(["--quick"]) == 0
    assert "1 launches: none worse" in capsys.readouterr().out


def test_main__says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(compile, "missing", lambda: "no NVRTC; install it")
    assert compile_cupy.main([]) == 2
    assert compile_cupy.main(["--fast"]) == 2
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "compile_cupy: no NVRTC; install it",
        "compile_cupy: takes one of --update, --missing, --quick, or none, not --fast",
    ]
