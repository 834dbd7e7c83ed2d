// One tiled matrix product for all three uses of a dense layer:
//
//     dense        out[N, K] = x w^T     rows n, columns k, depth c
//     dense_dgrad  out[N, C] = dy w      rows n, columns c, depth k
//     dense_wgrad  out[K, C] = dy^T x    rows k, columns c, depth n
//
// A block makes a TILE x TILE tile of out and walks along the depth in steps of DEPTH. In each step
// it needs DEPTH numbers of TILE rows of a and of TILE columns of b ("lines" below). These lie in
// shared memory as two panels [DEPTH][TILE], whichever way they lie in global memory, and every
// number is used for TILE sums. A thread keeps EACH x EACH sums in registers, which are made from
// EACH + EACH numbers of the panels: the larger EACH, the fewer reads a multiplication. The panels
// are doubled: while one pair is multiplied, the numbers of the next are already on their way.
//
// A long depth with few tiles is split; every split writes its sums to `parts`, and a second kernel
// adds them in order. Products and sums are float32 (no tensor cores), for 16-bit types too.
#include "group.cuh"

constexpr int SIDE = 16;  // the threads of a block stand in a square of this side
constexpr int RUN = 4;    // neighbouring sums: a thread has EACH / RUN runs of them, far apart
constexpr int PANEL = THREADS * RUN;  // numbers: each thread brings RUN neighbours

template <int TILE> constexpr int DEPTH = PANEL / TILE;

template <int TILE> struct alignas(16) Panel {
    float at[DEPTH<TILE>][TILE + RUN];  // RUN more, so that a line lies in several banks
};

// One operand, contiguous: [lines, depth] if ALONG (the numbers of a line are neighbours), else
// [depth, lines].
template <class T, bool ALONG> struct Operand {
    const T* from;
    int lines;
    int depth;

    __device__ int pitch() const { return ALONG ? depth : lines; }
};

// The RUN numbers of the next panel that one thread carries in registers.
template <class T, bool ALONG, int TILE> struct Carried {
    static constexpr int IN_ROW = (ALONG ? DEPTH<TILE> : TILE) / RUN;  // runs of neighbours
    Vector<T, RUN> value;  // as stored: to widen it when it is fetched would be to wait for it

    // Where in the panel they go.
    __device__ static int line() {
        return ALONG ? threadIdx.x / IN_ROW : threadIdx.x % IN_ROW * RUN;
    }
    __device__ static int depth() {
        return ALONG ? threadIdx.x % IN_ROW * RUN : threadIdx.x / IN_ROW;
    }

    // Fetches from the panel of line `first` and depth `start`; 0 behind the ends.
    __device__ void fetch(const Operand<T, ALONG>& operand, int first, int start, int end) {
        const int l = first + line(), d = start + depth();
        const bool here = l < operand.lines && d < end;
        const int count = here ? (ALONG ? end - d : operand.lines - l) : 0;
        const long long pitch = operand.pitch();
        const T* from = operand.from + (ALONG ? l * pitch + d : d * pitch + l);
        value = ::fetch<RUN>(from, count, on_vectors(operand.from, pitch));
    }

    __device__ void put(Panel<TILE>& panel) const {
#pragma unroll
        for (int j = 0; j < RUN; ++j)
            panel.at[depth() + (ALONG ? j : 0)][line() + (ALONG ? 0 : j)] = widen(value.at[j]);
    }
};

// Bias, ReLU and mask (each may be missing), on N neighbouring sums at (row, column) of out.
template <class U, int N>
__device__ inline void finish(
    float (&sum)[N], int count, const float* bias, const U* mask, long long at, int column, int relu
) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
        if (j >= count) break;
        if (bias) sum[j] += bias[column + j];
        if (relu && sum[j] <= 0.0f) sum[j] = 0.0f;  // NaN is not <= 0
        if (mask && widen(mask[at + j]) <= 0.0f) sum[j] = 0.0f;
    }
}

