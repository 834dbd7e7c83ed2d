// The simulator's machine: runs the blocks of a grid one after the other, a fiber for each thread.
//
// Between two barriers the threads run in a random order, and warps may fall behind each other, so
// that a kernel which forgets a barrier computes something else. Blocks run in a shuffled order,
// too. Shared memory is full of NaN when
// a block starts and has guard bytes behind every array. Asynchronous copies happen when they are
// waited for, no sooner.
#include "simulator.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

extern "C" {
uint3 threadIdx, blockIdx, blockDim, gridDim;
}

namespace simulator {

constexpr int MOST_THREADS = 1024;
constexpr size_t STACK_BYTES = (128 << 10) + 576;  // no power of two: they share cache sets
constexpr int GUARD_BYTES = 64;
constexpr unsigned char POISON = 0xff;  // bytes that are NaN in every float type
constexpr int MOST_DECLARATIONS = 16;
constexpr uint64_t STACK_END = 0x5eed5eed5eed5eed;  // in the last word of every stack
constexpr int MOST_COPIES = 512;  // that one thread has on their way

enum State { READY, AT_BARRIER, IN_EXCHANGE, RETURNED };

struct Copy { unsigned char* to; const unsigned char* from; int bytes, valid, group; };

#ifdef __x86_64__
// Saves the registers that a call must keep, changes stacks, restores those of the other fiber.
asm(R"(
.text
.type simulator_switch, @function
simulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simulator_switch, .-simulator_switch
)");
using Fiber = void*;  // its stack pointer while it does not run
extern "C" void simulator_switch(Fiber* from, Fiber* to) __attribute__((visibility("hidden")));
inline void change(Fiber* from, Fiber* to) { simulator_switch(from, to); }
inline void prepare(Fiber* fiber, char* stack, void (*entry)()) {
    uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + STACK_BYTES) & ~uintptr_t(15);
    void** frame = reinterpret_cast<void**>(top) - 8;  // six registers, entry, no way back
    memset(frame, 0, 64);
    frame[6] = reinterpret_cast<void*>(entry);
    *fiber = frame;
}
#else
using Fiber = ucontext_t;
inline void change(Fiber* from, Fiber* to) { swapcontext(from, to); }
inline void prepare(Fiber* fiber, char* stack, void (*entry)()) {
    getcontext(fiber);
    fiber->uc_stack.ss_sp = stack;
    fiber->uc_stack.ss_size = STACK_BYTES;
    fiber->uc_link = nullptr;
    makecontext(fiber, entry, 0);
}
#endif

struct Thread {
    Fiber fiber;
    State state;
    uint3 index;
    int exchanges;  // so far: their parity says which slots are free
    int copies, group;
    const char* what;  // the exchange it is in
};

struct Warp {
    alignas(16) unsigned char slots[2][32][SLOT_BYTES];
};

struct Machine {
    Fiber scheduler;
    Thread threads[MOST_THREADS];
    Warp warps[MOST_THREADS / 32];
    Copy* copies[MOST_THREADS];
    char* stacks;
    int count, current;
    uint64_t random;
    unsigned char* memory;  // shared: declarations with guards behind them, then the dynamic part
    size_t used, room, dynamic_bytes;
    const void* declarations[MOST_DECLARATIONS];
    unsigned char* places[MOST_DECLARATIONS];
    size_t sizes[MOST_DECLARATIONS];
    int declared;
    void (*body)(void**);
    void** values;
    bool failed;
    char told[400];
};
static Machine m;

void fail(const char* format, ...) {
    va_list given;
    va_start(given, format);
    const uint3 b = blockIdx, t = threadIdx;
    const int start = snprintf(m.told, sizeof m.told, "block (%u, %u, %u), thread (%u, %u, %u): ",
                               b.x, b.y, b.z, t.x, t.y, t.z);
    vsnprintf(m.told + start, sizeof m.told - start, format, given);
    va_end(given);
    m.failed = true;
    change(&m.threads[m.current].fiber, &m.scheduler);
    __builtin_unreachable();
}

// What the scheduler itself finds wrong, between two turns.
inline void found(const char* told, int thread) {
    if (m.failed) return;
    m.failed = true;
    const uint3 b = blockIdx, t = m.threads[thread].index;
    snprintf(m.told, sizeof m.told, "block (%u, %u, %u), thread (%u, %u, %u): %s", b.x, b.y, b.z,
             t.x, t.y, t.z, told);
}

