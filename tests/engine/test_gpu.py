"""Training on a simulated CUDA device: NumPy's kernels, queued and run late (simulated_cuda.py).

Its streams interleave at random, so equal bits with the CPU mean that no wait is missing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import simulated_cuda

from cnnengine.engine import device as devices
from cnnengine.engine import gpu as gpus
from cnnengine.engine import steps as step_module
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.train import EpochReport, StepReport, TrainingError
from cnnengine.kernels import registry, triton
from cnnengine.kernels.cupy import launch
from cnnengine.kernels.errors import BackendError

from .toy import toy_splits, toy_trainer


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.setitem(devices.BACKENDS, "cuda", ("simulated",))
    return simulated_cuda.install(monkeypatch)


def _run(trainer):
    reports = []
    trainer.run(reports.append)
    steps = [(r.step, r.loss, r.accuracy, r.lr) for r in reports if isinstance(r, StepReport)]
    epochs = [
        (r.train_loss, r.test_loss, r.test_accuracy) for r in reports if isinstance(r, EpochReport)
    ]
    return steps, epochs, trainer.network.state_dict()


@pytest.fixture
def on_cpu(tmp_path):
    return lambda **settings: _run(toy_trainer(tmp_path / "cpu", kernels="numpy", **settings))


def _assert_same(actual, expected):
    assert actual[:2] == expected[:2]
    for name, value in expected[2].items():
        np.testing.assert_array_equal(actual[2][name], value, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_gpu__trains_to_the_bits_of_the_cpu(tmp_path, on_cpu, simulated, seed):
    """Three epochs, the last batch smaller, streams interleaved in three ways."""
    simulated.random.seed(seed)
    trainer = toy_trainer(tmp_path / "gpu", device="cuda")
    _assert_same(_run(trainer), on_cpu())
    assert simulated.log.count("replay") > 0


@pytest.mark.parametrize(
    "settings", [{"optimizer": "adamw", "lr": 0.01}, {"precision": "bf16"}, {"precision": "fp16"}]
)
def test_gpu__other_settings_train_to_the_bits_of_the_cpu(tmp_path, on_cpu, simulated, settings):
    _assert_same(_run(toy_trainer(tmp_path / "gpu", device="cuda", **settings)), on_cpu(**settings))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "settings", [{}, {"shift": 0, "flip": False}, {"unfreeze_at": "2:conv2_1"}]
)
def test_gpu__frozen_layers_train_to_the_bits_of_the_cpu(
    tmp_path, on_cpu, simulated, settings, precision
):
    """Pictures that move, a prefix that is made once, and a new network in the second epoch."""
    settings = {"freeze_until": "conv2_2", "precision": precision, **settings}
    _assert_same(_run(toy_trainer(tmp_path / "gpu", device="cuda", **settings)), on_cpu(**settings))


def test_gpu__a_step_is_one_replay_without_allocation(tmp_path, simulated):
    trainer = toy_trainer(tmp_path / "run", toy_splits(64), device="cuda", epochs=1)
    seen = []

    def report(told):
        if isinstance(told, StepReport):
            seen.append((simulated.log.count("replay"), len(simulated.allocations)))

    trainer.run(report)
    kernels = len(trainer.network.training[16].steps) + 2  # the look at the loss, the update
    assert next(x for x in simulated.log if x.startswith("captured")) == f"captured {kernels}"
    assert simulated.log.count("sgd_update") == 4
    assert len({allocated for _, allocated in seen}) == 1


def test_gpu__pictures_cross_the_bus_as_bytes(tmp_path, simulated):
    trainer = toy_trainer(tmp_path / "run", toy_splits(64), device="cuda", batch_size=64)
    batch = next(trainer.loader.epoch(0))
    with trainer.device.session():
        before = simulated.moved["host to device"]
        trainer.work.steps.run(batch, trainer.progress, 0.01)
        trainer.work.steps.drain()
    moved = simulated.moved["host to device"] - before
    pixels = 64 * 8 * 8
    assert batch.images.nbytes == pixels
    assert pixels < moved < pixels + 3000  # float32 alone would be 4 * 4096
    assert simulated.log.count("normalise") == 1


def test_gpu__no_graph_launches_every_kernel(tmp_path, simulated, on_cpu):
    trainer = toy_trainer(tmp_path / "gpu", device="cuda", graph=False)
    _assert_same(_run(trainer), on_cpu())
    assert "replay" not in simulated.log


def test_gpu__the_arena_is_as_large_as_planned(tmp_path, simulated):
    trainer = toy_trainer(tmp_path / "run", device="cuda")
    device = trainer.device
    assert device.left() == 0
    on_device = [size for size in simulated.allocations if size == device.arena_bytes]
    assert len(on_device) == 1
    assert simulated.used == device.arena_bytes


@pytest.mark.parametrize(("scale", "good"), [(2.0**30, 0), (2.0**10, 1997)])
def test_gpu__float16_scales_losses_as_the_cpu_does(tmp_path, simulated, scale, good):
    """Overflow skips updates and halves; the steps without it double; nobody waits for that."""
    told = {}
    for place, kernels in (("cpu", "numpy"), ("cuda", "auto")):
        trainer = toy_trainer(
            tmp_path / place, device=place, kernels=kernels, precision="fp16", epochs=1
        )
        trainer.progress.loss_scale, trainer.progress.good_steps = scale, good
        scales = []
        trainer.run(lambda _, t=trainer, s=scales: s.append(t.progress.loss_scale))
        told[place] = scales, trainer.network.state_dict()
        assert getattr(trainer.device, "left", lambda: 0)() == 0
    assert told["cuda"][0] == told["cpu"][0]
    assert told["cpu"][0][-1] == (2.0**11 if good else 2.0**30 / 2 ** len(set(told["cpu"][0])))
    kernels = len(trainer.network.training[16].steps) + 4  # scale, overflow, verdict, update
    assert next(x for x in simulated.log if x.startswith("captured")) == f"captured {kernels}"
    for name, value in told["cpu"][1].items():
        np.testing.assert_array_equal(told["cuda"][1][name], value, err_msg=name)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_gpu__float16_that_overflows_at_every_scale_ends_in_one_line(
    tmp_path, simulated, monkeypatch, place
):
    monkeypatch.setattr(step_module, "LEAST_SCALE", 2.0**29)
    kernels = "numpy" if place == "cpu" else "auto"
    trainer = toy_trainer(tmp_path / "run", device=place, kernels=kernels, precision="fp16")
    trainer.progress.loss_scale = 2.0**30
    with pytest.raises(TrainingError, match="gradients overflow at step 1 at every loss scale; us"):
        trainer.run()


def test_gpu__float64_needs_the_cpu(tmp_path, simulated):
    with pytest.raises(InputError, match="precision fp64 needs the CPU; cuda:0 has fp32, tf32"):
        toy_trainer(tmp_path / "run", device="cuda", precision="fp64")


@pytest.mark.parametrize(("precision", "products"), [("fp32", "tf32x3"), ("tf32", "tf32")])
def test_gpu__products_of_float32(tmp_path, simulated, precision, products):
    trainer = toy_trainer(tmp_path / "run", device="cuda", precision=precision)
    ops = [node["op"] for node, _ in trainer.network.training[16].steps if "conv2d" in node.op]
    assert len(ops) >= 15
    assert {op.precision for op in ops if hasattr(op, "precision")} == {products}


def test_gpu__too_little_memory_names_the_batch_that_fits(tmp_path, simulated):
    trainer = toy_trainer(tmp_path / "a", device="cuda", batch_size=8)
    needed = trainer.device.arena_bytes
    simulated.memory = simulated.used + needed + gpus.SPARE
    toy_trainer(tmp_path / "b", device="cuda", batch_size=8)
    simulated.memory = simulated.used + needed + gpus.SPARE - 1
    with pytest.raises(
        InputError, match=r"batch size 8 does not fit into cuda:0: 0\.\d\d GB needed, .*; "
        r"batch size 7 fits"
    ):  # fmt: skip
        toy_trainer(tmp_path / "c", device="cuda", batch_size=8)
    toy_trainer(tmp_path / "d", device="cuda", batch_size=7)
    simulated.memory = simulated.used + gpus.SPARE
    with pytest.raises(InputError, match="not even batch size 1 fits"):
        toy_trainer(tmp_path / "c", device="cuda", batch_size=8)


def test_gpu__a_later_stage_that_will_not_fit_is_told_before_the_run(tmp_path, simulated):
    frozen = {"device": "cuda", "freeze_until": "conv3_2", "shift": 0, "flip": False}
    needed = toy_trainer(tmp_path / "a", **frozen).device.arena_bytes
    simulated.memory = simulated.used + needed + gpus.SPARE + 1000
    toy_trainer(tmp_path / "b", **frozen)
    simulated.memory = simulated.used + needed + gpus.SPARE + 1000
    with pytest.raises(InputError, match="from epoch 2 on: batch size 16 does not fit into cuda:0"):
        toy_trainer(tmp_path / "c", **frozen, unfreeze_at="2:conv1_1")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (simulated_cuda.CUDARuntimeError("cudaErrorECCUncorrectable: ecc"),
         r"cuda:0 \(Simulated GPU\) failed: cudaErrorECCUncorrectable: ecc"),
        (simulated_cuda.CUDADriverError("CUDA_ERROR_DEVICE_UNAVAILABLE"),
         r"cuda:0 \(Simulated GPU\) failed: CUDA_ERROR_DEVICE_UNAVAILABLE"),
        (RuntimeError("Triton Error [CUDA]: an illegal address\nwas met"),
         r"cuda:0 .* failed: Triton Error \[CUDA\]: an illegal address was met"),
        (simulated_cuda.OutOfMemoryError("Out of memory allocating 512 bytes"),
         r"cuda:0 \(Simulated GPU\) has too little memory left: Out of memory allocating 512 "
         "bytes; use smaller batches, or end what else runs on it"),
        (BackendError("backend triton: _conv2d_kernel cannot run on this GPU: out of resource"),
         "backend triton: _conv2d_kernel cannot run on this GPU: out of resource"),
    ],
)  # fmt: skip
def test_gpu__that_fails_mid_run_leaves_the_last_checkpoint(tmp_path, simulated, error, told):
    trainer = toy_trainer(tmp_path / "run", device="cuda")
    kept = {}

    def fail(report):
        if isinstance(report, StepReport) and report.step == 7:
            kept["last"] = trainer.folder.last.read_bytes()
            simulated.error = error

    with pytest.raises(
        TrainingError, match=f"^{told}; the last good checkpoint is .*last.safetensors$"
    ):
        trainer.run(fail)
    assert trainer.folder.last.read_bytes() == kept["last"]
    simulated.error = None
    again = toy_trainer(tmp_path / "run", device="cuda")
    again.resume()
    assert again.progress.step == 5
    assert again.run().finished


def test_gpu__that_has_no_pinned_memory_is_told_before_training(tmp_path, simulated):
    def refuse(size):
        raise simulated_cuda.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory", 2)

    simulated.module.cuda.alloc_pinned_memory = refuse
    told = (
        r"^[\d,]+ bytes of the machine's own memory cannot be locked for copies to the GPU "
        r"\(cudaErrorMemoryAllocation: out of memory\); end what .* smaller --batch-size$"
    )
    with pytest.raises(BackendError, match=told):
        toy_trainer(tmp_path / "run", device="cuda")


def test_gpu__a_loss_that_is_not_finite_is_found_before_a_checkpoint(tmp_path, simulated):
    trainer = toy_trainer(tmp_path / "run", device="cuda")
    kept = {}

    def spoil(told):
        if isinstance(told, EpochReport) and not kept:
            kept["last"] = trainer.folder.last.read_bytes()
            _, view = next(iter(trainer.network.parameters))
            trainer.device.copy_from_host(view, np.full(view.shape, np.nan))

    with pytest.raises(TrainingError, match="the loss is nan at step 5 .epoch 2.; the first"):
        trainer.run(spoil)
    assert trainer.folder.last.read_bytes() == kept["last"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("lr", [1e3, 1e15])
def test_gpu__a_loss_that_diverges_names_the_layer_as_on_the_cpu(
    tmp_path, simulated, lr, precision
):
    """Without an update after it that spreads what is not finite to all parameters."""
    told = []
    for place, kernels in (("cpu", "numpy"), ("cuda", "auto")):
        trainer = toy_trainer(
            tmp_path / place, device=place, kernels=kernels, lr=lr, precision=precision
        )
        with pytest.raises(TrainingError) as error, np.errstate(all="ignore"):
            trainer.run()
        told.append(str(error.value))
    assert told[0] == told[1]
    assert precision == "fp16" or "in layer" in told[0]


def test_gpu__test_loss_that_is_not_finite_names_the_layer(tmp_path, simulated):
    trainer = toy_trainer(tmp_path / "run", device="cuda")

    def spoil(told):
        if isinstance(told, StepReport) and told.step == 5:
            for _, view in trainer.network.parameters:
                trainer.device.copy_from_host(view, np.full(view.shape, 1e30))

    with pytest.raises(TrainingError, match="test images is nan after step 5 .*in layer conv"):
        trainer.run(spoil)
    assert not trainer.folder.last.exists()


def test_gpu_session__lets_errors_through_that_are_not_cuda_s(simulated):
    with pytest.raises(RuntimeError, match="^ours$"), open_device("cuda").session():
        raise RuntimeError("ours")
    with (
        pytest.raises(BackendError, match=r"cuda:0 .*failed: Triton Error \[CUDA\]: launch"),
        open_device("cuda").session(),
    ):
        raise RuntimeError("Triton Error [CUDA]: launch failure")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_gpu__leaves_no_work_behind_whatever_ends_a_run(tmp_path, simulated, error):
    """Its pinned memory may be someone else's as soon as the run is gone."""
    trainer = toy_trainer(tmp_path / "run", device="cuda")

    def interrupt(told):
        if any(stream.queue for stream in simulated.streams):
            raise error

    with pytest.raises(error):
        trainer.run(interrupt)
    assert not any(stream.queue for stream in simulated.streams)


