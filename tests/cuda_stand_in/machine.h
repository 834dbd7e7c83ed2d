// The machine behind the stand-in for CUDA: memory, streams, graphs and modules, all on the host.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

constexpr int MOST_SHARED = 227 << 10;  // bytes of a block that asked for them, on sm_90
constexpr int USUAL_SHARED = 48 << 10;  // bytes of a block that did not
constexpr int REGISTERS = 64 << 10;     // of a block

// What the environment asks for; a missing variable is `usual`.
long long wish(const char* name, long long usual);

struct Memory {
    size_t size;
    bool device;
    bool freed;
    char* here;  // where the host may touch it: device addresses themselves are forbidden to it
};

struct Event {
    bool timed;
    uint64_t recorded = 0, reached = 0;
    double seconds = 0;      // when it was last reached
    bool captured = false;   // last recorded in a capture: neither queried nor waited for
};

struct Work {
    std::function<int()> run;  // returns a status
    std::shared_ptr<Event> wait;
    uint64_t point = 0;  // of `wait`
};

struct Stream {
    bool blocking;  // with the legacy default stream
    std::deque<Work> queue;
    bool capturing = false, broken = false;  // broken: an error has ended the capture's use
    int mode = 0;
    std::thread::id owner;
    std::vector<Work> captured;
};

using Graph = std::vector<Work>;

struct Parameter {
    int offset, size;
};

struct Function {
    std::string name;
    std::map<int, Parameter> parameters;  // by position
    int shared = 0, registers = 0, most_threads = 1024;
    int required[3] = {0, 0, 0};  // extents of its block; 0: any
    int dynamic = USUAL_SHARED;   // bytes that a launch may ask for
};

struct Module {
    std::map<std::string, Function> functions;
};

// A launch on the host: the grid runner of kernels/cupy/simulator.cpp.
using Runner = bool (*)(void* thread, void** values, unsigned* grid, unsigned* block, size_t shared,
                        size_t limit, uint64_t seed, char* text, size_t room);

struct Machine {
    std::recursive_mutex mutex;
    std::mt19937 random{(unsigned)wish("STAND_IN_SEED", 0)};
    int devices = (int)wish("STAND_IN_DEVICES", 1);
    int driver = (int)wish("STAND_IN_DRIVER", 12090);  // newest CUDA that it runs
    long long total = wish("STAND_IN_MEMORY", 80LL << 30);
    long long lost_at = wish("STAND_IN_LOST_AT", 0);  // number of the kernel that fails
    long long used = 512LL << 20;                     // CUDA's own
    long long pinned = 0, pinned_most = wish("STAND_IN_PINNED", 16LL << 30);
    long long mallocs = 0, full_at = wish("STAND_IN_FULL_AT", 0);  // number of the one that fails
    int fill = (int)wish("STAND_IN_FILL", 0xFF);  // every byte of new memory
    int lost = 0;  // the sticky error
    long long kernels = 0;
    std::map<uintptr_t, Memory> memory;
    std::vector<Stream*> streams{new Stream{true}};  // the first is the legacy default stream
    std::map<void*, std::shared_ptr<Event>> events;
    std::map<std::string, long long> calls;
    std::map<std::string, void*> hosted;  // kernel → its function on the host
    Runner runner = nullptr;

    Stream* stream(void* handle);  // null where there is none
    std::shared_ptr<Event> event(void* handle);

    // The allocation in which `size` bytes at `address` lie; null where they do not.
    Memory* find(const void* address, size_t size);
    char* place(const void* address);  // where the host may touch them
    int allocate(void** out, size_t size, bool device);
    int release(void* address, bool device);

    int forbidden();  // 0, or the error of a call that no capture allows; it breaks the capture
    int put(Stream* stream, Work work);
    int finish(const std::function<bool()>& done);  // work until then, in any order allowed
    bool step();                                    // one piece of work; false if there is none
    int launch(Function* function, const unsigned* grid, const unsigned* block, unsigned shared,
               Stream* stream, void** values);
    int run(const Function& function, std::vector<unsigned> extents, unsigned shared,
            std::vector<std::vector<char>>& values);
    void complain(const std::string& what);  // on standard error: a bug in the program
};

Machine& machine();

// Modules of cubins. Returns 0 or a status.
int read_cubin(const void* image, Module& module);

// A status of either interface: the numbers of the runtime and of the driver agree here.
struct Status {
    int value;
    operator cudaError_t() const { return (cudaError_t)value; }
    operator CUresult() const { return (CUresult)value; }
};

// The begin of every call: counts it, holds the machine; `status` says why nothing can be done.
struct Call {
    std::lock_guard<std::recursive_mutex> held;
    int status;
    Call(const char* name, bool always);
};

#define CALL              \
    Call call(__func__, false); \
    if (call.status) return Status{call.status}
#define CALL_ALWAYS Call call(__func__, true)  // works on a lost or missing device, too
