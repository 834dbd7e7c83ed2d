// Transpose, copies with steps (pad, broadcast), and ordered sums, of arrays of up to six axes.
//
// Copies walk along the last axis of out, a group of its elements a thread. A transpose that moves
// the last axis of x turns tiles of SIDE x SIDE in shared memory, so that both sides are read and
// written along their last axes. Other axes are indices that a thread takes apart, innermost first.
#include "group.cuh"

constexpr int SIDE = 32;  // of a tile; rows of 33 in shared memory keep the banks apart

// Moves `at` along one axis: the innermost index is taken from `rest`.
__device__ inline void along(long long& rest, long long& at, int extent, long long step) {
    at += take(rest, extent) * step;
}

// The same for an axis of x that begins at index `before` and has `size` elements.
__device__ inline void padded(
    long long& rest, long long& at, bool& inside, int extent, long long step, int before, int size
) {
    const int i = take(rest, extent) - before;
    at += i * step;
    inside = inside && i >= 0 && i < size;
}

template <class T, class U>
__global__ void __launch_bounds__(THREADS) copy_kernel(
    const T* x,
    U* out,  // [rows, columns], contiguous
    long long rows, int columns,
    float value,                  // where x has none
    int step,                     // in x of the columns: 1, or 0 where x repeats
    int before, int size,         // where x begins, its columns
    int extent1, long long step1, int before1, int size1,  // of the next axis outwards
    int extent2, long long step2, int before2, int size2,
    int extent3, long long step3, int before3, int size3,
    int extent4, long long step4, int before4, int size4,
    int extent5, long long step5, int before5, int size5
) {
    constexpr int N = GROUP<T> < GROUP<U> ? GROUP<T> : GROUP<U>;
    const int groups = (columns + N - 1) / N;
    long long row = thread_number();
    const int column = take(row, groups) * N;
    if (row >= rows) return;
    const int count = min(columns - column, N), first = column - before;
    long long rest = row, at = 0;
    bool inside = true;
    padded(rest, at, inside, extent1, step1, before1, size1);
    padded(rest, at, inside, extent2, step2, before2, size2);
    padded(rest, at, inside, extent3, step3, before3, size3);
    padded(rest, at, inside, extent4, step4, before4, size4);
    padded(rest, at, inside, extent5, step5, before5, size5);
    float read[N];
    fill(read, value);
    if (inside && step == 1 && first >= 0 && first + count <= size) {
        load_group(read, x + at + first, count, on_vectors(x) && (at + first) % GROUP<T> == 0);
    } else if (inside) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const int i = first + j;
            if (j < count && i >= 0 && i < size)
                read[j] = widen(x[at + static_cast<long long>(i) * step]);
        }
    }
    store_group(out + row * columns + column, read, count, on_vectors(out, columns));
}

// A block has 32 columns and walks over the rows of its tile, 8 at a time.
template <class T>
__global__ void __launch_bounds__(THREADS) transpose_kernel(
    const T* x,  // [..., P, ..., Q]
    T* out,      // [..., Q, ..., P]
    int P, int Q,
    long long x_step,    // elements from one p to the next
    long long out_step,  // from one q to the next
    int extent1, long long x_step1, long long out_step1,  // of the other axes
    int extent2, long long x_step2, long long out_step2,
    int extent3, long long x_step3, long long out_step3,
    int extent4, long long x_step4, long long out_step4
) {
    SHARED(tile, T[SIDE][SIDE + 1]);
    const int lane = threadIdx.x % SIDE, row = threadIdx.x / SIDE;
    long long rest = blockIdx.x;
    const int q = take(rest, (Q + SIDE - 1) / SIDE) * SIDE;
    const int p = take(rest, (P + SIDE - 1) / SIDE) * SIDE;
    long long x_at = 0, out_at = 0, same = rest;
    along(rest, x_at, extent1, x_step1);
    along(rest, x_at, extent2, x_step2);
    along(rest, x_at, extent3, x_step3);
    along(rest, x_at, extent4, x_step4);
    along(same, out_at, extent1, out_step1);
    along(same, out_at, extent2, out_step2);
    along(same, out_at, extent3, out_step3);
    along(same, out_at, extent4, out_step4);
    for (int i = row; i < SIDE; i += THREADS / SIDE)
        if (p + i < P && q + lane < Q) tile[i][lane] = x[x_at + (p + i) * x_step + q + lane];
    __syncthreads();
    for (int i = row; i < SIDE; i += THREADS / SIDE)
        if (q + i < Q && p + lane < P) out[out_at + (q + i) * out_step + p + lane] = tile[lane][i];
}

// out[split, o] = the sum of one split of the terms. OUTPUTS of a block, lanes of THREADS / OUTPUTS
// threads each; NEIGHBOURS says what lies side by side in x: outputs, or the terms of one.
template <class T, class U, int OUTPUTS, bool NEIGHBOURS>
__global__ void __launch_bounds__(THREADS) reduce_sum_kernel(
    const T* x,
    U* out,  // [splits, outputs]
    long long outputs, long long terms, long long of_split,
    int extent1, long long step1,  // of the kept axes, the innermost first
    int extent2, long long step2,
    int extent3, long long step3,
    int summed1, long long stride1,  // of the axes that are summed
    int summed2, long long stride2,
    int summed3, long long stride3
) {
    constexpr int LANES = THREADS / OUTPUTS;
    SHARED(sums, float[LANES][OUTPUTS + 1]);
    const int place = NEIGHBOURS ? threadIdx.x % OUTPUTS : threadIdx.x / LANES;
    const int lane = NEIGHBOURS ? threadIdx.x / OUTPUTS : threadIdx.x % LANES;
    long long split = blockIdx.x;
    const long long blocks = (outputs + OUTPUTS - 1) / OUTPUTS;
    const long long o = split % blocks * OUTPUTS + place;
    split /= blocks;
    const long long end = min((split + 1) * of_split, terms);
    float total = 0.0f;
    if (o < outputs) {
        long long rest = o, base = 0;
        along(rest, base, extent1, step1);
        along(rest, base, extent2, step2);
        along(rest, base, extent3, step3);
        for (long long term = split * of_split + lane; term < end; term += LANES) {
            long long left = term, at = base;
            along(left, at, summed1, stride1);
            along(left, at, summed2, stride2);
            along(left, at, summed3, stride3);
            total += widen(x[at]);
        }
    }
    sums[lane][place] = total;
    __syncthreads();
    if (lane > 0 || o >= outputs) return;
    for (int other = 1; other < LANES; ++other) total += sums[other][place];
    out[split * outputs + o] = narrow<U>(total);
}
