#include "machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

long long wish(const char* name, long long usual) {
    const char* told = getenv(name);
    return told ? atoll(told) : usual;
}

Machine& machine() {
    static Machine* only = new Machine;  // never destroyed: Python lets go of arrays very late
    return *only;
}

static void write_log() {
    const char* path = getenv("STAND_IN_LOG");
    FILE* file = path ? fopen(path, "w") : nullptr;
    if (!file) return;
    Machine& m = machine();
    for (auto& [name, count] : m.calls) fprintf(file, "%s %lld\n", name.c_str(), count);
    fprintf(file, "kernels %lld\n", m.kernels);
    fclose(file);
}

Call::Call(const char* name, bool always) : held(machine().mutex), status(0) {
    Machine& m = machine();
    if (m.calls.empty()) atexit(write_log);
    m.calls[name]++;
    if (always) return;
    if (m.driver < CUDART_VERSION / 1000 * 1000)
        status = cudaErrorInsufficientDriver;
    else if (m.devices == 0)
        status = cudaErrorNoDevice;
    else
        status = m.lost;
}

void Machine::complain(const std::string& what) {
    fprintf(stderr, "stand-in: %s\n", what.c_str());
    if (getenv("STAND_IN_ABORT")) abort();
}

Stream* Machine::stream(void* handle) {
    if ((uintptr_t)handle <= 2) return streams[0];  // null, legacy and per thread
    for (Stream* s : streams)
        if (s == handle) return s;
    return nullptr;
}

std::shared_ptr<Event> Machine::event(void* handle) {
    auto found = events.find(handle);
    return found == events.end() ? nullptr : found->second;
}

Memory* Machine::find(const void* address, size_t size) {
    auto next = memory.upper_bound((uintptr_t)address);
    if (next == memory.begin()) return nullptr;
    auto& [start, found] = *--next;
    return (uintptr_t)address + size <= start + found.size ? &found : nullptr;
}

char* Machine::place(const void* address) {
    Memory* found = find(address, 1);
    if (!found) return (char*)address;
    return found->here + ((uintptr_t)address - std::prev(memory.upper_bound((uintptr_t)address))->first);
}

