"""The GPU's side of the kernel benchmark, on a simulated device and with a simulated cuDNN."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import simulated_cuda

from cnnengine.bench import (
    acceptance,
    accuracy,
    gpu,
    host_time,
    kernels,
    kernels_cuda,
    machine,
    memory,
    network,
    program,
    roofline,
    suites,
    targets,
    tune_tasks,
    work,
)
from cnnengine.bench.suites import SUITES, layer
from cnnengine.bench.verify import judge, suite
from cnnengine.cli import verify
from cnnengine.engine import device as devices
from cnnengine.engine import nvml
from cnnengine.engine.device import open_device
from cnnengine.engine.gpu import CudaDevice
from cnnengine.kernels import cuda, registry
from cnnengine.kernels.errors import BackendError

LAYER = SUITES["odd"].layers[1]
L2 = 1 << 14


class TimedEvent(simulated_cuda.Event):
    """An event that remembers how much the device had done."""

    at = 0

    def record(self, stream):
        stream.enqueue("record", lambda: setattr(self, "at", len(self.device.log)))
        super().record(stream)


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.setattr(roofline, "GPU_COPY_BYTES", 1 << 10)
    monkeypatch.setattr(roofline, "GPU_GEMM_SIZE", 8)
    monkeypatch.setitem(devices.BACKENDS, "cuda", ("simulated",))
    device = simulated_cuda.install(monkeypatch)
    module = device.module.cuda
    module.Event = lambda disable_timing=False: TimedEvent(device)
    # a millisecond for each launch of ours; torch's work on the host takes twenty
    module.get_elapsed_time = lambda a, b: float(b.at - a.at or 20)
    device.properties["l2CacheSize"] = L2
    return device


@pytest.fixture
def torch_on_host(torch, monkeypatch):
    """torch's CUDA functions, doing their work on the host at once."""
    from torch.nn import functional

    from cnnengine.bench import baselines_cuda

    def fused(x, w, b, stride, padding, dilation, groups):
        return functional.relu(functional.conv2d(x, w, b, stride, padding, dilation, groups))

    stream = SimpleNamespace(captured=0)

    class Graph:
        replay = staticmethod(lambda: None)

    @contextlib.contextmanager
    def graph(made, stream):
        stream.captured += 1
        yield

    monkeypatch.setattr(torch, "cudnn_convolution_relu", fused)
    monkeypatch.setattr(torch, "compile", lambda body, **told: body)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer, device: stream)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    ways = functools.partial(baselines_cuda.cuda_ways, place="cpu")
    product = functools.partial(baselines_cuda.product, place="cpu")
    double = functools.partial(baselines_cuda.float64, place="cpu")
    monkeypatch.setattr(baselines_cuda, "float64", double)
    monkeypatch.setattr(baselines_cuda, "cuda_ways", ways)
    monkeypatch.setattr(baselines_cuda, "product", product)
    return baselines_cuda


@pytest.mark.parametrize(
    ("moved", "free", "count"),
    [(1 << 10, 1 << 30, 2 * 16 + 1), (1 << 20, 1 << 30, 2), (1 << 20, 1 << 22, 1), (0, 0, 1)],
)
def test_sets__pass_the_cache_and_fit_the_memory(moved, free, count):
    assert gpu.sets(moved, L2, free) == count


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_measure_work__ours_alone(simulated, precision):
    made = work.make(LAYER, "forward+relu", 2, precision)
    row = kernels_cuda.measure_work(
        made, open_device("cuda"), seconds=0.01, rounds=3, against=False
    )
    assert row["failed"] == []
    assert row["ours_name"] == "simulated"
    assert row["ours"] == pytest.approx(1e-3)  # one launch a call
    assert row["baseline"] is None
    assert row["buffers"] == gpu.sets(made.bytes, L2, 1 << 30)
    assert row["launch"]["simulated"] > 0
    assert row["without_graph"] == []
    assert row["gpu"] is None
    assert row["candidates"]["simulated"]["calls"] >= 5  # of a millisecond each
    assert "replay" in simulated.log


def test_measure_work__beside_cudnn(simulated, torch_on_host):
    made = work.make(LAYER, "forward+relu+pool", 2)
    row = kernels_cuda.measure_work(made, open_device("cuda"), seconds=0.01, rounds=2, against=True)
    names = {"simulated", "cudnn eager", "cudnn conv_relu", "torch compile"}
    assert set(row["candidates"]) == set(row["errors"]) == names
    assert row["failed"] == []
    assert row["baseline_name"] in names - {"simulated"}


