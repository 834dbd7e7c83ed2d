// Forward convolution on tensor cores, alone or with ReLU and 2x2 max pooling ("implicit GEMM"):
//
//     out [pixels, filters] = patches of x [pixels, (r, s, c)] @ w [(r, s, c), filters]
//
// A block forms one tile of it with the main loop of conv_mma.cuh; no patch is ever stored. Bias,
// residual and ReLU follow while the sums are in shared memory.
//
// For the fused pool pixels are numbered window by window, four numbers in a row, so that a window
// never falls into two tiles; only the largest of the four and its place leave the block.
#include "conv_mma_load.cuh"
#include "conv_mma_store.cuh"

constexpr signed char DEAD = 4;  // the code of a window whose maximum is <= 0: kernels.spec.DEAD

// The larger of two values and its place; the first of equals, and the first NaN, stays.
__device__ inline void later_if_larger(float& best, int& at, float value, int place) {
    const bool later = value > best || (value != value && best == best);
    best = later ? value : best;
    at = later ? place : at;
}

// PARTS: TF32 numbers for each float32 factor. WIDE: 16-byte loads; `wide`: 16-byte stores.
template <class T, class Tile, int PARTS, bool EDGE, bool POOL, bool WIDE>
__global__ void __launch_bounds__(Tile::THREADS, PARTS == 1 ? Tile::BLOCKS : 1)
conv2d_mma_kernel(
    const T* x,          // [N, H, W, groups * C]
    const T* w,          // [groups * K, R, S, C]
    const float* b,      // [groups * K] or null
    const T* residual,   // like out, or null
    T* out,              // [N, P, Q, groups * K]; POOL: P and Q count windows
    signed char* code,   // like out, contiguous, or null
    int outputs,         // N * P * Q
    int H, int W, int P, int Q, int C, int K, int R, int S,  // C and K are those of a group
    int stride_h, int stride_w, int dilation_h, int dilation_w, int top, int left,
    int x_lines, int x_line, int x_pitch, int residual_lines, int residual_line,
    int residual_pitch, int out_lines, int out_line, int out_pitch,  // the Grid of each
    int groups, int relu, int wide, int group_rows) {
    DYNAMIC_SHARED(shared);
    using A = Operand<T, Tile::ROWS, Tile::DEPTH, true>;
    using B = Operand<T, Tile::COLUMNS, Tile::DEPTH, true>;
    constexpr int EACH = POOL ? 4 : 1;  // rows of the tile for an output
    const int row_tiles = (outputs * EACH + Tile::ROWS - 1) / Tile::ROWS;
    const int column_tiles = (K + Tile::COLUMNS - 1) / Tile::COLUMNS;
    const int group = blockIdx.x / (row_tiles * column_tiles);
    const Place tile = place_of_block(blockIdx.x % (row_tiles * column_tiles), row_tiles,
                                      column_tiles, group_rows);
    const int first_output = tile.row * (Tile::ROWS / EACH), first_k = tile.column * Tile::COLUMNS;
    const Images<T> images = {x + group * C, H, W, C, {x_lines, x_line, x_pitch}};
    const Taps taps = {R, S, dilation_h, dilation_w};
    const int padded = whole(C, A::VECTOR);
    Pixels<A, Tile::THREADS, EDGE, WIDE> pixels(images, taps, padded, Tile::DEPTH, [&](int line) {
        const int output = min(first_output + line / EACH, outputs - 1);  // the last is repeated
        const Digits at = Digits::of(output, P, Q);
        const int p = POOL ? at.middle * 2 + line % 4 / 2 : at.middle;
        const int q = POOL ? at.low * 2 + line % 2 : at.low;
        return Corner{at.high, p * stride_h - top, q * stride_w - left};
    });
    Filters<B, Tile::THREADS, WIDE> filters(w + (long long)group * K * R * S * C, K, R * S, C,
                                            first_k, Tile::DEPTH);
    const int steps = (R * S * padded + Tile::DEPTH - 1) / Tile::DEPTH;
    typename Tile::Sums sums;
    multiply<Tile, PARTS>(sums, pixels, filters, steps, shared);

    const float* const staged = stage<Tile>(sums, shared);
    using Mine = Rows<T, Tile>;
    constexpr int VECTOR = Mine::VECTOR;
    const Mine mine;
    const int valid = K - first_k - mine.column;  // columns, from this thread's first on
    if (valid <= 0) return;
    const int k = group * K + first_k + mine.column;
    Values<VECTOR> bias = {};
    if (b) bias = load_chunk<VECTOR>(b + k, valid, wide);
    const Grid residual_grid = {residual_lines, residual_line, residual_pitch};
    const Grid out_grid = {out_lines, out_line, out_pitch};
    const Digits step = Digits::of(Mine::SPACING, P, Q);
    Digits at = Digits::of(first_output + mine.row, P, Q);
    for (int row = mine.row; row < Tile::ROWS / EACH; row += Mine::SPACING, at.add(step, P, Q)) {
        const long long output = first_output + row;
        if (output >= outputs) return;
        const float* const from = staged + row * EACH * Tile::STAGED_PITCH + mine.column;
        Values<VECTOR> value = staged_values<VECTOR>(from);
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) value.at[e] += bias.at[e];
        if constexpr (POOL) {
            int largest[VECTOR] = {};
#pragma unroll
            for (int place = 1; place < 4; ++place) {
                const auto next = staged_values<VECTOR>(from + place * Tile::STAGED_PITCH);
#pragma unroll
                for (int e = 0; e < VECTOR; ++e)
                    later_if_larger(value.at[e], largest[e], next.at[e] + bias.at[e], place);
            }
            Vector<signed char, VECTOR> codes;
#pragma unroll
            for (int e = 0; e < VECTOR; ++e) {
                const bool dead = value.at[e] <= 0.0f;  // a NaN is not
                value.at[e] = dead ? 0.0f : value.at[e];
                codes.at[e] = dead ? DEAD : largest[e];
            }
            if (code) {
                signed char* const to = code + (output * (groups * K) + k);
                if (wide && valid >= VECTOR) {
                    store<VECTOR>(to, codes);
                } else {
#pragma unroll
                    for (int e = 0; e < VECTOR; ++e)
                        if (e < valid) to[e] = codes.at[e];
                }
            }
        } else {
            Values<VECTOR> more = {};
            if (residual) {
                const long long place = residual_grid.place(at.high, at.middle, at.low);
                more = load_chunk<VECTOR>(residual + (place + k), valid, wide);
            }
#pragma unroll
            for (int e = 0; e < VECTOR; ++e) {
                value.at[e] += more.at[e];
                if (relu && value.at[e] < 0.0f) value.at[e] = 0.0f;  // a NaN is not
            }
        }
        const long long place = out_grid.place(at.high, at.middle, at.low);
        store_chunk(out + (place + k), value, valid, wide);
    }
}