int Machine::allocate(void** out, size_t size, bool device) {
    long long& taken = device ? used : pinned;
    if (device) mallocs++;
    if ((full_at && mallocs >= full_at) || taken + (long long)size > (device ? total : pinned_most))
        return cudaErrorMemoryAllocation;
    *out = nullptr;
    if (size == 0) return 0;
    size_t pages = (size + 4095) / 4096 * 4096;
    char *address, *here;
    if (device) {
        int file = memfd_create("device", 0);
        if (file < 0 || ftruncate(file, pages)) return cudaErrorMemoryAllocation;
        address = (char*)mmap(nullptr, pages, PROT_NONE, MAP_SHARED, file, 0);
        here = (char*)mmap(nullptr, pages, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (fill && size <= 64 << 20) memset(here, fill, size);  // 0xFF: NaN in every float type
    } else {
        address = here = (char*)mmap(nullptr, pages, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (address == MAP_FAILED || here == MAP_FAILED) return cudaErrorMemoryAllocation;
    taken += size;
    memory[(uintptr_t)address] = {size, device, false, here};
    *out = address;
    return 0;
}

int Machine::release(void* address, bool device) {
    if (!address) return 0;
    auto found = memory.find((uintptr_t)address);
    if (found == memory.end() || found->second.device != device || found->second.freed)
        return cudaErrorInvalidValue;
    finish([&] {
        for (Stream* s : streams)
            if (!s->queue.empty()) return false;
        return true;
    });
    Memory& gone = found->second;
    (device ? used : pinned) -= gone.size;
    gone.freed = true;  // its addresses are not given out again
    size_t pages = (gone.size + 4095) / 4096 * 4096;
    if (device) munmap(gone.here, pages);
    mmap(address, pages, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    return 0;
}

int Machine::forbidden() {
    int status = 0;
    for (Stream* s : streams) {
        if (!s->capturing || s->mode == cudaStreamCaptureModeRelaxed) continue;
        if (s->mode == cudaStreamCaptureModeGlobal || s->owner == std::this_thread::get_id()) {
            s->broken = true;
            status = cudaErrorStreamCaptureUnsupported;
        }
    }
    return status;
}

int Machine::put(Stream* stream, Work work) {
    if (stream->capturing) {
        if (stream->broken) return cudaErrorStreamCaptureInvalidated;
        stream->captured.push_back(std::move(work));
        return 0;
    }
    auto idle = [&](Stream* other) {
        return finish([=] { return other->queue.empty(); });
    };
    if (stream == streams[0]) {  // the legacy stream and the blocking ones wait for each other
        for (Stream* other : streams) {
            if (!other->blocking || other == stream) continue;
            if (other->capturing) return cudaErrorStreamCaptureImplicit;
            if (int status = idle(other)) return status;
        }
    } else if (stream->blocking) {
        if (int status = idle(streams[0])) return status;
    }
    stream->queue.push_back(std::move(work));
    return 0;
}

bool Machine::step() {
    size_t first = random() % streams.size();
    for (size_t i = 0; i < streams.size(); i++) {
        Stream* s = streams[(first + i) % streams.size()];
        if (s->queue.empty()) continue;
        Work& work = s->queue.front();
        if (work.wait && work.wait->reached < work.point) continue;
        if (!work.wait && !lost) lost = work.run();
        s->queue.pop_front();
        return true;
    }
    return false;
}

int Machine::finish(const std::function<bool()>& done) {
    while (!lost && !done())
        if (!step()) {
            complain("the streams wait for each other");
            return lost = cudaErrorUnknown;
        }
    if (lost)
        for (Stream* s : streams) s->queue.clear();
    return lost;
}

int Machine::launch(Function* f, const unsigned* grid, const unsigned* block, unsigned shared,
                    Stream* stream, void** given) {
    const unsigned long long grids[] = {0x7FFFFFFF, 65535, 65535}, blocks[] = {1024, 1024, 64};
    unsigned long long threads = 1ULL * block[0] * block[1] * block[2];
    for (int i = 0; i < 3; i++) {
        bool other = f->required[i] && (int)block[i] != f->required[i];
        if (!grid[i] || grid[i] > grids[i] || !block[i] || block[i] > blocks[i] || other)
            return CUDA_ERROR_INVALID_VALUE;
    }
    if (threads > (unsigned)f->most_threads || (int)shared > f->dynamic ||
        f->shared + (int)shared > MOST_SHARED)
        return CUDA_ERROR_INVALID_VALUE;
    if (threads * f->registers > REGISTERS) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    std::vector<std::vector<char>> values;
    for (auto& [position, parameter] : f->parameters) {
        const char* value = (const char*)given[position];
        values.emplace_back(value, value + parameter.size);
    }
    std::vector<unsigned> extents(grid, grid + 3);
    extents.insert(extents.end(), block, block + 3);
    return put(stream, {[this, function = *f, extents, shared, values]() mutable {
                            return run(function, extents, shared, values);
                        },
                        nullptr});
}

int Machine::run(const Function& f, std::vector<unsigned> extents, unsigned shared,
                 std::vector<std::vector<char>>& values) {
    kernels++;
    calls["kernel " + f.name]++;
    if (kernels == lost_at) return cudaErrorIllegalAddress;
    for (size_t i = 0; i < values.size(); i++) {
        if (values[i].size() != 8) continue;
        void* address = *(void**)values[i].data();
        Memory* found = find(address, 1);
        if (found && found->freed) {
            complain(f.name + ": parameter " + std::to_string(i) + " points to freed memory");
            return cudaErrorIllegalAddress;
        }
    }
    auto hosted_one = hosted.find(f.name);
    if (!runner || hosted_one == hosted.end()) return 0;
    auto protect = [this](int how) {
        for (auto& [start, one] : memory)
            if (one.device && !one.freed) mprotect((void*)start, one.size, how);
    };
    std::vector<void*> pointers;
    for (auto& value : values) pointers.push_back(value.data());
    char text[300] = "";
    protect(PROT_READ | PROT_WRITE);
    bool fine = runner(hosted_one->second, pointers.data(), extents.data(), extents.data() + 3,
                       shared, f.dynamic, random(), text, sizeof text);
    protect(PROT_NONE);
    if (!fine) complain(f.name + ": " + text);
    return fine ? 0 : cudaErrorIllegalAddress;
}