@pytest.mark.parametrize("name", ["dgrad", "wgrad", "avg_pool", "max_pool"])
def test_measure_work__gradients_and_pools(simulated, torch_on_host, name):
    made = work.make(LAYER, name, 2, "bf16")
    row = kernels_cuda.measure_work(made, open_device("cuda"), seconds=0.01, rounds=2, against=True)
    compiled = set() if "grad" in name else {"torch compile"}
    assert set(row["candidates"]) == {"simulated", "cudnn eager", *compiled}
    assert row["failed"] == []


@pytest.mark.skipif(registry.missing("triton") is not None, reason="Triton is not installed")
@pytest.mark.parametrize("name", ["forward+relu", "dgrad", "wgrad"])
def test_ours__images_stand_in_a_border_where_that_has_a_kernel(monkeypatch, name):
    """As the layout pass gives it to a network; beside that, images as they are."""
    monkeypatch.setattr(tune_tasks, "LEAST_WIDTH", 6)
    timer, device = SimpleNamespace(capture=None), open_device("interpreter")
    for size, names in ((6, ["triton in a border", "triton"]), (5, ["triton"])):
        made = work.make(layer(size, 16, 16), name, 2, "bf16")
        with device.session():
            rings, results, _ = kernels_cuda._ours(made, device, timer, 2)
        assert [ring.name for ring in rings] == list(results) == names
        algorithms = [ring.calls[1].algorithms for ring in rings]
        assert algorithms == [["halo"], ["implicit-gemm"]][2 - len(names) :]
        assert all(told.ok for told in work.check(made, results, kernels.float64).values())


def test_measure_work__a_wrong_result_is_not_timed(simulated, monkeypatch):
    monkeypatch.setattr(CudaDevice, "copy_from_host", lambda self, array, host: None)
    made = work.make(LAYER, "forward", 2)
    row = kernels_cuda.measure_work(
        made, open_device("cuda"), seconds=0.01, rounds=2, against=False
    )
    assert "relative RMS error nan" in row["failed"][0]
    assert "ours" not in row


def test_run__takes_the_gpus_way(simulated):
    device, ceilings = open_device("cuda"), roofline.Ceilings(1e9, {})
    rows = kernels.run(SUITES["odd"], [LAYER], ["wgrad"], device, batches=[2], seconds=0.01,
                       rounds=2, against=False, ceilings=ceilings)  # fmt: skip
    (row,) = rows
    assert row["buffers"] >= 1
    assert row["floor"] is None
    assert row["roofline"] is None


@pytest.mark.parametrize("function", ["conv2d", "conv2d_relu_pool", "concat", "sgd_update"])
def test_verify__judges_in_the_devices_memory(simulated, function):
    device = open_device("cuda")
    rows = list(suite.run(device, [function], suite.Suite("small", 4, 0, 5, 1e5, False), 3))
    assert {(row["state"], row["backend"]) for row in rows} == {("passed", "simulated")}
    assert simulated.allocations


def test_verify__names_the_gpu(simulated, capsys):
    """Who keeps a certificate must see of which GPU it is."""
    arguments = ["--device", "cuda", "--ops", "relu", "--json"]
    assert verify.command.main(arguments, standalone_mode=False) is None
    written = capsys.readouterr()
    assert json.loads(written.out)["machine"]["gpu"]["name"] == "Simulated GPU"
    assert "verify: cuda:0 (Simulated GPU), kernels simulated" in written.err


def test_verify__finds_damage_in_the_devices_memory(simulated, monkeypatch):
    function = registry.load("numpy").function("relu")
    monkeypatch.setattr(function, "unchecked", lambda x, out: out.fill(0))
    verdict = judge.judge(
        "relu", {"x": np.ones(5, np.float32), "out": judge.blank((5,), "float32")},
        registry.load("simulated"), device=open_device("cuda"),
    )  # fmt: skip
    assert verdict.told.startswith("out: 5 of 5 values differ")