inline void pause(State state) {
    m.threads[m.current].state = state;
    change(&m.threads[m.current].fiber, &m.scheduler);
}

void barrier() { pause(AT_BARRIER); }

const unsigned char* deposit(const void* mine, int bytes, const char* what) {
    Thread& thread = m.threads[m.current];
    auto& slots = m.warps[m.current / 32].slots[thread.exchanges++ & 1];
    memcpy(slots[m.current % 32], mine, bytes);
    thread.what = what;
    pause(IN_EXCHANGE);
    return slots[0];
}

inline unsigned char* take(size_t bytes) {
    m.used = (m.used + 127) / 128 * 128;
    unsigned char* place = m.memory + m.used;
    m.used += bytes + GUARD_BYTES;
    return place;
}

void* shared_memory(const void* declaration, size_t bytes) {
    for (int i = 0; i < m.declared; ++i)
        if (m.declarations[i] == declaration) return m.places[i];
    size_t total = bytes + m.dynamic_bytes;
    for (int i = 1; i < m.declared; ++i) total += m.sizes[i];
    if (total - m.dynamic_bytes > 48 << 10) fail("declares more than 48 KiB of shared memory");
    if (total > m.room) fail("%zu bytes of shared memory, but the GPU has %zu", total, m.room);
    if (m.declared == MOST_DECLARATIONS) fail("more than %d shared arrays", MOST_DECLARATIONS - 1);
    m.declarations[m.declared] = declaration;
    m.sizes[m.declared] = bytes;
    return m.places[m.declared++] = take(bytes);
}

unsigned char* dynamic_shared() { return m.places[0]; }

void copy_later(void* to, const void* from, int bytes, int valid) {
    Thread& thread = m.threads[m.current];
    if (valid < 0 || valid > bytes) fail("copy_async: %d of %d bytes", valid, bytes);
    if (thread.copies == MOST_COPIES) fail("more than %d copies are on their way", MOST_COPIES);
    m.copies[m.current][thread.copies++] = {static_cast<unsigned char*>(to),
        static_cast<const unsigned char*>(from), bytes, valid, thread.group};
}

void commit_copies() { ++m.threads[m.current].group; }

void wait_for_copies(int groups_in_flight) {
    Thread& thread = m.threads[m.current];
    Copy* copies = m.copies[m.current];
    int left = 0;
    for (int i = 0; i < thread.copies; ++i) {
        const Copy c = copies[i];
        if (c.group >= thread.group - groups_in_flight) {
            copies[left++] = c;
            continue;
        }
        memcpy(c.to, c.from, c.valid);
        memset(c.to + c.valid, 0, c.bytes - c.valid);
    }
    thread.copies = left;
}

inline unsigned draw() {
    m.random = m.random * 6364136223846793005u + 1442695040888963407u;
    return m.random >> 33;
}

inline void entry() {
    m.body(m.values);
    pause(RETURNED);
}

inline void start_block(size_t dynamic_bytes) {
    memset(m.memory, POISON, m.used ? m.used : 256 + dynamic_bytes);
    m.used = 0;
    m.declared = 1;
    m.declarations[0] = &m;
    m.sizes[0] = dynamic_bytes;
    m.places[0] = take(dynamic_bytes);
    uint3 index = {0, 0, 0};
    for (int i = 0; i < m.count; ++i) {
        Thread& thread = m.threads[i];
        thread.state = READY;
        thread.index = index;
        thread.exchanges = thread.copies = thread.group = 0;
        prepare(&thread.fiber, m.stacks + i * STACK_BYTES, entry);
        if (++index.x == blockDim.x) index.x = 0, ++index.y;
        if (index.y == blockDim.y) index.y = 0, ++index.z;
    }
}

// Let every thread that can run go on until it waits; warps are left out at random.
inline void run_ready() {
    static unsigned short order[MOST_THREADS];
    const unsigned late = m.count > 32 ? draw() : 0;  // a warp's bit: it does not run this time
    int ready = 0;
    for (int i = 0; i < m.count; ++i)
        if (m.threads[i].state == READY && !(late >> i / 32 % 31 & 1)) order[ready++] = i;
    for (; ready; --ready) {
        const int chosen = draw() % ready;
        m.current = order[chosen];
        order[chosen] = order[ready - 1];
        threadIdx = m.threads[m.current].index;
        change(&m.scheduler, &m.threads[m.current].fiber);
        if (m.failed) return;
    }
}

