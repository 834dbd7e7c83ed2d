"""The compile check: what it reads from a disassembly, what it calls worse, and its tables."""

from __future__ import annotations

import json

import pytest

from cnnengine.kernels import registry, spec

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"backend triton: {REASON}", allow_module_level=True)

from cnnengine.bench import compile_check
from cnnengine.kernels.triton import launch

LISTING = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   HMMA.16816.F32 R4, R8, R6, R4 ;
.L_x_1:
        /*0020*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0030*/              @!P1 BRA `(.L_x_1) ;
        /*0040*/                   HMMA.16816.F32 R4, R8, R7, R4 ;
        /*0050*/               @P0 BRA `(.L_x_0) ;
        /*0060*/                   BRA `(.L_x_2) ;
.L_x_2:
        /*0070*/                   EXIT ;
"""
TABLES = sorted(compile_check.FOLDER.glob("*.json"))


def test_hot_loop__is_the_one_with_the_products():
    instructions, loop = compile_check.hot_loop(LISTING)
    assert len(instructions) == 8
    assert loop == 5
    assert compile_check.hot_loop("/*0000*/ EXIT ;") == (["EXIT"], 0)


FIGURES = {"registers": 100, "spill_bytes": 0, "shared_bytes": 64, "mma": 4, "loop": 180}


@pytest.mark.parametrize("name", FIGURES)
def test_worse__names_the_figure_that_got_worse(name):
    better = -1 if name != "mma" else 1
    for change, lines in ((better, 0), (0, 0), (-better, 1)):
        now = {"conv": {"sm_90": {**FIGURES, name: FIGURES[name] + change}}}
        told = compile_check.worse(now, {"conv": {"sm_90": FIGURES}})
        assert len(told) == lines
        assert all(f"conv, sm_90: {name} {FIGURES[name]} -> " in line for line in told)


def test_worse__names_a_launch_that_is_not_in_the_table():
    assert compile_check.worse({"conv": {"sm_90": FIGURES}}, {}) == [
        "conv, sm_90: not in the table"
    ]


def test_tables__cover_both_ends_of_the_supported_versions():
    assert {"triton-3.6", "triton-3.9"} <= {table.stem for table in TABLES}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_tables__spill_nothing_and_use_tensor_cores(table):
    for label, by_architecture in json.loads(table.read_text())["launches"].items():
        product = any(word in label for word in ("_conv2d_k", "dgrad_k", "wgrad_k", "relu_pool_k"))
        for architecture, figures in by_architecture.items():
            told = f"{label}, {architecture}: {figures}"
            assert figures["spill_bytes"] == 0, told
            if product:
                assert (figures["mma"] > 0) == ("ieee" not in label), told


@pytest.mark.parametrize("processors", set(compile_check.PROCESSORS.values()))
def test_launches__are_those_of_the_tables(processors, monkeypatch):
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    labels = {label for label, _ in compile_check.launches(processors)}
    for table in TABLES:
        known = json.loads(table.read_text())["launches"]
        assert labels <= set(known), f"{table.name}: run compile_check --update"


def test_main__compiles_nothing_in_the_interpreter(capsys):
    assert compile_check.main([]) == 2
    assert "TRITON_INTERPRET is set" in capsys.readouterr().out


def test_launches__of_the_rest_cover_every_function_that_is_no_convolution(monkeypatch):
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    rest = [label for label, _ in compile_check.launches(132, rest=True)]
    compiled = {label.split(": ")[1].split()[0] for label in rest}
    others = {name for name, stated in spec.CONTRACTS.items() if stated.module != "conv"}
    assert compiled | {"channel_slice"} == others  # whose launch is concat's, listed once