@pytest.mark.parametrize("lasting", [True, False])
def test_judge__ends_where_the_gpu_does_nothing_more(simulated, monkeypatch, lasting):
    """After an illegal access every call fails: those are no verdicts on other kernels."""
    error = simulated_cuda.CUDARuntimeError("an illegal memory access was encountered")
    function = registry.load("simulated").function("relu")

    def damage(x, out):
        simulated.error = error if lasting else None
        raise error

    monkeypatch.setattr(function, "unchecked", damage)
    monkeypatch.setattr(simulated_cuda.Backend, "function", lambda self, name: function)
    given = {"x": np.ones(5, np.float32), "out": judge.blank((5,), "float32")}
    ask = functools.partial(
        judge.judge, "relu", given, registry.load("simulated"), device=open_device("cuda")
    )
    if lasting:
        with pytest.raises(BackendError, match=r"^relu left cuda:0 doing nothing more: an ill"):
            ask()
    else:
        assert ask().told == f"raised CUDARuntimeError: {error}"


def test_record__what_cannot_be_captured_is_timed_without_a_graph(simulated):
    timer = gpu.GpuTimer(cuda.Gpu(0))
    ran = []

    def refuse(run):
        raise simulated_cuda.CUDARuntimeError("not in a capture")

    ring = gpu.Ring("stubborn", [lambda: ran.append(1)], refuse)
    timings, told = timer.measure([ring], seconds=0.01, rounds=2)
    assert told["without_graph"] == ["stubborn"]
    assert timings["stubborn"].calls == gpu.CALLS
    assert len(ran) >= 2 * gpu.CALLS


def test_record__a_graph_lasts_longer_than_its_start(simulated):
    """And the GPU is busy when the clock begins: the host's part of a replay is in no figure."""
    simulated.module.cuda.get_elapsed_time = lambda a, b: 1e-2 * (b.at - a.at)  # 0.01 ms a launch
    timer = gpu.GpuTimer(cuda.Gpu(0))

    def call():
        simulated.launch("work", lambda: None)

    made = timer.record(gpu.Ring("short", [call] * 3, timer.capture))
    assert made.graph
    assert made.count == 501  # for 5 ms, in whole turns of the ring
    assert timer.seconds(made)[0] == pytest.approx(1e-5)
    last = len(simulated.log) - simulated.log[::-1].index("replay") - 1
    assert simulated.log[last + 1 : last + 1 + gpu.AHEAD] == ["fill"] * gpu.AHEAD
    assert simulated.log[last + 1 + gpu.AHEAD :] == ["work"] * 501


def test_record__a_graph_of_nothing_has_an_end(simulated):
    simulated.module.cuda.get_elapsed_time = lambda a, b: 0.0
    timer = gpu.GpuTimer(cuda.Gpu(0))
    assert timer.record(gpu.Ring("none", [lambda: None], timer.capture)).count == gpu.MOST_CALLS


def test_measure_work__gives_back_what_the_rows_before_left(simulated, torch_on_host, monkeypatch):
    made, given_back = work.make(LAYER, "dgrad", 2), []
    monkeypatch.setattr(
        torch_on_host.torch.cuda, "empty_cache", lambda: given_back.append(simulated.used)
    )
    simulated.used = simulated.pooled = simulated.memory  # CuPy keeps all of the GPU
    row = kernels_cuda.measure_work(made, open_device("cuda"), seconds=0.01, rounds=2, against=True)
    assert row["failed"] == []
    assert given_back == [0]


def test_measure_gpu__copy_and_products(simulated, torch_on_host):
    device = open_device("cuda")
    told = roofline.measure_gpu(device, ["float32"], against=False)
    assert told.copy == pytest.approx(2 * 1024 / 1e-3)
    assert told.gemm == {}
    simulated.module.cuda.get_elapsed_time = lambda a, b: 8.0
    told = roofline.measure_gpu(device, ["tf32", "bfloat16"], against=True)
    assert set(told.gemm) == {"tf32", "bfloat16"}
    assert told.gemm["tf32"] == pytest.approx(2 * 8**3 / 8e-3)


def test_network__is_held_to_float64_and_timed(simulated):
    setting = network.make_setting("lenet", 2)
    rows = network.run(setting, open_device("cuda"), network.MODES, against=False, compiled=False,
                       seconds=0.001, rounds=2, note=print)  # fmt: skip
    assert [row["failed"] for row in rows] == [[], []]
    assert rows[0]["ours"] > 0
    assert set(rows[0]["backends"]) == {"simulated"}
    assert "replay" in simulated.log


