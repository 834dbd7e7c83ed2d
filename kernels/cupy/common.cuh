// What all kernels share: element types, vectors of them, shared memory and asynchronous copies.
//
// Everything that needs an instruction of the GPU stands here (and in mma.cuh) behind a small
// function, once as PTX and once in plain C++ for the simulator. The kernels are the same for both.
#pragma once

struct float16 { unsigned short bits; };   // IEEE binary16
struct bfloat16 { unsigned short bits; };  // the upper half of a float

// Widening is exact; `narrow<T>` rounds to nearest, ties to even, as every conversion here.
__device__ inline float widen(float value) { return value; }
__device__ inline float widen(bfloat16 value) {
    return __uint_as_float(unsigned(value.bits) << 16);
}

#ifdef CNNENGINE_SIMULATOR
inline float widen(float16 value) {
    const unsigned sign = unsigned(value.bits & 0x8000) << 16, low = value.bits & 0x7fff;
    if (low >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (low & 0x3ff) << 13);
    // as a float the bits are 2^-112 too small, and a subnormal number becomes a normal one
    const float scaled = __uint_as_float(low << 13) * 0x1p112f;
    return __uint_as_float(sign | __float_as_uint(scaled));
}
inline float16 narrow_to_half(float value) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000;
    const unsigned low = bits & 0x7fffffff;
    if (low > 0x7f800000) return {0x7fff};  // the NaN that the GPU makes
    if (low >= 0x477ff000) return {(unsigned short)(sign | 0x7c00)};  // 65520 and more
    if (low < 0x38800000) {  // subnormal: adding 0.5 leaves the rounded bits at the end
        const float shifted = __uint_as_float(low) + 0.5f;
        return {(unsigned short)(sign | (__float_as_uint(shifted) - 0x3f000000))};
    }
    const unsigned rounded = low + 0xfff + (low >> 13 & 1) - (112u << 23);
    return {(unsigned short)(sign | rounded >> 13)};
}
inline bfloat16 narrow_to_bfloat(float value) {
    const unsigned bits = __float_as_uint(value);
    if (value != value) return {0x7fff};  // the NaN that the GPU makes
    return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
#else
__device__ inline float widen(float16 value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}
__device__ inline float16 narrow_to_half(float value) {
    float16 narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
    return narrow;
}
__device__ inline bfloat16 narrow_to_bfloat(float value) {
    bfloat16 narrow;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
    return narrow;
}
#endif

template <class T> struct Narrow;
template <> struct Narrow<float> {
    __device__ static float of(float value) { return value; }
};
template <> struct Narrow<float16> {
    __device__ static float16 of(float value) { return narrow_to_half(value); }
};
template <> struct Narrow<bfloat16> {
    __device__ static bfloat16 of(float value) { return narrow_to_bfloat(value); }
};
template <class T> __device__ inline T narrow(float value) { return Narrow<T>::of(value); }

// WIDTH elements side by side, read and written in one instruction: at most 16 bytes.
template <class T, int WIDTH> struct alignas(sizeof(T) * WIDTH) Vector {
    static_assert(sizeof(T) * WIDTH <= 16, "one instruction moves at most 16 bytes");
    T at[WIDTH];
};

template <int WIDTH, class T> __device__ inline Vector<T, WIDTH> load(const T* from) {
#ifdef CNNENGINE_SIMULATOR
    simulator::aligned(from, sizeof(T) * WIDTH, "load");
#endif
    return *reinterpret_cast<const Vector<T, WIDTH>*>(from);
}

template <int WIDTH, class T> __device__ inline void store(T* to, const Vector<T, WIDTH>& value) {
#ifdef CNNENGINE_SIMULATOR
    simulator::aligned(to, sizeof(T) * WIDTH, "store");
#endif
    *reinterpret_cast<Vector<T, WIDTH>*>(to) = value;
}

// The same where only the first `count` of the WIDTH elements are there; others are read as zero.
template <int WIDTH, class T>
__device__ inline Vector<T, WIDTH> load_some(const T* from, long long count) {
    if (count >= WIDTH) return load<WIDTH>(from);
    Vector<T, WIDTH> value;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) value.at[i] = i < count ? from[i] : narrow<T>(0.0f);
    return value;
}

template <int WIDTH, class T>
__device__ inline void store_some(T* to, const Vector<T, WIDTH>& value, long long count) {
    if (count >= WIDTH) return store<WIDTH>(to, value);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i)
        if (i < count) to[i] = value.at[i];
}

// Shared memory: SHARED(tile, float[16][33]) declares `tile` in it, aligned to 16 bytes as vectors
// and copies need it (the elements alone ask for 2 or 4), at most 48 KiB in all;
// DYNAMIC_SHARED(bytes) names the memory of a launch's `shared_bytes`, aligned to 128 bytes.
template <class T> struct Same { using type = T; };
#ifdef CNNENGINE_SIMULATOR
#define SHARED(name, ...)         \
    static char name##_in_shared; \
    auto& name = *simulator::shared<typename Same<__VA_ARGS__>::type>(&name##_in_shared)
#define DYNAMIC_SHARED(name) unsigned char* const name = simulator::dynamic_shared()
#else
#define SHARED(name, ...) __shared__ __align__(16) typename Same<__VA_ARGS__>::type name
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

// Copies BYTES (4, 8 or 16) from global to shared memory in the background; of these only the
// first `valid` are read, the others become zero (`from` must still be an address one may name).
// The copies since the last commit are one group; after wait_for_copies<N>() at most N of a
// thread's groups are still on their way. Other threads see them after the next barrier.
#ifdef CNNENGINE_SIMULATOR
template <int BYTES> inline void copy_async(void* to, const void* from, int valid = BYTES) {
    simulator::aligned(static_cast<char*>(to), BYTES, "copy_async to shared memory");
    simulator::aligned(static_cast<const char*>(from), BYTES, "copy_async from global memory");
    simulator::copy_later(to, from, BYTES, valid);
}
inline void commit_copies() { simulator::commit_copies(); }
template <int GROUPS> inline void wait_for_copies() { simulator::wait_for_copies(GROUPS); }
#else
__device__ inline unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
template <int BYTES>
__device__ inline void copy_async(void* to, const void* from, int valid = BYTES) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "what cp.async can copy");
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                     "l"(from), "r"(valid) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)),
                     "l"(from), "n"(BYTES), "r"(valid) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int GROUPS> __device__ inline void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}
#endif

// WIDTH elements, or zeros, from global to shared memory; in the background where a copy can be.
template <int WIDTH, class T>
__device__ inline void copy_or_zero(T* to, const T* from, bool copies) {
    constexpr int BYTES = WIDTH * sizeof(T);
    if constexpr (BYTES >= 4)
        copy_async<BYTES>(to, from, copies ? BYTES : 0);
    else
        *to = copies ? *from : narrow<T>(0.0f);
}

// Four neighbouring elements as float.
template <class T> __device__ inline void widen_four(float (&to)[4], const T* from) {
    const auto four = load<4>(from);
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = widen(four.at[i]);
}
