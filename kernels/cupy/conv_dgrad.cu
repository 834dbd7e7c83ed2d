// The gradient of x: a tiled direct convolution of dy (conv_direct.cuh), by phases of the stride.
//
//     dx[n,h,v,c] = sum over r,s,k of  dy[n,p,q,k] * w[k,r,s,c]
//     with p = (h + top - r * dilation_h) / stride_h, where that is a whole number; q likewise
//
// Rows of equal (h + top) mod stride form a phase, and so do columns. Pixels of one phase meet the
// same taps, and neighbours in it read neighbouring pixels of dy: a phase is a convolution of dy
// with stride 1 whose taps come in reverse order. All phases are blocks of one launch. A phase that
// no tap meets (a 1x1 filter with stride 2 has three) is a sum of nothing: zeros.
//
// The ReLU mask and the bias gradient of the layer below join in the epilogue; each block leaves
// the sums of its pixels, and they are added in the order of the blocks.
#include "conv_direct.cuh"

// One axis of a phase: its pixels, and the taps that meet them.
struct Phase {
    int first, count;  // pixels of dx: first, first + stride, …
    int tap, taps;     // of the filter: tap, tap + every, …
    int every, step;   // taps from one to the next, and pixels of dy between them
    int dy_first;      // where the first pixel's last tap reads

    __device__ Phase(int a, int pad, int stride, int dilation, int common, int all_taps,
                     int extent) {
        every = stride / common;
        step = dilation / common;
        first = (a + stride * pad - pad) % stride;
        count = extent > first ? (extent - first + stride - 1) / stride : 0;
        tap = 0;
        while (tap < every && tap * dilation % stride != a) ++tap;
        taps = tap < every && tap < all_taps ? (all_taps - tap + every - 1) / every : 0;
        // the division is exact: that is what a phase is
        dy_first = taps ? (first + pad - tap * dilation) / stride - (taps - 1) * step : 0;
    }
};

// w [K, R, S, C] as the filters of the gradient: one for each channel c, whose channels are the k.
template <class T> struct Transposed {
    const T* w;  // the first channel of the block
    int count;   // channels c from there on
    int C, K, R, S;
    Phase rows, columns;

    template <class B>
    __device__ void copy(T* to, int r, int first_s, int s_count, int first_k) const {
        const int tap_r = rows.tap + (rows.taps - 1 - r) * rows.every;
#pragma unroll 1
        for (int i = threadIdx.x; i < s_count * B::CHUNK * B::BLOCK_FILTERS; i += B::THREADS) {
            // neighbouring threads read neighbouring c
            const int c = i % B::BLOCK_FILTERS, k = i / B::BLOCK_FILTERS % B::CHUNK;
            const int s = i / B::BLOCK_FILTERS / B::CHUNK;
            const int tap_s = columns.tap + (columns.taps - 1 - first_s - s) * columns.every;
            const bool inside = c < count && first_k + k < K;
            const long long at = (((long long)(first_k + k) * R + tap_r) * S + tap_s) * C + c;
            copy_or_zero<1>(to + (s * B::BLOCK_FILTERS + c) * B::PITCH + k, w + (inside ? at : 0),
                            inside);
        }
    }
};

template <class T, int WIDTH, int CHUNK, int FILTERS, int THREAD_ROWS, int THREAD_COLUMNS, class U>
__global__ void __launch_bounds__(
    8 * THREAD_ROWS * THREAD_COLUMNS, RESIDENT_THREADS / (8 * THREAD_ROWS * THREAD_COLUMNS))