def test_gpu__without_memory_to_look_for_the_layer(tmp_path, simulated):
    trainer = toy_trainer(tmp_path / "run", device="cuda")
    _, view = next(iter(trainer.network.parameters))
    trainer.device.copy_from_host(view, np.full(view.shape, np.nan))
    simulated.memory = simulated.used
    with pytest.raises(TrainingError, match="nan at step 0 .*a layer that cuda:0 has too little"):
        trainer.run()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gpu__stopped_and_resumed_on_the_cpu_and_back(tmp_path, simulated, on_cpu, precision):
    expected, places = on_cpu(precision=precision), []
    for place in ("cuda", "cpu", "cuda", "cuda"):
        kernels = "numpy" if place == "cpu" else "auto"
        trainer = toy_trainer(
            tmp_path / "moving", device=place, kernels=kernels, precision=precision
        )
        trainer.resume()
        first = trainer.progress.step
        moved = first > 0 and places[-1] != place
        assert [n.startswith("the run was on c") for n in trainer.warnings] == [True] * moved
        places.append(place)

        def stop(told, trainer=trainer, first=first):
            trainer.stop = isinstance(told, StepReport) and told.step >= first + 2

        trainer.run(stop)
    trainer = toy_trainer(tmp_path / "moving", device="cuda", precision=precision)
    trainer.resume()
    trainer.run()
    for name, value in expected[2].items():
        np.testing.assert_array_equal(trainer.network.state_dict()[name], value, err_msg=name)


