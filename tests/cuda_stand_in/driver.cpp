// The CUDA driver's functions that CuPy and Triton's launcher call.
#include <cstring>

#include "machine.h"

static int main_context;  // its address is the handle of the only context
static thread_local void* context = &main_context;

extern "C" {

CUresult cuInit(unsigned) {
    CALL;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** out) {
    *out = cudaGetErrorName((cudaError_t)error);
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** out) {
    *out = cudaGetErrorString((cudaError_t)error);
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
    CALL_ALWAYS;
    *version = machine().driver;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
    CALL;
    *count = machine().devices;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* out, int ordinal) {
    CALL;
    *out = ordinal;
    return ordinal < machine().devices ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetAttribute(int* out, CUdevice_attribute attribute, CUdevice) {
    CALL;
    static const std::map<int, int> VALUES = {
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, USUAL_SHARED},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, MOST_SHARED},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 228 << 10},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, REGISTERS},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
        {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 2619000},
        {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 50 << 20},
    };
    auto found = VALUES.find(attribute);
    if (found == VALUES.end()) return CUDA_ERROR_INVALID_VALUE;
    *out = found->second;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int size, CUdevice) {
    CALL;
    snprintf(name, size, "Stand-in for an H100");
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice) {
    CALL;
    *bytes = machine().total;
    return CUDA_SUCCESS;
}

// --- contexts

CUresult cuCtxGetCurrent(CUcontext* out) {
    CALL;
    *out = (CUcontext)context;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext given) {
    CALL;
    context = given;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* out) {
    CALL;
    *out = 0;
    return context ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice) {
    CALL;
    *out = (CUcontext)&main_context;
    return CUDA_SUCCESS;
}

// --- modules and functions

CUresult cuModuleLoadData(CUmodule* out, const void* image) {
    CALL;
    if (int status = machine().forbidden()) return (CUresult)status;
    auto* made = new Module;
    if (int status = read_cubin(image, *made)) return (CUresult)status;
    *out = (CUmodule)made;
    return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule) {  // kept: graphs may still know its functions
    CALL;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
    CALL;
    auto found = ((Module*)module)->functions.find(name);
    if (found == ((Module*)module)->functions.end()) return CUDA_ERROR_NOT_FOUND;
    *out = (CUfunction)&found->second;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* out, CUfunction_attribute attribute, CUfunction function) {
    CALL;
    auto* f = (Function*)function;
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *out = f->most_threads; break;
        case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *out = f->shared; break;
        case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: *out = 0; break;
        case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *out = 0; break;
        case CU_FUNC_ATTRIBUTE_NUM_REGS: *out = f->registers; break;
        case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *out = 90; break;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *out = f->dynamic; break;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    CALL;
    auto* f = (Function*)function;
    if (attribute == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED) return CUDA_SUCCESS;
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 ||
        value > MOST_SHARED - f->shared)
        return CUDA_ERROR_INVALID_VALUE;
    f->dynamic = value;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) {
    CALL;
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveClusters(int* out, CUfunction, const CUlaunchConfig* config) {
    CALL;
    *out = 132 / (int)config->attrs[0].value.clusterDim.x;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                        unsigned by, unsigned bz, unsigned shared, CUstream handle, void** values,
                        void** extra) {
    CALL;
    Stream* stream = machine().stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (extra) return CUDA_ERROR_NOT_SUPPORTED;
    unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    return Status{machine().launch((Function*)f, grid, block, shared, stream, values)};
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction f, void** values, void** extra) {
    return cuLaunchKernel(f, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY,
                          c->blockDimZ, c->sharedMemBytes, c->hStream, values, extra);
}

// --- addresses

CUresult cuPointerGetAttribute(void* out, CUpointer_attribute attribute, CUdeviceptr address) {
    CALL;
    Memory* found = machine().find((void*)address, 1);
    if (!found || found->freed || attribute != CU_POINTER_ATTRIBUTE_DEVICE_POINTER)
        return CUDA_ERROR_INVALID_VALUE;
    *(CUdeviceptr*)out = address;
    return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank,
                                void* address, const cuuint64_t* extents,
                                const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill) {
    CALL;
    const int SIZES[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};  // by CUtensorMapDataType
    const unsigned WIDEST[] = {0, 32, 64, 128};                   // bytes, by CUtensorMapSwizzle
    bool fine = (uintptr_t)out % 64 == 0 && (unsigned)type < 13 && rank >= 1 && rank <= 5 &&
                (uintptr_t)address % 16 == 0 && !interleave && (unsigned)swizzle < 4;
    if (!fine) return CUDA_ERROR_INVALID_VALUE;
    cuuint64_t bytes = extents[0] * SIZES[type];
    for (unsigned i = 0; i < rank; i++) {
        fine = fine && extents[i] >= 1 && extents[i] <= 1ULL << 32 && box[i] >= 1 && box[i] <= 256 &&
               steps[i] >= 1 && steps[i] <= 8;
        if (i == 0) continue;
        fine = fine && strides[i - 1] % 16 == 0 && strides[i - 1] < 1ULL << 40;
        bytes += (extents[i] - 1) * strides[i - 1];
    }
    unsigned inner = box[0] * SIZES[type];
    fine = fine && inner % 16 == 0 && (!swizzle || inner <= WIDEST[swizzle]);
    if (!fine) return CUDA_ERROR_INVALID_VALUE;
    Memory* found = machine().find(address, bytes);
    if (!found || found->freed) machine().complain("a tensor map reaches outside its memory");
    memset(out, 0, sizeof *out);
    memcpy(out, &address, sizeof address);
    return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* out) {
    return (CUresult)cudaStreamIsCapturing(handle, (cudaStreamCaptureStatus*)out);
}

// --- for tests: kernels that run on the host, and what a kernel takes

void stand_in_runner(Runner run) { machine().runner = run; }

void stand_in_host(const char* kernel, void* thread) { machine().hosted[kernel] = thread; }

int stand_in_parameters(CUfunction function, int* sizes) {
    for (auto& [position, parameter] : ((Function*)function)->parameters)
        sizes[position] = parameter.size;
    return (int)((Function*)function)->parameters.size();
}

}  // extern "C"