def test_network__torchs_memory_goes_back_before_the_next_mode(
    simulated, torch_on_host, monkeypatch
):
    """Ours is on the simulated GPU, torch's side on the host: what is timed stands side by side."""
    freed = []
    monkeypatch.setattr(network, "place_of", lambda device: "cpu")
    monkeypatch.setattr(torch_on_host, "release", lambda: freed.append(len(simulated.log)))
    setting = network.make_setting("lenet", 2)
    rows = network.run(setting, open_device("cuda"), network.MODES, against=True, compiled=False,
                       seconds=0.001, rounds=2, note=print)  # fmt: skip
    assert [row["failed"] for row in rows] == [[], []]
    assert all(row["baseline"] > 0 and row["ours"] > 0 for row in rows)
    assert len(freed) == len(rows)
    assert 0 < freed[0] < freed[1]


def test_network__times_what_lies_on_the_gpu(simulated):
    """torch's batch is there before the clock starts, so ours is."""
    setting, device = network.make_setting("lenet", 2), open_device("cuda")
    with device.session():
        side = network.OurSide(setting, device, network.MODES)
    step, logits = side.timed("train"), side.timed("infer")
    with device.session():
        moved = simulated.moved["host to device"]
        np.testing.assert_array_equal(logits(), side.networks["infer"].logits(setting.x))
        again = simulated.moved["host to device"] - moved
        losses = [step().tolist() for _ in range(4)]
        assert simulated.moved["host to device"] == moved + again
    assert again >= setting.x.nbytes
    assert losses == sorted(losses, reverse=True)
    assert losses[0] != losses[-1]
    assert simulated.log.count("replay") >= 3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_host_time__is_of_handing_over_alone(simulated, precision):
    """The steps go on, no result is waited for, and a batch that lies there is written once."""
    setting = network.make_setting("lenet", 2, precision)
    device = open_device("cuda")
    with device.session():
        side = network.OurSide(setting, device, ("train",))
        side.train(), side.train()
    steps, moved = side.progress.step, simulated.moved["host to device"]
    told = host_time.host_time(side)
    assert 0 < told["host_seconds"] < 1
    assert 0 <= told["host_batch_seconds"] < 1
    made = side.progress.step - steps
    assert made == device.slots * (host_time.WRITTEN + host_time.BARE)
    assert simulated.moved["host to device"] - moved >= made * setting.x.nbytes // 2
    with device.session():
        assert np.isfinite(side.train())


def test_host_time__leaves_the_batch_in_the_slots(simulated):
    sides = []
    for rounds in (host_time.WRITTEN + host_time.BARE, 0):
        device = open_device("cuda")
        with device.session():
            side = network.OurSide(network.make_setting("lenet", 2), device, ("train",))
        if rounds:
            host_time.host_time(side)
        with device.session():
            for _ in range(0 if rounds else side.device.slots * 13):
                side.train()
            sides.append(side.networks["train"].parameters.state_dict())
    assert all(np.array_equal(sides[0][name], sides[1][name]) for name in sides[0])


def test_network__tells_the_hosts_time_apart(simulated, bench_json):
    wanted = ("--device", "cuda", "--batch", "2", "--against", "none", "--repeats", "2")
    code, told, err = bench_json("network", "--arch", "lenet", *wanted)
    assert code == 0, err
    train, infer = told["rows"]
    assert train["host_seconds"] > 0
    assert (train["gpu"], infer["gpu"]) == (None, None)  # without NVML
    assert "host_seconds" not in infer


def test_bench__kernels_on_a_gpu(simulated, torch_on_host, bench_json):
    simulated.module.cuda.get_elapsed_time = lambda a, b: 4.0  # torch's work is not the device's
    arguments = ("--suite", "odd", "--layers", "2", "--passes", "wgrad", "--batch", "1")
    arguments += ("--device", "cuda", "--precision", "tf32,bf16", "--repeats", "2")
    code, told, err = bench_json("kernels", *arguments)
    assert code == 0, err
    assert told["machine"]["gpu"]["name"] == "Simulated GPU"
    assert [row["precision"] for row in told["rows"]] == ["tf32", "bf16"]
    assert set(told["ceilings"]["gemm"]) == {"tf32", "bfloat16"}
    assert told["settings"]["device"] == "cuda:0"


