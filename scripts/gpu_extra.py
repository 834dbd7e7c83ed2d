"""Print the extra that fits this machine's GPU driver: `[cuda12]`, `[cuda13]`, or nothing.

Run by the Makefile before anything is installed, so it uses the standard library alone.
"""

import ctypes


def gpu_extra() -> str:
    """The extra, from the CUDA version that the driver supports; "" without a driver or a GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    version, devices = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(devices)) or not devices.value:
        return ""
    cuda.cuDriverGetVersion(ctypes.byref(version))
    major = version.value // 1000
    return "[cuda13]" if major >= 13 else "[cuda12]" if major == 12 else ""


if __name__ == "__main__":
    print(gpu_extra())