def test_gpu__killed_with_steps_under_way_goes_on_elsewhere(tmp_path, simulated, on_cpu):
    """From the last checkpoint, on another device each time, in the end with the CPU's bits."""
    settings = {"precision": "fp16", "optimizer": "adamw", "lr": 0.01}
    expected = on_cpu(**settings)
    for place, last in (("cuda", 8), ("cpu", 7), ("cuda", 13), ("cuda", None), ("cpu", None)):
        trainer = toy_trainer(
            tmp_path / "moving", device=place, kernels="numpy" if place == "cpu" else "auto",
            **settings,
        )  # fmt: skip
        trainer.resume()

        def kill(told, last=last):
            if isinstance(told, StepReport) and told.step == last:
                raise ZeroDivisionError

        with contextlib.suppress(ZeroDivisionError):
            assert trainer.run(kill).finished
    for name, value in expected[2].items():
        np.testing.assert_array_equal(trainer.network.state_dict()[name], value, err_msg=name)
    assert [json.loads(line)["step"] for line in _metrics(trainer, "step")] == [*range(1, 16)]


def _metrics(trainer, kind):
    lines = trainer.folder.metrics.read_text().splitlines()
    return [line for line in lines if json.loads(line)["kind"] == kind]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cuda:1", "--device cuda:1: there is no GPU 1; name one that is here: cuda:0, or use"),
        ("cuda:x", "--device must be cuda or cuda:N, like cuda:0, not 'cuda:x'"),
        ("cpu:0", "unknown device 'cpu:0'"),
    ],
)
def test_open_device__gpu_by_number(simulated, name, told):
    assert open_device("cuda:0").name == "cuda:0"
    with pytest.raises(InputError, match=told):
        open_device(name)