conv2d_dgrad_kernel(
    const T* dy,    // [N, P, Q, K]
    const T* w,     // [K, R, S, C/groups]
    U* out,         // [N, H, W, C]
    const T* mask,  // [N, H, W, C] or null
    float* sums,    // [blocks of pixels, C] or null: the shares of db
    int H, int W, int P, int Q,
    int C, int K, int R, int S,  // C and K of a group
    int groups, int dy_lines, int dy_line, int dy_pitch, int mask_lines, int mask_line,
    int mask_pitch, int out_lines, int out_line, int out_pitch,  // the Grid of each
    int stride_h, int stride_w, int dilation_h, int dilation_w, int top, int left,
    int common_h, int common_w,  // greatest common divisors of stride and dilation
    int whole  // the halo serves all taps of a phase, not one at a time
) {
    using B = Block<T, WIDTH, CHUNK, FILTERS, THREAD_ROWS, THREAD_COLUMNS>;
    DYNAMIC_SHARED(memory);
    const B block;
    int rest = blockIdx.x;
    const auto digit = [&](int base) {
        const int value = rest % base;
        rest /= base;
        return value;
    };
    const int first_c = digit((C + B::BLOCK_FILTERS - 1) / B::BLOCK_FILTERS) * B::BLOCK_FILTERS;
    const int group = digit(groups), place = rest;  // of the shares of db
    const int largest_w = (W + stride_w - 1) / stride_w, largest_h = (H + stride_h - 1) / stride_h;
    const int first_column = digit((largest_w + B::COLUMNS - 1) / B::COLUMNS) * B::COLUMNS;
    const int first_row = digit((largest_h + B::ROWS - 1) / B::ROWS) * B::ROWS;
    const int phase_w = digit(stride_w), phase_h = digit(stride_h), n = rest;
    const Phase rows(phase_h, top, stride_h, dilation_h, common_h, R, H);
    const Phase columns(phase_w, left, stride_w, dilation_w, common_w, S, W);

    float total[B::PIXELS][B::FILTERS] = {};
    if (rows.taps && columns.taps && first_row < rows.count && first_column < columns.count) {
        const Grid dy_grid = {dy_lines, dy_line, dy_pitch};
        const Image<T> image = {dy + dy_grid.place(n, 0, 0) + group * K, P, Q, dy_grid, K, false};
        const long long first_filter = (long long)group * K * R * S * C;
        const Transposed<T> filters = {w + first_filter + first_c, C - first_c, C, K, R, S, rows,
                                       columns};
        const int window_r = whole ? rows.taps : 1, window_s = whole ? columns.taps : 1;
        for (int r = 0; r < rows.taps; r += window_r)
            for (int s = 0; s < columns.taps; s += window_s) {
                const int p = rows.dy_first + first_row + r * rows.step;
                const int q = columns.dy_first + first_column + s * columns.step;
                const Axis dy_rows = {p, 1, rows.step, window_r, 1};
                const Axis dy_columns = {q, 1, columns.step, window_s, 1};
                correlate<B>(block, image, dy_rows, dy_columns, filters, r, s, memory, total);
            }
    }

    const Grid mask_grid = {mask_lines, mask_line, mask_pitch};
    const Grid out_grid = {out_lines, out_line, out_pitch};
    float shares[B::FILTERS] = {};  // of db
#pragma unroll
    for (int j = 0; j < FILTERS; ++j) {
        if (first_c + block.lane + j * B::FILTER_LANES >= C) break;
        const long long c = (long long)group * C + first_c + block.lane + j * B::FILTER_LANES;
#pragma unroll
        for (int i = 0; i < B::PIXELS; ++i) {
            const int row = first_row + block.row + i / B::PATCH_COLUMNS;
            const int column = first_column + block.column + i % B::PATCH_COLUMNS;
            if (row >= rows.count || column >= columns.count) continue;
            const int h = rows.first + row * stride_h, v = columns.first + column * stride_w;
            float value = total[i][j];
            // a NaN is not <= 0
            if (mask && widen(mask[mask_grid.place(n, h, v) + c]) <= 0.0f) value = 0.0f;
            shares[j] += value;
            out[out_grid.place(n, h, v) + c] = narrow<U>(value);
        }
    }
    if (sums) {
        float* const share = sums + (long long)place * groups * C + group * C + first_c;
        add_patches<B>(block, shares, share, C - first_c);
    }
}

// out [N, H, W, C] from the gradient of its edge-padded form, a block for 64 pixels x 32 channels:
// for each pixel the sum, row by row, of the padded pixels that repeat it.
constexpr int FOLD_PIXELS = 64, FOLD_CHANNELS = 32, FOLD_ROWS = 8;

template <class T>
__global__ void __launch_bounds__(FOLD_ROWS * FOLD_CHANNELS) fold_kernel(
    const float* padded,  // [N, top + H + bottom, left + W + right, C]
    T* out,               // [N, H, W, C]
    const T* mask,        // [N, H, W, C] or null
    float* sums,          // [blocks of pixels, C] or null: the shares of db
    long long pixels, int H, int W, int C, int mask_lines, int mask_line, int mask_pitch,
    int out_lines, int out_line, int out_pitch,  // the Grid of each
    int top, int bottom, int left, int right
) {
    SHARED(shares, float[FOLD_ROWS][FOLD_CHANNELS]);
    const int blocks = (C + FOLD_CHANNELS - 1) / FOLD_CHANNELS;
    const int lane = threadIdx.x % FOLD_CHANNELS, row = threadIdx.x / FOLD_CHANNELS;
    const int c = blockIdx.x % blocks * FOLD_CHANNELS + lane;
    const long long place = blockIdx.x / blocks;
    const Grid mask_grid = {mask_lines, mask_line, mask_pitch};
    const Grid out_grid = {out_lines, out_line, out_pitch};
    const Grid padded_grid = {top + H + bottom, left + W + right, C};
    float share = 0.0f;
    for (int i = row; i < FOLD_PIXELS && c < C; i += FOLD_ROWS) {
        const long long pixel = place * FOLD_PIXELS + i;
        if (pixel >= pixels) break;
        const int v = pixel % W, h = pixel / W % H;
        const int n = pixel / W / H;
        // of a border pixel: the padding beside it, too
        const int first_h = h == 0 ? 0 : top + h, last_h = h == H - 1 ? top + h + bottom : top + h;
        const int first_v = v == 0 ? 0 : left + v;
        const int last_v = v == W - 1 ? left + v + right : left + v;
        float value = 0.0f;
        for (int y = first_h; y <= last_h; ++y)
            for (int x = first_v; x <= last_v; ++x)
                value += padded[padded_grid.place(n, y, x) + c];
        if (mask && widen(mask[mask_grid.place(n, h, v) + c]) <= 0.0f) value = 0.0f;
        share += value;
        out[out_grid.place(n, h, v) + c] = narrow<T>(value);
    }
    if (!sums) return;
    shares[row][lane] = share;
    __syncthreads();
    if (row > 0 || c >= C) return;
    for (int other = 1; other < FOLD_ROWS; ++other) share += shares[other][lane];
    sums[place * C + c] = share;
}
