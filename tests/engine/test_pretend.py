"""Plans for GPUs that are not here."""

from __future__ import annotations

import importlib.util

import pytest
from click.testing import CliRunner

from cnnengine.cli import show
from cnnengine.engine.compile import stages
from cnnengine.engine.errors import InputError
from cnnengine.engine.models import build_graph
from cnnengine.engine.pretend import pretended_gpu
from cnnengine.kernels import registry
from cnnengine.kernels.cupy import launch

TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


def _final(name, kernels="auto"):
    with pretended_gpu(name, kernels) as device:
        graph = build_graph("vgg-small", 8, (28, 28, 1), 10, training=True, products="tf32")
        return stages(graph, device, training=True)[-1][1]


@TRITON
def test_pretended_gpu__chooses_as_for_its_architecture():
    older, newer = _final("sm_80"), _final("sm_90")
    reasons = {n.choice.reason for n in older.nodes if n.op == "conv2d"}
    assert any("table of sm_80" in r and "needs sm_90" in r for r in reasons)
    assert any("sm_90" in n.choice.reason for n in newer.nodes if n.op == "conv2d")
    borders = [[any(v.border) for n in g.nodes for v in n.writes] for g in (older, newer)]
    assert not any(borders[0])
    assert any(borders[1])


def test_pretended_gpu__with_the_other_kernels():
    nodes = [node for node in _final("sm_90", "cupy").nodes if node.choice is not None]
    assert {node.choice.backend for node in nodes} == {"cupy"}
    assert any(node.choice.config.algorithm == "mma" for node in nodes)


def test_pretended_gpu__leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(registry, "missing", lambda name: "lost")
    with pytest.raises(ZeroDivisionError), pretended_gpu("sm_90", "cupy"):
        assert registry.load("cupy").choose is not None
        raise ZeroDivisionError
    with pytest.raises(registry.BackendError, match="backend cupy: lost"):
        registry.load("cupy")
    registry.load.cache_clear()
    assert launch._Process.recording is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--for", "sm_75"], "unknown GPU 'sm_75'; known: sm_80, sm_86, sm_89, sm_90, sm_100"),
        (["--for", "sm_90", "--device", "cpu"], "--for sm_90 stands for a device; leave --device"),
        (["--for", "sm_90", "--precision", "fp64"], "precision fp64 needs the CPU; sm_90 has fp32"),
    ],
)
def test_show__refuses_for_a_gpu(arguments, told):
    done = CliRunner().invoke(show.command, ["lenet", "--kernels", "cupy", *arguments])
    assert isinstance(done.exception, InputError)
    assert told in str(done.exception)


def test_show__plan_for_a_gpu():
    done = CliRunner().invoke(
        show.command, ["lenet", "--plan", "--for", "sm_90", "--kernels", "cupy"]
    )
    assert done.exit_code == 0, done.output
    assert "cupy" in done.output
    assert "mma" in done.output