CUPY_PLAN = """
import numpy, cupy
from cnnengine.engine.gpu import CudaDevice
from cnnengine.engine.network import Description, Network
from cnnengine.engine.optim import Optimizer
from cnnengine.engine.runner import LR, STEP
from cnnengine.engine.scaling import LossScaling
from cnnengine.kernels import cuda, registry
from cnnengine.kernels.{recorder} as recorder

class Host(cuda.Gpu):  # memory of the host that CuPy takes for a GPU's
    index, name = 0, "host"
    def __init__(self): pass
    def memory(self): return 1 << 40, 1 << 40
    def fill(self, array, byte): pass
    def empty(self, shape, dtype):
        raw = numpy.zeros(numpy.prod(shape, dtype=int) * dtype.itemsize + 256, numpy.uint8)
        start = raw.ctypes.data + -raw.ctypes.data % 256
        memory = cupy.cuda.UnownedMemory(start, raw.size - 256, raw, 0)
        return cupy.ndarray(tuple(shape), dtype, cupy.cuda.MemoryPointer(memory, 0))

def refuse(*_): raise AssertionError("allocated while running")
registry.missing = lambda name: None
told = Description("vgg-small", (28, 28, 1), ("a", "b"), (0.5,), (0.5,), "bf16")
with recorder.recorded(132, 90) as launches:
    network = Network(told, CudaDevice(Host(), ("{backend}",)), infer_batch=8, train_batches=(32,))
    optimizer = Optimizer("adamw", network.parameters, weight_decay=1e-4)
    scaling = LossScaling(network.parameters)
    cupy.empty = Host.empty = refuse
    plan = network.training[32]
    plan.run()
    optimizer.launch(plan.fed[LR], plan.fed[STEP], *scaling.decide())
    network.inference.run()
print(len(launches) > len(plan.steps) + len(network.inference.steps) // 2)
"""


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
@pytest.mark.parametrize(
    ("kernels", "recorder"), [("triton", "triton import gpu"), ("cupy", "cupy import launch")]
)
def test_plan__takes_cupy_s_arrays_and_allocates_nothing(kernels, recorder):
    """On CuPy's real arrays, as views of one arena, up to the launch itself."""
    if kernels == "triton":
        pytest.importorskip("triton", reason="Triton is not installed")
    code = CUPY_PLAN.replace("{backend}", kernels).replace("{recorder}", recorder)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )  # fmt: skip
    assert done.stdout == "True\n", done.stderr


