// Sums over pixels, in one order: how a block shares them out and joins what its threads have.
//
// The threads of a block stand in rows of `lanes` (a power of two). A lane is a group of channels;
// each thread walks over every rows-th pixel of the block's split, and the rows are joined through
// shared memory, the upper half of them with the lower half, until one is left. Splits are cut by
// shape alone, so the same inputs give the same bits.
#pragma once
#include "group.cuh"

constexpr int MOST_LANES = 8;  // 128 neighbouring bytes

// What one thread sums: `count` channels from `channel` on (0 or fewer: none) of the pixels
// first, first + step, … below end.
struct Strip {
    long long split;
    long long first;
    long long end;
    int step;
    int lanes;
    int channel;
    int count;
    bool writes;  // the results of its lane
};

template <class T>
__device__ inline Strip strip_of_thread(long long pixels, int channels, long long of_split) {
    const int groups = (channels + GROUP<T> - 1) / GROUP<T>;
    Strip strip;
    strip.lanes = 1;
    while (strip.lanes < groups && strip.lanes < MOST_LANES) strip.lanes *= 2;
    strip.step = THREADS / strip.lanes;
    const int blocks = (groups + strip.lanes - 1) / strip.lanes;  // of channels
    const int lane = threadIdx.x % strip.lanes, row = threadIdx.x / strip.lanes;
    strip.channel = (blockIdx.x % blocks * strip.lanes + lane) * GROUP<T>;
    strip.count = min(channels - strip.channel, GROUP<T>);
    strip.split = blockIdx.x / blocks;
    strip.first = strip.split * of_split + row;
    strip.end = min((strip.split + 1) * of_split, pixels);
    strip.writes = row == 0 && strip.count > 0;
    return strip;
}

// In the threads of row 0: the sums of all rows' values. One barrier a round is enough, also
// between two sums: no round writes what the one before it reads.
template <int N> __device__ inline void sum_rows(float (&values)[N], int lanes) {
    SHARED(upper, float[N][THREADS]);
    const int thread = threadIdx.x;
    for (int half = THREADS / 2; half >= lanes; half /= 2) {
        if (thread >= half && thread < 2 * half) {
#pragma unroll
            for (int j = 0; j < N; ++j) upper[j][thread] = values[j];
        }
        __syncthreads();
        if (thread < half) {
#pragma unroll
            for (int j = 0; j < N; ++j) values[j] += upper[j][thread + half];
        }
    }
}
