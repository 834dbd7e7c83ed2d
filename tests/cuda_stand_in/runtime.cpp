// The CUDA runtime's functions that CuPy calls.
#include <chrono>
#include <cstring>

#include "machine.h"

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Error {
    int value;
    const char *name, *text;
};
static const Error ERRORS[] = {
    {0, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
};

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
    for (const Error& e : ERRORS)
        if (e.value == (int)error) return e.name;
    return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
    for (const Error& e : ERRORS)
        if (e.value == (int)error) return e.text;
    return "unrecognized error code";
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaDriverGetVersion(int* version) {
    CALL_ALWAYS;
    *version = machine().driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    CALL_ALWAYS;
    *version = CUDART_VERSION;
    return cudaSuccess;
}

// --- devices

static thread_local int current = 0;

static int known(int device) {
    return device >= 0 && device < machine().devices ? 0 : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceCount(int* count) {
    CALL;
    *count = machine().devices;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    CALL;
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    CALL;
    if (known(device)) return cudaErrorInvalidDevice;
    current = device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    CALL;
    if (known(device)) return cudaErrorInvalidDevice;
    return (cudaError_t)cuDeviceGetAttribute(value, (CUdevice_attribute)attribute, device);
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
    CALL;
    if (known(device)) return cudaErrorInvalidDevice;
    snprintf(text, size, "0000:%02X:00.0", 0x3B + device);
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp* told, int device) {
    CALL;
    if (known(device)) return cudaErrorInvalidDevice;
    memset(told, 0, sizeof *told);
    strcpy(told->name, "Stand-in for an H100");
    told->totalGlobalMem = machine().total;
    told->sharedMemPerBlock = USUAL_SHARED;
    told->sharedMemPerBlockOptin = MOST_SHARED;
    told->sharedMemPerMultiprocessor = 228 << 10;
    told->reservedSharedMemPerBlock = 1024;
    told->regsPerBlock = told->regsPerMultiprocessor = REGISTERS;
    told->warpSize = 32;
    told->maxThreadsPerBlock = 1024;
    told->maxThreadsPerMultiProcessor = 2048;
    told->major = 9;
    told->multiProcessorCount = 132;
    told->clockRate = 1980000;
    told->memoryClockRate = 2619000;
    told->memoryBusWidth = 5120;
    told->l2CacheSize = 50 << 20;
    told->unifiedAddressing = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
    CALL;
    Machine& m = machine();
    if (int status = m.forbidden()) return (cudaError_t)status;
    return Status{m.finish([&] {
        for (Stream* s : m.streams)
            if (!s->queue.empty()) return false;
        return true;
    })};
}

// --- memory

cudaError_t cudaMalloc(void** out, size_t size) {
    CALL;
    if (int status = machine().forbidden()) return (cudaError_t)status;
    return Status{machine().allocate(out, size, true)};
}

cudaError_t cudaHostAlloc(void** out, size_t size, unsigned) {
    CALL;
    if (int status = machine().forbidden()) return (cudaError_t)status;
    return Status{machine().allocate(out, size, false)};
}

cudaError_t cudaFree(void* address) {
    CALL;
    if (int status = machine().forbidden()) return (cudaError_t)status;
    return Status{machine().release(address, true)};
}

cudaError_t cudaFreeHost(void* address) {
    CALL;
    if (int status = machine().forbidden()) return (cudaError_t)status;
    return Status{machine().release(address, false)};
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    CALL;
    *free = machine().total - machine().used;
    *total = machine().total;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* told, const void* address) {
    CALL;
    Memory* found = machine().find(address, 1);
    memset(told, 0, sizeof *told);
    if (!found || found->freed) return cudaSuccess;  // memory that CUDA does not know
    told->type = found->device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    told->devicePointer = (void*)address;
    told->hostPointer = found->device ? nullptr : (void*)address;
    return cudaSuccess;
}

// A copy or a fill: what lies where, checked when it is asked for and again when it is done.
static int side(const void* address, size_t size, bool device) {
    Machine& m = machine();
    Memory *whole = m.find(address, size), *begin = m.find(address, 1);
    if (begin && (!whole || whole->freed)) return cudaErrorInvalidValue;
    return device == (whole && whole->device) ? 0 : cudaErrorInvalidValue;
}

static int move(void* out, const void* source, size_t size, int kind, Stream* stream, bool wait) {
    Machine& m = machine();
    bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
    auto check = [=] { return side(out, size, to_device) | side(source, size, from_device); };
    if (kind < cudaMemcpyHostToDevice || kind > cudaMemcpyDeviceToDevice)
        return cudaErrorInvalidValue;
    if (int status = check()) return status;
    bool pageable = !m.find(out, 1) || !m.find(source, 1);
    if (stream->capturing && (pageable || wait)) {
        stream->broken = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    int status = m.put(stream, {[=, &m] {
                                    if (check()) {
                                        m.complain("a copy found its memory freed");
                                        return (int)cudaErrorIllegalAddress;
                                    }
                                    memcpy(m.place(out), m.place(source), size);
                                    return 0;
                                },
                                nullptr});
    if (status || !(pageable || wait)) return status;
    return m.finish([=] { return stream->queue.empty(); });  // staged: done when it returns
}

cudaError_t cudaMemcpy(void* out, const void* source, size_t size, cudaMemcpyKind kind) {
    CALL;
    if (int status = machine().forbidden()) return (cudaError_t)status;
    return Status{move(out, source, size, kind, machine().streams[0], true)};
}

cudaError_t cudaMemcpyAsync(void* out, const void* source, size_t size, cudaMemcpyKind kind,
                            cudaStream_t handle) {
    CALL;
    Stream* stream = machine().stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    return Status{move(out, source, size, kind, stream, false)};
}

cudaError_t cudaMemsetAsync(void* out, int byte, size_t size, cudaStream_t handle) {
    CALL;
    Machine& m = machine();
    Stream* stream = m.stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (int status = side(out, size, true)) return (cudaError_t)status;
    return Status{m.put(stream, {[=, &m] {
                                     if (side(out, size, true)) return (int)cudaErrorIllegalAddress;
                                     memset(m.place(out), byte, size);
                                     return 0;
                                 },
                                 nullptr})};
}

cudaError_t cudaMemset(void* out, int byte, size_t size) {
    CALL;
    if (int status = machine().forbidden()) return (cudaError_t)status;
    return cudaMemsetAsync(out, byte, size, nullptr);
}

// --- streams

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags, int) {
    CALL;
    Stream* made = new Stream{!(flags & cudaStreamNonBlocking)};
    machine().streams.push_back(made);
    *out = (cudaStream_t)made;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
    return cudaStreamCreateWithPriority(out, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* out) { return cudaStreamCreateWithPriority(out, 0, 0); }

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    CALL;
    Machine& m = machine();
    Stream* stream = m.stream(handle);
    if (!stream || stream == m.streams[0]) return cudaErrorInvalidResourceHandle;
    m.finish([=] { return stream->queue.empty(); });  // on a device, later
    std::erase(m.streams, stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
    CALL;
    Stream* stream = machine().stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    *flags = stream->blocking ? cudaStreamDefault : cudaStreamNonBlocking;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    CALL;
    Machine& m = machine();
    Stream* stream = m.stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (int status = m.forbidden()) return (cudaError_t)status;
    return Status{m.finish([=] { return stream->queue.empty(); })};
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    CALL;
    Machine& m = machine();
    Stream* stream = m.stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (int status = m.forbidden()) return (cudaError_t)status;
    return stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t mark, unsigned) {
    CALL;
    Machine& m = machine();
    Stream* stream = m.stream(handle);
    auto event = m.event(mark);
    if (!stream || !event) return cudaErrorInvalidResourceHandle;
    if (stream->capturing != event->captured && event->recorded)
        return cudaErrorStreamCaptureIsolation;
    return Status{m.put(stream, {nullptr, event, event->recorded})};
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    CALL;
    Machine& m = machine();
    Stream* stream = m.stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (stream == m.streams[0]) return cudaErrorStreamCaptureUnsupported;
    if (stream->capturing) return cudaErrorIllegalState;
    stream->capturing = true;
    stream->broken = false;
    stream->mode = mode;
    stream->owner = std::this_thread::get_id();
    stream->captured.clear();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* out) {
    CALL;
    Stream* stream = machine().stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (!stream->capturing) return cudaErrorIllegalState;
    stream->capturing = false;
    *out = nullptr;
    if (stream->broken) return cudaErrorStreamCaptureInvalidated;
    *out = (cudaGraph_t) new Graph(std::move(stream->captured));
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* out) {
    CALL;
    Stream* stream = machine().stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    *out = !stream->capturing ? cudaStreamCaptureStatusNone
           : stream->broken   ? cudaStreamCaptureStatusInvalidated
                              : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

// --- graphs

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
    CALL;
    *out = (cudaGraphExec_t) new Graph(*(Graph*)graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t handle) {
    CALL;
    Machine& m = machine();
    Stream* stream = m.stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    for (const Work& work : *(Graph*)graph)
        if (int status = m.put(stream, work)) return (cudaError_t)status;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
    CALL;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    CALL;
    delete (Graph*)graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    CALL;
    delete (Graph*)graph;
    return cudaSuccess;
}

// --- events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned flags) {
    CALL;
    auto made = std::make_shared<Event>();
    made->timed = !(flags & cudaEventDisableTiming);
    machine().events[made.get()] = made;
    *out = (cudaEvent_t)made.get();
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* out) { return cudaEventCreateWithFlags(out, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t mark) {
    CALL;
    return machine().events.erase(mark) ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

cudaError_t cudaEventRecord(cudaEvent_t mark, cudaStream_t handle) {
    CALL;
    Machine& m = machine();
    Stream* stream = m.stream(handle);
    auto event = m.event(mark);
    if (!stream || !event) return cudaErrorInvalidResourceHandle;
    event->captured = stream->capturing;
    if (stream->capturing) return Status{m.put(stream, {[] { return 0; }, nullptr})};
    uint64_t point = ++event->recorded;
    return Status{m.put(stream, {[=] {
                                     event->reached = std::max(event->reached, point);
                                     event->seconds = now();
                                     return 0;
                                 },
                                 nullptr})};
}

cudaError_t cudaEventQuery(cudaEvent_t mark) {
    CALL;
    Machine& m = machine();
    auto event = m.event(mark);
    if (!event) return cudaErrorInvalidResourceHandle;
    if (event->captured) return cudaErrorCapturedEvent;
    if (int status = m.forbidden()) return (cudaError_t)status;
    for (int pieces = (int)(m.random() % 200); pieces > 0 && !m.lost; pieces--)
        if (!m.step()) break;  // a moment passes, in which work goes on
    if (m.lost) return (cudaError_t)m.lost;
    return event->reached >= event->recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t mark) {
    CALL;
    Machine& m = machine();
    auto event = m.event(mark);
    if (!event) return cudaErrorInvalidResourceHandle;
    if (event->captured) return cudaErrorCapturedEvent;
    if (int status = m.forbidden()) return (cudaError_t)status;
    return Status{m.finish([=] { return event->reached >= event->recorded; })};
}

cudaError_t cudaEventElapsedTime(float* out, cudaEvent_t begin, cudaEvent_t end) {
    CALL;
    auto first = machine().event(begin), last = machine().event(end);
    if (!first || !last || !first->timed || !last->timed || !first->recorded || !last->recorded)
        return cudaErrorInvalidResourceHandle;
    if (first->reached < first->recorded || last->reached < last->recorded)
        return cudaErrorNotReady;
    *out = (float)((last->seconds - first->seconds) * 1e3);
    return cudaSuccess;
}

}  // extern "C"