def test_open_device__a_gpu_beside_one_that_is_too_old(simulated, monkeypatch):
    monkeypatch.setitem(devices.BACKENDS, "cuda", ("triton", "cupy"))
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    monkeypatch.setattr(launch._Process, "simulated", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    simulated.count, simulated.first = 2, {**simulated_cuda.PROPERTIES, "major": 7, "minor": 5}
    old = "Simulated GPU has compute capability 7.5; take a GPU with 8.0 or newer"
    for kernels in ("triton", "cupy"):
        simulated.index = 0
        assert registry.missing(kernels) == old
        with pytest.raises(InputError, match=f"--device cuda: {old}"):
            open_device("cuda", kernels)
        assert open_device("cuda:1", kernels).name == "cuda:1"
        assert registry.missing(kernels) is None


def test_open_device__cuda_in_a_process_that_interprets(simulated, monkeypatch):
    monkeypatch.setitem(devices.BACKENDS, "cuda", ("triton", "cupy"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(InputError, match="TRITON_INTERPRET is set, which keeps Triton from"):
        open_device("cuda", "triton")
    launch.simulate()
    with pytest.raises(InputError, match="runs CUDA C.. in the simulator already"):
        open_device("cuda", "cupy")


def test_open_device__gpu_without_any_backend(simulated, monkeypatch):
    monkeypatch.setattr(registry, "missing", lambda name: f"{name} is lost; find it")
    with pytest.raises(InputError, match="--device cuda: kernels simulated: simulated is lost; fi"):
        open_device("cuda")
