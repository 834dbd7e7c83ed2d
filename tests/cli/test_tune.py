"""`cnnengine tune`: what it refuses without a GPU, and what it prints with a pretended one."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import pytest

from cnnengine.kernels import registry, tiling

if (REASON := registry.missing("triton")) is not None:
    pytest.skip(f"backend triton: {REASON}", allow_module_level=True)

from cnnengine.bench import tune
from cnnengine.bench.verify import judge
from cnnengine.engine import device, hardware
from cnnengine.engine.errors import InputError
from cnnengine.kernels.triton import tiles

from .command import refused

H100 = tiling.Machine(90, "NVIDIA H100", "triton 3.9")
FACTS = {"driver": "570.1", "cuda": "12.8", "commit": "abc"}


def test_tune__without_a_gpu_is_one_line(tmp_path):
    try:
        device.open_device("cuda")
    except InputError:
        line = refused("tune", cwd=tmp_path)
        assert "--device cuda: " in line
        assert line.endswith("; tiles are measured on a GPU only")
    else:
        pytest.skip("there is a GPU")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--device", "cpu"), "--device cpu: .* use --device cuda"),
        (("--minutes", "nan"), "--minutes nan: must be a number of minutes"),
        (("--suite", "vgg17"), "'vgg17' .did you mean vgg16"),
        (("--layers", "0"), "--layers 0"),
        (("--passes", "backward"), "'backward'.*dgrad"),
        (("--types", "bf17"), "'bf17' .did you mean bf16"),
        (("--arch", "vgg-smal"), "'vgg-smal' .did you mean vgg-small"),
        (("--arch", "vgg-small", "--types", "bf17"), "unknown type 'bf17'"),
        (("--arch", "vgg-small", "--layers", "1"), "--layers 1: not with --arch"),
        (("--suite", "alexnet", "--passes", "forward+pool"), "no layer of --suite alexnet"),
    ],
)
def test_tune__refuses_in_one_line(arguments, told):
    with pytest.raises(InputError, match=told):
        call(*arguments)


def test_tune__tells_why_a_pretended_gpu_has_no_driver(monkeypatch):
    opened = replace(device.open_device("interpreter"), name="cuda")
    monkeypatch.setattr(device, "open_device", lambda name, **_: opened)
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: "no NVIDIA driver")
    with pytest.raises(InputError, match="--device cuda: no NVIDIA driver"):
        call(*SMALL)


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """A GPU that the interpreter stands for; everything passes and fewer rows are faster."""
    monkeypatch.setattr(tiles, "machine", lambda: H100)
    monkeypatch.setattr(judge.Question, "judge", lambda *a, **k: judge.Verdict("passed"))
    monkeypatch.setattr(tune, "ROUNDS", 2)
    opened = replace(device.open_device("interpreter"), name="cuda")
    monkeypatch.setattr(device, "open_device", lambda name, **_: opened)

    def watch(call):
        return float(call.keywords["config"]["rows"])

    monkeypatch.setattr(
        tune, "on_cuda", lambda d: tune.Bench(d, registry.load("triton"), H100, FACTS, watch)
    )
    with tiling.using(tmp_path / "committed", tmp_path / "user"):
        yield tmp_path


def call(*arguments):
    command = importlib.import_module("cnnengine.cli.tune").command
    return command.main([*map(str, arguments)], standalone_mode=False)


SMALL = ("--suite", "vgg-small", "--layers", "1,2", "--passes", "forward", "--batch", 2)


def test_tune__measures_prints_and_exports(pretended, capsys):
    (pretended / "user").mkdir()
    (pretended / "user" / "sm_90.json").write_text("{")
    assert call(*SMALL, "--export", pretended / "table.json") is None
    told = capsys.readouterr()
    assert "it now is sm_90.json.damaged" in told.err
    assert "3/3 28x28x32 → 32, 3x3 bfloat16: conv2d: measured, 2.00x" in told.err
    assert "2/3 28x28x32 → 32, 3x3 bfloat16 in a border: conv2d: measured, " in told.err
    assert "table.json: 3 entries" in told.err
    assert "rows=64" in told.out
    assert len(json.loads((pretended / "table.json").read_text())["entries"]) == 3
    call(*SMALL, "--json")
    told = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in told["rows"]] == ["kept"] * 3
    assert told["machine"]["device"] == "NVIDIA H100"


def test_tune__of_a_network_knows_borders(pretended, capsys):
    """The training step's calls are those of its layout on this device."""
    call("--arch", "vgg-small", "--batch", 2, "--minutes", 0, "--json")
    told = capsys.readouterr()
    opened = device.open_device("interpreter")
    steps = tune.network_steps("vgg-small", 2, ["bf16"])
    tasks = list(tune.network_tasks(steps, opened.backends))
    assert any("in a border: conv2d_wgrad" in task.label for task in tasks)
    assert json.loads(told.out)["not_reached"] == len(tasks)


def test_tune__says_what_it_did_not_reach(pretended, capsys):
    assert call(*SMALL, "--minutes", 0) is None
    assert "3 calls not reached in 0 minutes" in capsys.readouterr().err


def test_tune__ends_with_1_where_a_tile_in_use_is_wrong(pretended, capsys, monkeypatch):
    wrong = judge.Verdict("failed", told="out: off")
    monkeypatch.setattr(judge.Question, "judge", lambda *a, **k: wrong)
    assert call(*SMALL) == 1
    assert "warning: 28x28x1 → 32, 3x3 bfloat16: conv2d: wrong results" in capsys.readouterr().err
