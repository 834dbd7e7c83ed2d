// Groups: the 16 bytes of neighbouring channels that one thread loads, widens, and stores.
//
// A kernel that is bound by memory gives each thread one group: GROUP<T> channels of one pixel, or
// neighbours in a flat array; 4 of float, 8 of a 16-bit type. Where the addresses allow it a group
// moves in one access. A last group of fewer channels, and arrays whose pixels do not begin at
// multiples of 16 bytes, move element by element.
#pragma once
#include "common.cuh"

constexpr int THREADS = 256;  // of a block

template <class T> constexpr int GROUP = 16 / sizeof(T);

// Whether every group of `array`, whose pixels lie `pitch` elements apart, moves in one access.
template <class T> __device__ inline bool on_vectors(const T* array, long long pitch = 0) {
    return reinterpret_cast<unsigned long long>(array) % 16 == 0 && pitch % GROUP<T> == 0;
}

// The N elements at `from`, as stored; those from `count` on do not exist and are 0. To widen them
// is to wait for them: several fetches before the first use overlap.
template <int N, class T>
__device__ inline Vector<T, N> fetch(const T* from, int count, bool vectors) {
    if (vectors && count >= N) return load<N>(from);
    Vector<T, N> values;
#pragma unroll
    for (int j = 0; j < N; ++j) values.at[j] = j < count ? from[j] : narrow<T>(0.0f);
    return values;
}

// The same as floats, of any N.
template <class T, int N>
__device__ inline void load_group(float (&to)[N], const T* from, int count, bool vectors) {
    constexpr int PIECE = N < GROUP<T> ? N : GROUP<T>;  // of one access
    if (vectors && count >= N) {
#pragma unroll
        for (int i = 0; i < N; i += PIECE) {
            const auto piece = load<PIECE>(from + i);
#pragma unroll
            for (int j = 0; j < PIECE; ++j) to[i + j] = widen(piece.at[j]);
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j) to[j] = j < count ? widen(from[j]) : 0.0f;
    }
}

// The first `count` values, rounded to T.
template <class T, int N>
__device__ inline void store_group(T* to, const float (&from)[N], int count, bool vectors) {
    constexpr int PIECE = N < GROUP<T> ? N : GROUP<T>;
    if (vectors && count >= N) {
#pragma unroll
        for (int i = 0; i < N; i += PIECE) {
            Vector<T, PIECE> piece;
#pragma unroll
            for (int j = 0; j < PIECE; ++j) piece.at[j] = narrow<T>(from[i + j]);
            store<PIECE>(to + i, piece);
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (j < count) to[j] = narrow<T>(from[j]);
    }
}

// The same for int8 codes [pixels, channels], N at a time.
template <int N> __device__ inline bool codes_on_vectors(const signed char* codes, int channels) {
    return reinterpret_cast<unsigned long long>(codes) % N == 0 && channels % N == 0;
}

template <int N>
__device__ inline void load_codes(int (&to)[N], const signed char* from, int count, bool vectors) {
    if (vectors && count >= N) {
        const auto whole = load<N>(from);
#pragma unroll
        for (int j = 0; j < N; ++j) to[j] = whole.at[j];
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j) to[j] = j < count ? from[j] : 0;
    }
}

template <int N>
__device__ inline void store_codes(signed char* to, const int (&from)[N], int count, bool vectors) {
    if (vectors && count >= N) {
        Vector<signed char, N> whole;
#pragma unroll
        for (int j = 0; j < N; ++j) whole.at[j] = static_cast<signed char>(from[j]);
        store<N>(to, whole);
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (j < count) to[j] = static_cast<signed char>(from[j]);
    }
}

template <int N> __device__ inline void fill(float (&values)[N], float value) {
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] = value;
}

// a becomes a / b; the remainder is returned. Most numbers have 32 bits, which divide much faster.
__device__ inline int take(long long& a, int b) {
    if (a >> 32 == 0) {
        const unsigned small = static_cast<unsigned>(a);
        a = small / b;
        return static_cast<int>(small % b);
    }
    const int remainder = static_cast<int>(a % b);
    a /= b;
    return remainder;
}

__device__ inline long long thread_number() {
    return static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
}

// What one thread works on: `count` channels from `channel` on of one pixel, or nothing.
struct Place {
    long long pixel;
    int channel;
    int count;
    bool exists;
};

// Threads count the groups of a pixel first, so neighbours read neighbouring memory.
template <class T> __device__ inline Place place_of_thread(long long pixels, int channels) {
    Place place;
    place.pixel = thread_number();
    place.channel = take(place.pixel, (channels + GROUP<T> - 1) / GROUP<T>) * GROUP<T>;
    place.count = min(channels - place.channel, GROUP<T>);
    place.exists = place.pixel < pixels;
    return place;
}

// Pixel (h, w) of image n.
struct Pixel {
    long long n;
    int h;
    int w;
};

// The pixel that has this number in images of H x W pixels.
__device__ inline Pixel pixel_at(long long number, int H, int W) {
    Pixel pixel;
    pixel.n = number;
    pixel.w = take(pixel.n, W);
    pixel.h = take(pixel.n, H);
    return pixel;
}