def test_bench__on_a_gpu_that_torch_cannot_use(simulated, torch, bench_json, monkeypatch, tmp_path):
    """As where torch is the one for CPUs: our figures alone, and why."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ("--suite", "odd", "--layers", "2", "--passes", "wgrad", "--batch", "1")
    code, told, err = bench_json("kernels", *arguments, "--device", "cuda", "--repeats", "2")
    assert code == 0, err
    assert "\nSimulated GPU; " in f"\n{err}"
    why = f"torch {torch.__version__} cannot use this GPU; install torch made for CUDA"
    assert f"no comparison: {why}" in err
    assert [row["baseline_missing"] for row in told["rows"]] == [why]
    assert not acceptance.Acceptance(open_device("cuda"), tmp_path, 1.0).against


@pytest.mark.parametrize("package", ["cupy-cuda12x", "cupy-cuda13x", "cupy", None])
def test_versions__of_cupy_whatever_its_package_is_called(monkeypatch, package):
    def version(name):
        if name != package:
            raise machine.importlib.metadata.PackageNotFoundError(name)
        return "14.2.0"

    monkeypatch.setattr(machine.importlib.metadata, "version", version)
    assert machine.versions()["cupy"] == (package and "14.2.0")


def test_acceptance__on_a_gpu(simulated, tmp_path, monkeypatch):
    short = suites.Suite("odd", 1, (LAYER,))
    monkeypatch.setitem(suites.SUITES, "odd", short)
    monkeypatch.setattr(suite, "pick_functions", lambda wanted: ("relu",))
    monkeypatch.setattr(accuracy, "STEPS", 2)
    plan = program.Program(
        ("odd",),
        ("wgrad",),
        (1,),
        ("bf16",),
        (("lenet", 2, "bf16"),),
        ("lenet", 2),
        (accuracy.MINI,),
    )
    said = []
    made = acceptance.Acceptance(open_device("cuda"), tmp_path, 5.0, plan, said.append)
    made.seconds, made.against, made.prepares = 0.001, False, False
    made.settings = {"arch": "lenet", "epochs": 1, "images": 40, "batch_size": 16, "shift": 0}
    assert made.run() == 0
    table = (tmp_path / "table.txt").read_text()
    assert "verify: 5 passed, 0 failed\n" in table
    assert re.search(r"lenet/train/batch 2/bf16: train \d+ images/s, host \d+ µs a step\n", table)
    assert table.count("\ntarget ") == len(targets.TARGETS)
    assert "\ntarget not measured: vgg-small training step, batch 256, bf16, over torch" in table
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    documents = [json.loads(line) for line in lines]
    assert [told["kind"] for told in documents] == ["kernels", "network", "accuracy", "targets"]
    assert {row["state"] for row in documents[-1]["rows"]} == {"not measured"}
    assert documents[2]["rows"][0]["device"] == "cuda:0"
    assert "after 1 epochs, the CPU not known\n" in table
    page = (tmp_path / "report.html").read_text()
    assert page.count("not measured: ") == len(targets.TARGETS)
    assert ">host µs<" in page
    assert "training lenet: 2 losses within" in table
    told = made.log.lines[0]["told"]
    assert (told["device"], told["gpu"]) == ("cuda:0", "Simulated GPU")
    assert "Simulated GPU, compute capability 9.0" in (tmp_path / "report.html").read_text()
    assert made.log.told("kernels")["odd/31x31x13 → 17, 3x3/wgrad/batch 1/bf16"]["buffers"] >= 1


@pytest.mark.parametrize(
    ("place", "name", "what"),
    [(kernels, "measure_row", "odd/.*/forward/batch 1/bf16"), (suite, "run", "relu")],
)
def test_acceptance__goes_on_behind_what_lost_the_gpu(
    simulated, tmp_path, monkeypatch, place, name, what
):
    short = suites.Suite("odd", 1, (LAYER,))
    monkeypatch.setitem(suites.SUITES, "odd", short)
    monkeypatch.setattr(suite, "pick_functions", lambda wanted: ("relu", "add"))
    plan = program.Program(("odd",), ("forward", "wgrad"), (1,), ("bf16",), (), ("lenet", 2))
    lost = simulated_cuda.CUDARuntimeError("an illegal memory access was encountered")

    def run():
        made = acceptance.Acceptance(open_device("cuda"), tmp_path, 5.0, plan, lambda line: None)
        made.seconds, made.against, made.prepares = 0.001, False, False
        monkeypatch.setattr(made, "training", lambda: None)
        return made.run()

    def lose(*_, **__):
        simulated.error = lost
        raise lost

    with monkeypatch.context() as patch:
        patch.setattr(place, name, lose)
        told = f"^{what}: cuda:0 does nothing more: raised CUDARuntimeError: an illegal .*"
        with pytest.raises(BackendError, match=told + "; the same command goes on behind that$"):
            run()
    assert "WRONG" in (tmp_path / "table.txt").read_text()
    simulated.error = None
    assert run() == 1  # what failed stays wrong
    first, last = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert last["kind"] == "targets"
    rows = first["rows"]
    assert {row["pass"]: row["failed"] == [] for row in rows} == {
        "forward": place is suite, "wgrad": True
    }  # fmt: skip
    table = (tmp_path / "table.txt").read_text()
    failed = 1 if place is suite else 0
    assert table.startswith(f"verify: {10 - 5 * failed} passed, {failed} failed")
    assert "functions not reached" not in table


def test_bench__memory_of_a_gpu_is_asked_for_by_its_name(simulated, bench, monkeypatch):
    asked = []

    def measured(*told):
        asked.append(told)
        return {"peak_bytes": 3 << 20, "growth_bytes": 2 << 20}

    monkeypatch.setattr(memory, "measure_memory", measured)
    wanted = ("--device", "cuda", "--mode", "infer", "--batch", "2", "--against", "none")
    code, _, err = bench("network", "--arch", "lenet", *wanted, "--repeats", "2", "--memory")
    assert code == 0, err
    assert [(told[:4], told[5:]) for told in asked] == [
        (("cnnengine", "lenet", 2, "infer"), ("fp32", "cuda:0"))
    ]
    assert "peak memory on cuda:0 of a fresh process" in err
    assert "infer, cnnengine: peak 3 MiB, growth 2 MiB" in err


def test_memory__of_a_gpu_is_what_was_taken_on_it(simulated, monkeypatch, capsys):
    monkeypatch.setattr(memory.machine, "set_threads", lambda *_, **__: 1)
    reserved = []
    reserve = CudaDevice.reserve
    monkeypatch.setattr(
        CudaDevice, "reserve", lambda self, size: reserved.append(size) or reserve(self, size)
    )
    simulated.used = 1 << 20  # by other processes
    memory._main("cnnengine", "lenet", 2, "train", 1, "fp32", "cuda:0")
    told = json.loads(capsys.readouterr().out)
    tiny, size = reserved
    assert told["peak_bytes"] == simulated.used - (1 << 20)
    assert tiny < size <= told["growth_bytes"] < told["peak_bytes"] - tiny + 1


def test_describe_gpu__names_it(simulated):
    told = machine.describe_gpu(open_device("cuda"))
    assert (told["name"], told["capability"]) == ("Simulated GPU", "9.0")
    assert told["l2_cache"] == L2
    assert told["driver_cuda"] == 12080


@pytest.mark.parametrize(
    ("precision", "word"),
    [("fp32", "ieee"), ("tf32x3", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")],
)
def test_same_terms__both_of_torchs_settings_agree(torch, precision, word):
    """torch 2.13 raises where `allow_tf32` is read and disagrees with `fp32_precision`."""
    from cnnengine.bench.torch_terms import same_terms, terms

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def old():
        return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = old()
    with same_terms(precision):
        assert old() == (word == "tf32", word == "tf32", True)
        if hasattr(cudnn, "fp32_precision"):
            new = (matmul, cudnn, cudnn.conv)
            assert [place.fp32_precision for place in new] == [word] * 3
    assert old() == before
    told = terms(precision)
    assert (told["matmul"], told["conv"], told["cudnn_benchmark"]) == (word, word, True)
    assert {"bf16_reduced_sums", "fp16_reduced_sums"} <= set(told)


def test_cuda_ways__what_fails_is_told(torch_on_host, monkeypatch, torch):
    def broken(*_):
        raise RuntimeError("no engine\nlong story")

    monkeypatch.setattr(torch, "cudnn_convolution_relu", broken)
    ways, told = torch_on_host.cuda_ways(work.make(LAYER, "forward+relu", 1), 2)
    assert [way.name for way in ways] == ["cudnn eager", "torch compile"]
    assert [len(way.calls) for way in ways] == [2, 2]
    assert told == ["cudnn conv_relu: RuntimeError: no engine"]


class FakeGraph:
    """cuDNN's graph of a convolution, as its Python frontend builds one."""

    def __init__(self, **types):
        self.types = types
        self.steps = []

    def tensor_like(self, tensor):
        return SimpleNamespace(set_output=lambda on: None, like=tensor)

    def conv_fprop(self, **told):
        self.steps.append(told)
        return self.tensor_like(None)

    def bias(self, **told):
        return self.tensor_like(None)

    def relu(self, **told):
        self.steps.append("relu")
        return self.tensor_like(None)

    def build(self, modes):
        self.modes = modes

    def get_workspace_size(self):
        return 16

    def execute(self, tensors, workspace):
        from torch.nn import functional

        x, w, b, y = tensors.values()
        told = self.steps[0]
        assert told["pre_padding"] == told["post_padding"]
        out = functional.conv2d(x, w, b.reshape(-1), told["stride"], told["pre_padding"])
        y.copy_(functional.relu(out) if "relu" in self.steps else out)


