// Gradient with respect to x on tensor cores: a gather of dy, phase by phase of the stride, in one
// launch.
//
//     dx[n,h,v,c] = sum over r,s,k of dy[n,p,q,k] * w[k,r,s,c]
//     with p = (h + top - r * dilation_h) / stride_h, where that is a whole number; q likewise
//
// Rows of equal (h + top) mod stride form a phase, and so do columns; the pixels of a phase meet
// the same taps, so each phase is a product of its own without a multiplication in vain (the
// strided dgrad of CUTLASS's implicit_gemm_convolution.md):
//
//     dx [pixels of the phase, channels] = dy [pixels, (i, j, k)] @ w [(i, j, k), channels]
//
// where (i, j) counts the taps that the phase meets. A phase that no tap meets is zeros. The ReLU
// mask and the bias gradient of the layer below are the epilogue's: each tile leaves the sums of
// its columns in the workspace, to be added in the order of the tiles.
#include "conv_mma_load.cuh"
#include "conv_mma_store.cuh"

// One axis of a phase: its pixels are first, first + stride, ...; its taps first_tap,
// first_tap + every, ...
struct Phase { int first, count, first_tap, taps; };

__device__ inline Phase phase_of(int number, int pad, int stride, int dilation, int every,
                                 int filter, int extent) {
    Phase phase = {};
    phase.first = (number + stride * pad - pad) % stride;
    phase.count = max((extent - phase.first + stride - 1) / stride, 0);
    for (int r = 0; r < min(every, filter); ++r)
        if (r * dilation % stride == number) {
            phase.first_tap = r;
            phase.taps = (filter - r + every - 1) / every;
        }
    return phase;
}

template <class T, class Out, class Tile, int PARTS, bool WIDE>
__global__ void __launch_bounds__(Tile::THREADS, sizeof(T) == 2 ? Tile::BLOCKS : 1)
conv2d_dgrad_mma_kernel(
    const T* dy,      // [N, P, Q, groups * K]
    const T* w,       // [groups * K, R, S, C]
    Out* out,         // [N, H, W, groups * C]
    const T* mask,    // like out, or null
    float* sums_out,  // [phases * row_tiles, groups * C] or null: the shares of db
    int N, int H, int W, int P, int Q, int C, int K, int R, int S,  // C and K are those of a group
    int stride_h, int stride_w, int dilation_h, int dilation_w,
    int every_h, int every_w,  // stride / its greatest common divisor with the dilation
    int step_h, int step_w,    // dilation / the same: from such a tap to the next, in dy
    int top, int left, int dy_lines, int dy_line, int dy_pitch, int mask_lines, int mask_line,
    int mask_pitch, int out_lines, int out_line, int out_pitch,  // the Grid of each
    int groups,
    int row_tiles,    // of the largest phase
    int wide, int group_rows) {
    DYNAMIC_SHARED(shared);
    using A = Operand<T, Tile::ROWS, Tile::DEPTH, true>;
    using B = Operand<T, Tile::COLUMNS, Tile::DEPTH, false>;
    const int column_tiles = (C + Tile::COLUMNS - 1) / Tile::COLUMNS;
    const int tiles = row_tiles * column_tiles;
    const int number = blockIdx.x / tiles % (stride_h * stride_w);
    const int group = blockIdx.x / tiles / (stride_h * stride_w);
    const Place tile = place_of_block(blockIdx.x % tiles, row_tiles, column_tiles, group_rows);
    SHARED(phase, Phase[2]);  // down and across, looked up again after the main loop
    if (threadIdx.x == 0) {
        const int a = number / stride_w, b = number % stride_w;
        phase[0] = phase_of(a, top, stride_h, dilation_h, every_h, R, H);
        phase[1] = phase_of(b, left, stride_w, dilation_w, every_w, S, W);
    }
    __syncthreads();
    const Phase &down = phase[0], &across = phase[1];
    const int count = N * down.count * across.count;  // pixels of the phase
    const int first_pixel = tile.row * Tile::ROWS, first_c = tile.column * Tile::COLUMNS;
    const int padded = whole(K, Tile::DEPTH);  // so that a step of the depth has one tap
    const auto pixel_of = [&](int number) {  // (n, h, v) of a pixel of the phase
        const Digits at = Digits::of(number, max(down.count, 1), max(across.count, 1));
        return Corner{at.high, down.first + at.middle * stride_h, across.first + at.low * stride_w};
    };
    const Images<T> images = {dy + group * K, P, Q, K, {dy_lines, dy_line, dy_pitch}};
    const Taps taps = {down.taps, max(across.taps, 1), -step_h, -step_w};
    using PixelLoader = Pixels<A, Tile::THREADS, false, WIDE>;
    PixelLoader pixels(images, taps, padded, Tile::DEPTH, [&](int line) {
        const Corner at = pixel_of(min(first_pixel + line, max(count - 1, 0)));
        return Corner{at.n, (at.h + top - down.first_tap * dilation_h) / stride_h,
                      (at.w + left - across.first_tap * dilation_w) / stride_w};
    });
    const PhaseTaps order = {down.taps, down.first_tap, across.first_tap, every_h, every_w};
    FiltersAcross<B, Tile::THREADS, WIDE, PixelLoader> filters(
        w + (long long)group * K * R * S * C, order, K, R, S, C, first_c, pixels);
    const int steps = down.taps * across.taps * (padded / Tile::DEPTH);
    typename Tile::Sums sums;
    multiply<Tile, PARTS>(sums, pixels, filters, first_pixel < count ? steps : 0, shared);

    const float* const staged = stage<Tile>(sums, shared);
    using Mine = Rows<T, Tile>;
    constexpr int VECTOR = Mine::VECTOR;
    const Mine mine;
    const int valid = C - first_c - mine.column;  // columns, from this thread's first on
    const int c = group * C + first_c + mine.column;
    const Grid mask_grid = {mask_lines, mask_line, mask_pitch};
    const Grid out_grid = {out_lines, out_line, out_pitch};
    Values<VECTOR> share = {};
    for (int row = mine.row; row < Tile::ROWS && valid > 0; row += Mine::SPACING) {
        if (first_pixel + row >= count) break;
        const Corner at = pixel_of(first_pixel + row);
        auto value = staged_values<VECTOR>(staged + row * Tile::STAGED_PITCH + mine.column);
        if (mask) {
            const long long place = mask_grid.place(at.n, at.h, at.w);
            const auto gate = load_chunk<VECTOR>(mask + (place + c), valid, wide);
#pragma unroll
            for (int e = 0; e < VECTOR; ++e)
                if (gate.at[e] <= 0.0f) value.at[e] = 0.0f;  // a NaN passes
        }
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) share.at[e] += value.at[e];
        store_chunk(out + (out_grid.place(at.n, at.h, at.w) + c), value, valid, wide);
    }
    if (!sums_out) return;
    float* const shares = reinterpret_cast<float*>(shared);  // [Mine::SPACING, COLUMNS]
    __syncthreads();  // the staged sums have been read
#pragma unroll
    for (int e = 0; e < VECTOR; ++e)
        shares[mine.row * Tile::COLUMNS + mine.column + e] = share.at[e];
    __syncthreads();
    const long long place = (long long)number * row_tiles + tile.row;
    for (int j = threadIdx.x; j < Tile::COLUMNS && first_c + j < C; j += Tile::THREADS) {
        float total = 0.0f;
        for (int i = 0; i < Mine::SPACING; ++i) total += shares[i * Tile::COLUMNS + j];
        sums_out[place * (groups * C) + group * C + first_c + j] = total;
    }
}
