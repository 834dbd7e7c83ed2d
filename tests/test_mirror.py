"""Every backend says what the contract says: names, parameter order, defaults and annotations."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import cnnengine.kernels
from cnnengine.bench.verify import bounds, calls, oracle
from cnnengine.engine import vjp
from cnnengine.engine.inspect import receptive
from cnnengine.engine.onnx import exporter
from cnnengine.kernels import registry, spec

KERNELS = Path(next(iter(cnnengine.kernels.__path__)))
BACKENDS = [
    path.name
    for path in sorted(KERNELS.iterdir())
    if (path / "__init__.py").exists() and path.name != "spec"
]
# (backend, file or function): why it is not there
EXCEPTIONS = {
    ("native", module): "NumPy is bound by memory there already: C has the rest"
    for module in (
        *("bias_grad", "images", "loss", "shape", "update"),
        *("softmax", "softmax_backward", "add", "mul", "concat", "channel_slice"),
        "cast",
    )
}

# what each function writes, by parameter; every other array is read
WRITES = {
    "batch_norm_backward": {"out": "out", "dgamma": "out", "dbeta": "out"},
    "batch_norm_training": {
        **{"out": "out", "mean": "out", "invstd": "out"},
        **{"running_mean": "inout", "running_var": "inout"},
    },
    "conv2d_dgrad": {"out": "out", "db": "out"},
    "conv2d_relu_pool": {"out": "out", "code": "out"},
    "conv2d_relu_pool_backward": {"out": "out", "db": "out"},
    "dense_dgrad": {"out": "out", "db": "out"},
    "max_pool2d": {"out": "out", "code": "out"},
    "softmax_cross_entropy": {"loss": "out", "dlogits": "out"},
    "loss_scale": {"scale": "inout", "good": "inout", "out": "out", "skip": "out"},
    "sgd_update": {"w": "inout", "v": "inout", "low": "out"},
    "adamw_update": {"w": "inout", "m": "inout", "v": "inout", "low": "out"},
}
PARAMETERS = {"op", "pool", "relu", "offset", "decay_until", "config", "axes", "log"}


@cache
def functions(file: Path) -> dict[str, ast.FunctionDef]:
    """The functions at the top level of a file."""
    body = ast.parse(file.read_text()).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def signature(node: ast.FunctionDef) -> str:
    """Parameters with annotations and defaults, and what is returned, as one text."""
    returns = ast.unparse(node.returns) if node.returns else None
    return f"({ast.unparse(node.args)}) -> {returns}".replace("spec.", "")


def stated(name: str) -> ast.FunctionDef:
    return functions(KERNELS / "spec" / f"{spec.CONTRACTS[name].module}.py")[name]


def test_registry__knows_every_backend_folder():
    assert sorted(registry.BACKENDS) == BACKENDS


@pytest.mark.parametrize("name", spec.CONTRACTS)
@pytest.mark.parametrize("folder", BACKENDS)
def test_backend__mirrors_the_contract(folder, name):
    module = spec.CONTRACTS[name].module
    file = KERNELS / folder / f"{module}.py"
    node = functions(file).get(name) if file.exists() else None
    if {(folder, name), (folder, module)} & set(EXCEPTIONS):
        assert node is None, f"{folder} has {name} now: take it out of EXCEPTIONS"
        return
    assert node is not None, f"{folder} lacks {name} in {file.name}"
    assert signature(node) == signature(stated(name)), f"{folder}: {name}"
    decorators = [ast.unparse(d) for d in node.decorator_list]
    assert any(d.endswith(f"implements(spec.{name})") for d in decorators), (
        f"{folder}: {name} must be decorated with implements(spec.{name}), not {decorators}"
    )


@pytest.mark.parametrize("folder", BACKENDS)
def test_backend__has_no_public_function_beside_the_contract(folder):
    for module in sorted({function.module for function in spec.CONTRACTS.values()}):
        file = KERNELS / folder / f"{module}.py"
        if not file.exists():
            continue
        public = {name for name in functions(file) if not name.startswith("_")}
        extra = public - set(spec.CONTRACTS) - {"choose", "supports"}
        assert not extra, f"{folder}/{file.name}: {sorted(extra)} are not in the contract"


def docstring(name: str) -> str:
    """The docstring of a contract function with those that it refers to."""
    text = inspect.getdoc(spec.CONTRACTS[name]) or ""
    others = [other for other in re.findall(r"`(\w+)`", text) if other in spec.CONTRACTS]
    return text + "".join(inspect.getdoc(spec.CONTRACTS[other]) or "" for other in others)


@pytest.mark.parametrize("name", spec.CONTRACTS)
def test_contract__docstring_names_every_array(name):
    arrays = [n for n, kind in spec.directions(name).items() if kind != "static"]
    text = docstring(name)
    silent = [n for n in arrays if n != "workspace" and not re.search(rf"\b{n}\b", text)]
    assert not silent, f"the docstring of {name} does not speak of {silent}"
    assert "Raises:" in text


@pytest.mark.parametrize("name", spec.CONTRACTS)
def test_directions__say_what_is_read_and_written(name):
    writes = WRITES.get(name, {"out": "out"})
    parameters = inspect.signature(spec.CONTRACTS[name]).parameters
    expected = {n: writes.get(n, "static" if n in PARAMETERS else "in") for n in parameters}
    assert dict(spec.directions(name)) == expected


@pytest.mark.parametrize("name", spec.CONTRACTS)
def test_contract__is_tested(name):
    tests = Path(__file__).parent
    files = [*(tests / "kernels").glob("test_*.py"), *(tests / "cases").glob("*.py")]
    assert any(f'"{name}"' in file.read_text() for file in files), f"no test calls {name}"


def test_contract__every_public_name_is_exported():
    for name, function in spec.CONTRACTS.items():
        assert getattr(spec, name) is function
        assert name in spec.__all__, f"kernels/spec/__init__.py: __all__ lacks {name}"


@pytest.mark.parametrize("name", spec.CONTRACTS)
def test_contract__is_known_to_verify(name):
    here = {
        "loops in bench/verify/oracle": hasattr(oracle, name),
        "a builder in bench/verify/calls_*.py": name in calls.BUILDERS,
        "a rule in bench/verify/bounds.py": name in bounds.EXACT or name in bounds.RULES,
    }
    missing = [what for what, there in here.items() if not there]
    assert not missing, f"{name} has no {', no '.join(missing)}"


# ops of GraphBuilder that need no entry in a table, and why
NO_ENTRY = {
    "vjp": {"batch_norm_inference", "normalise"},  # is not trained; stands before all that is
    "twin": {"normalise"},  # a twin gets images that are normalised
    "fields": {
        *("dense", "global_avg_pool2d", "reduce_sum", "reshape", "transpose"),  # by their shapes
        *("normalise", "batch_norm_training"),  # in no graph that infers
    },
    "ONNX": {"normalise", "batch_norm_training", "dropout"},  # the same
}


def graph_ops():
    """The ops that methods of GraphBuilder emit."""
    files = (KERNELS.parent / "engine").glob("build*.py")
    return sorted({op for f in files for op in re.findall(r'_emit\(\s*"(\w+)"', f.read_text())})


@pytest.mark.parametrize("op", graph_ops())
def test_graph_op__is_known_wherever_graphs_are_read(op):
    twins = "".join(f.read_text() for f in (KERNELS.parent / "bench").glob("torch_*.py"))
    here = {
        "vjp": (op in vjp.RULES, "gradient in engine/vjp.py"),
        "twin": (f'"{op}"' in twins, "twin in bench/torch_general.py"),
        "fields": (
            op in (*receptive.WINDOWS, *receptive.POINTWISE),
            "place in WINDOWS or POINTWISE of engine/inspect/receptive.py",
        ),
        "ONNX": (op in exporter.WRITERS, "writer in engine/onnx/export_ops.py"),
    }
    missing = [told for key, (there, told) in here.items() if not there and op not in NO_ENTRY[key]]
    assert not missing, f"{op} has no {', no '.join(missing)} (or is in NO_ENTRY, with the reason)"
    stale = [key for key, (there, _) in here.items() if there and op in NO_ENTRY[key]]
    assert not stale, f"{op} is known now: take it out of NO_ENTRY {stale}"
