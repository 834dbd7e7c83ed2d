"""The compile check: what it reads from a disassembly, what it calls worse, and its tables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cnnengine.kernels import registry, spec, tiling
from cnnengine.kernels.spec import Conv2d

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"backend triton: {REASON}", allow_module_level=True)

from cnnengine.bench import compile_check, ratchet
from cnnengine.kernels import triton as triton_kernels
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
TABLES = sorted(ratchet.FOLDER.glob("triton-*.json"))


def test_hot_loop__is_the_one_with_the_products():
    instructions, loop = compile_check.hot_loop(LISTING)
    assert len(instructions) == 8
    assert loop == 5
    assert compile_check.hot_loop("/*0000*/ EXIT ;") == (["EXIT"], 0)


@pytest.mark.parametrize(
    ("product", "expected"),
    [
        ("tt.dot %a, %b, %c : tensor<64x64xbf16> * tensor<64x64xbf16> -> tensor<64x64xf32>", True),
        ("tt.dot %a, %b, %c, inputPrecision = tf32x3 : tensor<64x64xf32> * tensor<64xf32>", True),
        ("tt.dot %a, %b, %c : tensor<64x64xf32> * tensor<64x64xf32> -> tensor<64x64xf32>", False),
        ("tt.load %x : tensor<64x64xbf16>", False),
    ],
)
def test_uses_tensor_cores__for_16_bits_and_tf32(product, expected):
    assert compile_check.uses_tensor_cores(f"module {{\n  %d = {product}\n}}") is expected


def test_tables__cover_both_ends_of_the_supported_versions():
    assert {"triton-3.6", "triton-3.9"} <= {table.stem for table in TABLES}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_tables__spill_nothing_and_use_tensor_cores(table):
    rows = ratchet.read(table)
    assert ratchet.spills(rows) == []
    for label, by_architecture in rows.items():
        words = ("_conv2d_k", "dgrad_k", "wgrad_k", "relu_pool_k")
        product = "_depthwise_" not in label and any(word in label for word in words)
        for architecture, figures in by_architecture.items():
            if product:
                assert (figures["mma"] > 0) == ("ieee" not in label), (label, architecture)


@pytest.fixture
def compiling(monkeypatch):
    """Launches are recorded as on a GPU, although the tests run in the interpreter."""
    monkeypatch.setattr(launch, "interpreted", lambda: False)


@pytest.mark.parametrize("architecture", compile_check.PROCESSORS)
def test_selected__are_those_of_the_tables(architecture, compiling):
    found = [label for label, _ in compile_check.selected(architecture, quick=False)]
    labels = set(found)
    assert len(found) == len(labels)
    for table in TABLES:
        known = {label for label, row in ratchet.read(table).items() if f"sm_{architecture}" in row}
        assert labels == known, f"{table.name}: run compile_check --update"


def test_launches__begin_with_the_committed_tiles(compiling, tmp_path):
    tile = {"rows": 64, "columns": 32, "depth": 32, "group": 4, "warps": 4, "stages": 2}
    same = Conv2d(padding=(1, 1, 1, 1))
    images, filters = (8, 28, 28, 32), (64, 3, 3, 32)
    entries = [
        tiling.Entry(problem, tile, {"kind": "rule"}).as_json()
        for problem in (
            tiling.Problem("triton", "conv2d_dgrad", "implicit-gemm", "float16", images, filters,
                           same),
            tiling.Problem("triton", "conv2d", "halo", "bfloat16", images, filters, same),
            tiling.Problem("triton", "dense_wgrad", "tiled", "bfloat16", (64, 512), (256, 512)),
        )
    ]  # fmt: skip
    (tmp_path / "sm_90.json").write_text(json.dumps({"format": 1, "entries": entries}))
    with tiling.using(tmp_path, tmp_path / "user"):
        made = [m for m in compile_check.launches(90) if "BLOCK_DEPTH" in m[1].constants][:3]
    told = ["conv2d_dgrad 1 _conv2d_dgrad_kernel", "conv2d 1 _conv2d_halo_kernel",
            "dense_wgrad 1 _product_kernel"]  # fmt: skip
    for (label, written), expected in zip(made, told, strict=True):
        assert label.startswith("table ")
        assert label.endswith(expected)
        assert (written.warps, written.constants["BLOCK_DEPTH"]) == (4, 32)


def test_main__names_what_is_wrong_in_a_committed_table(compiling, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compile_check, "interpreted", lambda: False)
    (tmp_path / "sm_90.json").write_text("{")
    with tiling.using(tmp_path, tmp_path / "user"):
        assert compile_check.main(["--quick"]) == 1
    assert "sm_90.json: it is damaged" in capsys.readouterr().out


def test_launches__cover_every_function_of_the_contract(compiling):
    labels = [label for label, _ in compile_check.launches(90)]
    compiled = {label.split(": ")[1].split()[0] for label in labels}
    # their launches are those of concat, dense_dgrad, leaky_relu and prelu
    same = {"channel_slice", "bias_grad", "leaky_relu_backward", "prelu_backward"}
    missing = sorted(set(spec.CONTRACTS) - compiled - same)
    assert not missing, f"bench/compile_cases.py has no call of {missing}"
    assert compiled | same == set(spec.CONTRACTS)


def test_launches__cover_every_kernel(compiling):
    folder = Path(triton_kernels.__path__[0])
    text = "".join(file.read_text() for file in folder.glob("*.py"))
    kernels = set(re.findall(r"^@triton\.jit\ndef (\w+_kernel)\(", text, re.MULTILINE))
    assert kernels == {made.kernel.__name__ for _, made in compile_check.launches(90)}


def test_main__quick_finds_nothing_worse():
    """The ratchet on a few kernels, with the compiler and not in the interpreter."""
    if ratchet.table_file("triton", compile_check.triton.__version__) not in TABLES:
        pytest.skip(f"there is no table of Triton {compile_check.triton.__version__}")
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "cnnengine.bench.compile_check", "--quick"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 launches: none worse" in done.stdout


def test_main__compiles_nothing_in_the_interpreter(capsys):
    assert compile_check.main([]) == 2
    assert "TRITON_INTERPRET is set" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--updat"], ["--update", "--quick"]])
def test_main__refuses_what_it_does_not_know(arguments, capsys):
    assert compile_check.main(arguments) == 2
    told = f"takes one of --update, --missing, --quick, or none, not {' '.join(arguments)}"
    assert told in capsys.readouterr().out


def test_compiled__leaves_out_what_is_known(monkeypatch):
    launches = [(f"launch {i}", i) for i in range(5)]
    monkeypatch.setattr(compile_check, "selected", lambda architecture, quick: launches)
    monkeypatch.setattr(compile_check, "figures", lambda i, a: ({"registers": i}, [f"rule {i}"]))
    known = {"launch 2": {"registers": 99}, "gone": {"registers": 7}}
    rows, broken = compile_check.compiled((90, False, 0, 2, known))
    assert rows == {f"launch {i}": {"registers": n} for i, n in ((0, 0), (2, 99), (4, 4))}
    assert broken == ["launch 0, sm_90: rule 0", "launch 4, sm_90: rule 4"]


def test_main__missing_begins_with_the_table(monkeypatch, tmp_path, capsys):
    """What the table has is passed on, and what `table` makes of it is written."""
    monkeypatch.setattr(compile_check, "interpreted", lambda: False)
    monkeypatch.setattr(ratchet, "FOLDER", tmp_path)
    assert compile_check.main(["--missing"]) == 1
    assert "write it with --update" in capsys.readouterr().out
    rows = {"conv": {"sm_90": {"registers": 8, "spill_bytes": 0}}}
    version = compile_check.triton.__version__
    ratchet.hold("triton", version, rows, mode="update")
    more = rows | {"new": rows["conv"]}
    monkeypatch.setattr(
        compile_check, "table", lambda quick, known: (more, []) if known == rows else (known, [])
    )
    assert compile_check.main(["--missing"]) == 0
    assert ratchet.read(ratchet.table_file("triton", version)) == more