class Hashable(SimpleNamespace):
    """Tensors of a graph are the keys of what it executes."""

    __hash__ = object.__hash__


def test_cuda_ways__cudnns_frontend(torch_on_host, monkeypatch):
    monkeypatch.setattr(FakeGraph, "tensor_like", lambda self, t: Hashable(set_output=bool))
    modes = SimpleNamespace(A=1, FALLBACK=2)
    types = SimpleNamespace(FLOAT="f", HALF="h", BFLOAT16="b")
    fake = SimpleNamespace(pygraph=FakeGraph, heur_mode=modes, data_type=types)
    monkeypatch.setitem(sys.modules, "cudnn", fake)
    for name in ("forward", "forward+relu", "forward+relu+pool"):
        made = work.make(LAYER, name, 2)
        ways, told = torch_on_host.cuda_ways(made, 1, compiled=False)
        assert told == []
        (way,) = (way for way in ways if way.name == "cudnn frontend")
        checks = work.check(made, {"it": way.host(way.calls[0]())}, kernels.float64)
        assert checks["it"].ok
    edge = work.make(layer(8, 4, 4, mode="edge"), "forward", 1)
    names = [way.name for way in torch_on_host.cuda_ways(edge, 1, compiled=False)[0]]
    assert names == ["cudnn eager"]


