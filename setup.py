"""Builds the C kernels of `kernels/native`; all other metadata stands in pyproject.toml.

Each instruction set is one shared library made from one file that includes the whole source.
They are optional: where no C compiler is found the package installs without them, and
`kernels/native` says so when it is asked for.
"""

import platform
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup

FLAGS = ["-std=c11", "-O3", "-ffp-contract=fast", "-fvisibility=default", "-Wall", "-Wextra"]
DIGEST = runpy.run_path("kernels/native/sources.py")["digest"]()
X86 = {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mfma"]}


def variants() -> dict[str, list[str]]:
    """The compiler flags of each variant that this machine's kind of processor can have."""
    if sys.platform == "win32":
        return {}
    return {"generic": []} | (X86 if platform.machine() in ("x86_64", "AMD64") else {})


setup(
    ext_modules=[
        Extension(
            f"cnnengine.kernels.native._{variant}",
            sources=[f"kernels/native/{variant}.c"],
            depends=sorted(str(f) for f in Path("kernels/native").glob("*.[ch]")),
            define_macros=[("SOURCES", f'"{DIGEST}"')],
            extra_compile_args=FLAGS + flags,
            optional=True,
        )
        for variant, flags in variants().items()
    ]
)
