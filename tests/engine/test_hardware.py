"""What is told of the machine, from faked sources."""

import ctypes

import pytest

from cnnengine.engine import hardware

AVX2 = "avx avx2 fma sse2"
AVX512 = f"{AVX2} avx512f avx512bw avx512dq avx512vl avx512cd"


def test_processor__reads_model_and_flags(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu {AVX512}\n")
    found = hardware.processor(file)
    assert found.model == "A CPU: fast"
    assert found.level == "AVX-512"
    assert found.flags == ("avx", "fma", "avx2", "avx512f")
    assert 1 <= found.usable <= found.cores


def test_processor__without_cpuinfo(tmp_path):
    found = hardware.processor(tmp_path / "none")
    assert found.level == ""
    assert found.flags == ()


@pytest.mark.parametrize(
    ("flags", "level"),
    [(AVX512, "AVX-512"), (AVX2, "AVX2"), ("avx avx2", "AVX"), ("avx512f fma avx2", "AVX2"),
     ("sse2", "SSE"), ("asimd", "NEON"), ("", "")],
)  # fmt: skip
def test_vector_level__needs_every_flag(flags, level):
    assert hardware.vector_level(frozenset(flags.split())) == level


@pytest.mark.parametrize(
    ("core", "level", "forced", "told"),
    [
        ("SkylakeX", "AVX-512", None, ""),
        ("SapphireRapids", "AVX-512", None, ""),
        ("Haswell", "AVX2", None, ""),
        ("Zen", "AVX2", None, ""),
        ("unheard-of", "AVX-512", None, ""),
        ("Haswell", "AVX-512", None, "set OPENBLAS_CORETYPE"),
        ("Haswell", "AVX-512", "Haswell", "OPENBLAS_CORETYPE=Haswell is set: unset it"),
        ("Prescott", "AVX2", None, "use SSE, this CPU has AVX2"),
    ],
)
def test_core_warning__only_below_what_the_cpu_offers(core, level, forced, told):
    warning = hardware.core_warning(core, level, forced)
    assert told in warning
    assert bool(warning) == bool(told)


def test_blas_libraries__finds_that_of_numpy():
    found = hardware.blas_libraries(hardware.processor())
    assert found
    assert all(blas.threads >= 1 for blas in found)


def test_installed_like__whole_names_only():
    told = hardware.installed_like("numpy")
    assert told is not None
    assert told.startswith("numpy ")
    assert hardware.installed_like("nump") is None


class FakeLibrary:
    """A libcuda and libnvidia-ml with one GPU."""

    def __init__(self, name):
        if name not in ("libcuda.so.1", "libnvidia-ml.so.1"):
            raise OSError(name)

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = 12080

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = 1

    def cuDeviceGet(self, device, index):  # noqa: N802
        device._obj.value = 40 + index

    def cuDeviceGetName(self, buffer, size, device):  # noqa: N802
        assert device.value == 40
        buffer.value = b"A GPU"

    def cuDeviceTotalMem_v2(self, memory, device):  # noqa: N802
        memory._obj.value = 80 * 2**30

    def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        value._obj.value = {75: 9, 76: 0}[attribute]

    def nvmlInit_v2(self):  # noqa: N802
        return 0

    def nvmlSystemGetDriverVersion(self, buffer, size):  # noqa: N802
        buffer.value = b"570.86.15"
        return 0

    def nvmlShutdown(self):  # noqa: N802
        return 0


def test_nvidia_driver__tells_version_cuda_and_gpus(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", FakeLibrary)
    gpu = hardware.Gpu("A GPU", 80 * 2**30, (9, 0))
    assert hardware.nvidia_driver() == hardware.Driver("570.86.15", (12, 8), (gpu,))


@pytest.mark.parametrize("name", ["nvmlInit_v2", "nvmlSystemGetDriverVersion", "CDLL"])
def test_nvidia_driver__without_nvml_has_no_version(monkeypatch, name):
    def load(library):
        if name == "CDLL" and library != "libcuda.so.1":
            raise OSError(library)
        return FakeLibrary(library)

    monkeypatch.setattr(ctypes, "CDLL", load)
    if name != "CDLL":
        monkeypatch.setattr(FakeLibrary, name, lambda *_: 9)
    found = hardware.nvidia_driver()
    assert (found.version, found.cuda) == ("unknown", (12, 8))


def test_nvidia_driver__driver_without_a_gpu(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", FakeLibrary)
    monkeypatch.setattr(FakeLibrary, "cuInit", lambda self, flags: 100)
    assert "finds no GPU" in str(hardware.nvidia_driver())


def test_nvidia_driver__none(monkeypatch):
    def nothing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", nothing)
    assert hardware.nvidia_driver() == "no NVIDIA driver (libcuda.so.1 cannot be loaded)"


def test_devices__say_why_a_gpu_cannot_be_used(monkeypatch):
    monkeypatch.setattr(hardware.cuda, "missing", lambda index: "no GPU today; wait")
    assert hardware.devices() == [("cpu", None), ("cuda", "no GPU today; wait")]
    monkeypatch.setattr(hardware.cuda, "missing", lambda index: None)
    assert hardware.devices()[1] == ("cuda", None)