def test_cuda_ways__edges_are_padded_beforehand(torch_on_host):
    made = work.make(SUITES["edge"].layers[4], "forward+relu", 1)
    ways, _ = torch_on_host.cuda_ways(made, 1, compiled=False)
    results = {way.name: way.host(way.calls[0]()) for way in ways}
    assert set(results) == {"cudnn eager", "cudnn conv_relu"}
    assert all(told.ok for told in work.check(made, results, kernels.float64).values())


class NVMLError(Exception):
    """What NVML raises."""


BUS = "0000:3B:00.0"


def fake_nvml():
    """NVML with one GPU that does not tell its temperature."""
    energy = iter((1000, 1500))

    def refuse(*_):
        raise NVMLError

    return SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda bus: bus if bus == BUS else refuse(),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(energy),
        nvmlDeviceGetClockInfo=lambda handle, which: 1000 + which,
        nvmlDeviceGetTemperature=refuse,
        nvmlDeviceGetPowerUsage=lambda handle: 250_000,
    )  # fmt: skip


def test_watch__tells_what_nvml_tells(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    told = nvml.Watch(BUS).told()
    assert told == {"sm_mhz": 1001, "memory_mhz": 1002, "watts": 250.0, "joules": 0.5}


def test_watch__of_a_gpu_that_counts_no_energy(monkeypatch):
    library = fake_nvml()
    library.nvmlDeviceGetTotalEnergyConsumption = library.nvmlDeviceGetTemperature
    monkeypatch.setitem(sys.modules, "pynvml", library)
    watch = nvml.Watch(BUS)
    assert watch.joules() is None
    assert watch.told() == {"sm_mhz": 1001, "memory_mhz": 1002, "watts": 250.0}


def test_watch__of_a_hidden_gpu_tells_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    assert nvml.Watch("0000:5E:00.0").told() is None


def test_watch__without_nvml_tells_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.Watch(BUS).told() is None

    def refuse():
        raise NVMLError

    broken = SimpleNamespace(NVMLError=NVMLError, nvmlInit=refuse)
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    assert nvml.Watch(BUS).told() is None
