// What CUDA C++ has and C++ has not, so that a .cu file compiles for the simulator (simulator.py).
//
// A block's threads are fibers that take turns on one processor; threadIdx is that of the fiber
// which runs. A thread runs until it waits at a barrier or meets its warp in an exchange.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define CNNENGINE_SIMULATOR 1
#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint3 { unsigned x, y, z; };
extern "C" uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct __align__(16) int4 { int x, y, z, w; };

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace simulator {

constexpr int SLOT_BYTES = 64;  // that a lane can hand to its warp in one exchange

// The launch ends here and fails with this message, which is printf's.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
void barrier();  // of the block
const unsigned char* deposit(const void* mine, int bytes, const char* what);
void* shared_memory(const void* declaration, size_t bytes);
unsigned char* dynamic_shared();
void copy_later(void* to, const void* from, int bytes, int valid);
void commit_copies();
void wait_for_copies(int groups_in_flight);

// The block's one object of a declaration in shared memory.
template <class T> T* shared(const void* declaration) {
    return static_cast<T*>(shared_memory(declaration, sizeof(T)));
}

// What every lane of the warp has handed over in the same exchange.
template <class V> struct Deposits {
    const unsigned char* first;
    V operator[](int lane) const {
        V value;
        memcpy(&value, first + lane * SLOT_BYTES, sizeof(V));
        return value;
    }
};

// Every lane of the warp calls it; it returns when all have, with the values of all 32 lanes.
// So warp-wide instructions are simulated: hand over the operands, then compute one's part.
template <class V> Deposits<V> exchange(const V& mine, const char* what) {
    static_assert(sizeof(V) <= SLOT_BYTES, "more than a slot holds");
    return {deposit(&mine, sizeof(V), what)};
}

inline int lane() {
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}

inline void whole_warp(unsigned mask, const char* what) {
    if (mask != 0xffffffffu) fail("%s: the mask must be that of a whole warp", what);
}

template <class P> void aligned(const P* pointer, int bytes, const char* what) {
    if (reinterpret_cast<uintptr_t>(pointer) % bytes)
        fail("%s of %d bytes at an address that is no multiple of them", what, bytes);
}

}  // namespace simulator

inline void __syncthreads() { simulator::barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    simulator::whole_warp(mask, "__syncwarp");
    simulator::exchange(0, "__syncwarp");
}

template <class V> V __shfl_sync(unsigned mask, V value, int from) {
    simulator::whole_warp(mask, "__shfl_sync");
    return simulator::exchange(value, "__shfl_sync")[from % 32];
}
template <class V> V __shfl_xor_sync(unsigned mask, V value, int change) {
    simulator::whole_warp(mask, "__shfl_xor_sync");
    return simulator::exchange(value, "__shfl_xor_sync")[(simulator::lane() ^ change) % 32];
}
template <class V> V __shfl_down_sync(unsigned mask, V value, unsigned by) {
    simulator::whole_warp(mask, "__shfl_down_sync");
    const unsigned from = simulator::lane() + by;
    return simulator::exchange(value, "__shfl_down_sync")[from < 32 ? from : simulator::lane()];
}
template <class V> V __shfl_up_sync(unsigned mask, V value, unsigned by) {
    simulator::whole_warp(mask, "__shfl_up_sync");
    const int from = simulator::lane() - int(by);
    return simulator::exchange(value, "__shfl_up_sync")[from >= 0 ? from : simulator::lane()];
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
    simulator::whole_warp(mask, "__ballot_sync");
    auto votes = simulator::exchange(vote, "__ballot_sync");
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= unsigned(votes[lane] != 0) << lane;
    return bits;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == ~0u; }

template <class V> V __ldg(const V* pointer) { return *pointer; }
template <class A> A min(A a, A b) { return b < a ? b : a; }
template <class A> A max(A a, A b) { return a < b ? b : a; }
inline float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float fminf(float a, float b) { return __builtin_fminf(a, b); }
inline float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
inline float fabsf(float a) { return __builtin_fabsf(a); }
inline float sqrtf(float a) { return __builtin_sqrtf(a); }
inline float rsqrtf(float a) { return 1.0f / __builtin_sqrtf(a); }
inline float expf(float a) { return __builtin_expf(a); }
inline float exp2f(float a) { return __builtin_exp2f(a); }
inline float expm1f(float a) { return __builtin_expm1f(a); }
inline float logf(float a) { return __builtin_logf(a); }
inline float log2f(float a) { return __builtin_log2f(a); }
inline float powf(float a, float b) { return __builtin_powf(a, b); }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline bool isnan(float a) { return a != a; }
inline bool isinf(float a) { return __builtin_isinf(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __clz(int a) { return a ? __builtin_clz(a) : 32; }

template <class To, class From> To simulated_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline unsigned __float_as_uint(float a) { return simulated_bits<unsigned>(a); }
inline float __uint_as_float(unsigned a) { return simulated_bits<float>(a); }
inline int __float_as_int(float a) { return simulated_bits<int>(a); }
inline float __int_as_float(int a) { return simulated_bits<float>(a); }
