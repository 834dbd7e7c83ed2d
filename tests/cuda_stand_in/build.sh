#!/bin/sh
# build.sh CUPY_SOURCE OUT: build the stand-in and an overlay of cupy_backends into OUT.
# Needs: CuPy's unpacked source (the version that is installed), Cython 3.2, g++, Python's headers,
# and the packages cupy-cuda12x, nvidia-cuda-runtime-cu12 and triton (whose headers complete CUDA's).
set -e
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$1" && pwd)
mkdir -p "$2/lib" "$2/site" "$2/shim"
out=$(cd "$2" && pwd)
packages=$(python -c 'import cupy_backends, os; print(os.path.dirname(list(cupy_backends.__path__)[0]))')
include="-I$out/shim -I$packages/nvidia/cuda_runtime/include -I$packages/triton/backends/nvidia/include"
python_h=$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')
suffix=$(python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')

cc -O1 -fPIC -c -o "$out/unsupported.o" "$here/unsupported.c"
c++ -std=c++20 -O1 -g -fPIC -shared $include -o "$out/lib/libcuda.so.1" "$here"/*.cpp "$out/unsupported.o"

cat > "$out/shim/cuda_profiler_api.h" <<END
#pragma once
#include <cuda_runtime_api.h>
extern "C" cudaError_t cudaProfilerStart(void);
extern "C" cudaError_t cudaProfilerStop(void);
END
cd "$source"
python - "$out/runtime.cpp" <<END
import sys
from Cython.Compiler.Main import CompilationOptions, compile
known = dict(CUPY_USE_CUDA_PYTHON=False, CUPY_CUFFT_STATIC=False, CUPY_CUDA_VERSION=12090,
             CUPY_HIP_VERSION=0, CUPY_CYTHON_VERSION="3.2")
directives = dict(language_level=3, embedsignature=True, c_api_binop_methods=True, binding=False,
                  freethreading_compatible=True)
made = compile("cupy_backends/cuda/api/runtime.pyx", CompilationOptions(
    compile_time_env=known, cplus=True, include_path=["."], language_level=3,
    compiler_directives=directives, output_file=sys.argv[1]))
sys.exit(made.num_errors)
END
cp -r "$packages/cupy_backends" "$out/site/"
c++ -O1 -fPIC -w -shared "-I$python_h" $include -Icupy_backends/cuda/api \
    -o "$out/site/cupy_backends/cuda/api/runtime$suffix" "$out/runtime.cpp" \
    -L"$out/lib" -l:libcuda.so.1