template <class T, class U, bool A_ALONG, bool B_ALONG, int TILE>
__global__ void __launch_bounds__(THREADS, TILE > 64 ? 1 : 3) product_kernel(
    const T* a,              // [rows, depth], or [depth, rows] without A_ALONG
    const T* b,              // [columns, depth], or [depth, columns] without B_ALONG
    const float* bias,       // [columns] or null
    const U* mask,           // like out, or null: out is 0 where it is <= 0
    float* parts,            // [splits, rows, columns] or null: written in place of out
    U* out,                  // [rows, columns]
    int rows, int columns, int depth,
    int depth_of_split,      // a multiple of DEPTH<TILE>
    int relu
) {
    constexpr int EACH = TILE / SIDE, RUNS = EACH / RUN;
    SHARED(a_panels, Panel<TILE>[2]);
    SHARED(b_panels, Panel<TILE>[2]);
    const Operand<T, A_ALONG> a_side = {a, rows, depth};
    const Operand<T, B_ALONG> b_side = {b, columns, depth};
    const int high = (rows + TILE - 1) / TILE, broad = (columns + TILE - 1) / TILE;
    const int split = blockIdx.x / (high * broad), tile = blockIdx.x % (high * broad);
    const int first_row = tile % high * TILE, first_column = tile / high * TILE;
    const int start = split * depth_of_split, end = min(start + depth_of_split, depth);
    const int y = threadIdx.x / SIDE, x = threadIdx.x % SIDE;

    float sum[EACH][EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) fill(sum[i], 0.0f);
    Carried<T, A_ALONG, TILE> a_next;
    Carried<T, B_ALONG, TILE> b_next;
    a_next.fetch(a_side, first_row, start, end);
    b_next.fetch(b_side, first_column, start, end);
    a_next.put(a_panels[0]);
    b_next.put(b_panels[0]);
    __syncthreads();
    int now = 0;  // the panels that are multiplied
    for (int k = start; k < end; k += DEPTH<TILE>) {
        const bool more = k + DEPTH<TILE> < end;
        if (more) {
            a_next.fetch(a_side, first_row, k + DEPTH<TILE>, end);
            b_next.fetch(b_side, first_column, k + DEPTH<TILE>, end);
        }
#pragma unroll
        for (int d = 0; d < DEPTH<TILE>; ++d) {
            Vector<float, RUN> left[RUNS];
#pragma unroll
            for (int run = 0; run < RUNS; ++run)
                left[run] = load<RUN>(&a_panels[now].at[d][(run * SIDE + y) * RUN]);
#pragma unroll
            for (int run = 0; run < RUNS; ++run) {
                const auto right = load<RUN>(&b_panels[now].at[d][(run * SIDE + x) * RUN]);
#pragma unroll
                for (int i = 0; i < EACH; ++i)
#pragma unroll
                    for (int j = 0; j < RUN; ++j)
                        sum[i][run * RUN + j] += left[i / RUN].at[i % RUN] * right.at[j];
            }
        }
        now = 1 - now;
        if (more) {
            a_next.put(a_panels[now]);
            b_next.put(b_panels[now]);
        }
        __syncthreads();
    }

    const long long elements = static_cast<long long>(rows) * columns;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int row = first_row + (i / RUN * SIDE + y) * RUN + i % RUN;
        if (row >= rows) continue;
#pragma unroll
        for (int run = 0; run < RUNS; ++run) {
            const int column = first_column + (run * SIDE + x) * RUN, count = columns - column;
            const long long at = static_cast<long long>(row) * columns + column;
            float values[RUN];
#pragma unroll
            for (int j = 0; j < RUN; ++j) values[j] = sum[i][run * RUN + j];
            if (parts) {
                store_group(parts + split * elements + at, values, count,
                            on_vectors(parts, columns));
            } else {
                finish(values, count, bias, mask, at, column, relu);
                store_group(out + at, values, count, on_vectors(out, columns));
            }
        }
    }
}

// Adds the splits in order, then bias, ReLU and mask as above; a thread takes RUN of a row.
template <class U>
__global__ void __launch_bounds__(THREADS) finish_product_kernel(
    const float* parts,  // [splits, rows, columns]
    const float* bias,   // [columns] or null
    const U* mask,       // like out, or null
    U* out,              // [rows, columns]
    int rows, int columns, int splits, int relu
) {
    long long row = thread_number();
    const int column = take(row, (columns + RUN - 1) / RUN) * RUN, count = columns - column;
    if (row >= rows) return;
    const long long at = row * columns + column, elements = static_cast<long long>(rows) * columns;
    const bool vectors = on_vectors(parts, columns);
    float total[RUN];
    fill(total, 0.0f);
    for (int split = 0; split < splits; ++split) {
        float value[RUN];
        load_group(value, parts + split * elements + at, count, vectors);
#pragma unroll
        for (int j = 0; j < RUN; ++j) total[j] += value[j];
    }
    finish(total, count, bias, mask, at, column, relu);
    store_group(out + at, total, count, on_vectors(out, columns));
}