inline bool finish_exchange(int first) {  // of the warp that begins with this thread
    int inside = 0, ready = 0;
    const int lanes = m.count - first < 32 ? m.count - first : 32;
    for (int i = first; i < first + lanes; ++i) {
        inside += m.threads[i].state == IN_EXCHANGE;
        ready += m.threads[i].state == READY;
    }
    if (!inside || ready) return false;
    if (inside < 32) return found("waits for its warp, of which lanes are elsewhere", first), false;
    for (int i = first; i < first + 32; ++i) {
        if (strcmp(m.threads[i].what, m.threads[first].what))
            return found("the lanes of its warp are in different exchanges", i), false;
        m.threads[i].state = READY;
    }
    return true;
}

inline bool block_goes_on() {
    bool any = false;
    for (int first = 0; first < m.count; first += 32) any |= finish_exchange(first);
    int counts[4] = {};
    for (int i = 0; i < m.count; ++i) ++counts[m.threads[i].state];
    if (any || m.failed || counts[READY]) return !m.failed;
    if (counts[RETURNED] == m.count) return false;
    if (counts[AT_BARRIER] < m.count)
        return found("waits at a barrier that other threads of its block never reach",
                     0), false;
    for (int i = 0; i < m.count; ++i) m.threads[i].state = READY;
    return true;
}

inline uint64_t* end_of_stack(int thread) {
    return reinterpret_cast<uint64_t*>(m.stacks + thread * STACK_BYTES);
}

inline void look_at_guards() {
    for (int i = 0; i < m.count; ++i)
        if (*end_of_stack(i) != STACK_END) return found("its local arrays overran its stack", i);
    for (int i = 0; i < m.declared; ++i)
        for (int j = 0; j < GUARD_BYTES; ++j)
            if (m.places[i][m.sizes[i] + j] != POISON)
                return found("its block wrote behind an array in shared memory", 0);
}

inline uint64_t common_divisor(uint64_t a, uint64_t b) { return b ? common_divisor(b, a % b) : a; }

inline bool reserve(size_t room) {
    if (!m.stacks) {
        void* got = mmap(nullptr, STACK_BYTES * (MOST_THREADS + 1), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (got == MAP_FAILED) return false;
        m.stacks = static_cast<char*>(got) + STACK_BYTES;  // room for an overrun of the first
        for (auto& copies : m.copies)
            copies = static_cast<Copy*>(malloc(MOST_COPIES * sizeof(Copy)));
    }
    const size_t most = room + (MOST_DECLARATIONS + 1) * (128 + GUARD_BYTES);
    free(m.memory);
    m.memory = static_cast<unsigned char*>(aligned_alloc(128, (most + 127) / 128 * 128));
    if (m.memory) memset(m.memory, POISON, most);
    m.used = 0;
    m.room = room;
    return m.memory != nullptr;
}

}  // namespace simulator

// Run `body` on a grid; false, and what went wrong in `told`, if it fails.
extern "C" int simulator_run(void (*body)(void**), void** values, const unsigned* grid,
                             const unsigned* block,
                             size_t dynamic_bytes, size_t room, uint64_t seed, char* told,
                             size_t told_room) {
    using namespace simulator;
    if (!reserve(room)) return snprintf(told, told_room, "no memory for a block"), 0;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    m.count = block[0] * block[1] * block[2];
    for (int i = 0; i < m.count; ++i) *end_of_stack(i) = STACK_END;
    m.body = body;
    m.values = values;
    m.dynamic_bytes = dynamic_bytes;
    m.random = seed;
    m.failed = false;
    const uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
    // a step that has no divisor in common with the number of blocks meets each of them once
    uint64_t step = draw() % blocks + 1;
    while (common_divisor(step, blocks) > 1) ++step;
    uint64_t block_number = draw() % blocks;
    for (uint64_t done = 0; done < blocks; ++done, block_number = (block_number + step) % blocks) {
        blockIdx.x = block_number % grid[0];
        blockIdx.y = block_number / grid[0] % grid[1];
        blockIdx.z = block_number / grid[0] / grid[1];
        start_block(dynamic_bytes);
        do run_ready();
        while (!m.failed && block_goes_on());
        if (!m.failed) look_at_guards();
        if (m.failed) return snprintf(told, told_room, "%s", m.told), 0;
    }
    return 1;
}
