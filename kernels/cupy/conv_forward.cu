// conv2d by tiled direct convolution (conv_direct.cuh), alone or with ReLU and 2x2 max pooling.
//
// Bias, residual and ReLU join while the sums are in registers, and the result is rounded once. For
// the pool a thread's 2 x 4 pixels are two whole windows: it keeps the first of the largest values,
// and the activation is never stored.
#include "conv_direct.cuh"

// The value to keep: the larger of best and v; the first of equals, and the first NaN, stays.
__device__ inline void later_if_larger(float& best, int& at, float v, int index) {
    if (v > best || (isnan(v) && !isnan(best))) {
        best = v;
        at = index;
    }
}

__device__ inline float relu_of(float v) { return v <= 0.0f ? 0.0f : v; }  // NaN is not <= 0

constexpr int DEAD = 4;  // the code of a window without a value above zero

template <class T, int WIDTH, int CHUNK, int FILTERS, int THREAD_ROWS, int THREAD_COLUMNS,
          bool POOL>
__global__ void __launch_bounds__(
    8 * THREAD_ROWS * THREAD_COLUMNS, RESIDENT_THREADS / (8 * THREAD_ROWS * THREAD_COLUMNS))
conv2d_kernel(
    const T* x,         // [N, H, W, C]
    const T* w,         // [K, R, S, C/groups]
    const float* b,     // [K] or null
    const T* residual,  // [N, P, Q, K] or null
    T* out,             // [N, P, Q, K]; with POOL [N, P/2, Q/2, K]
    signed char* code,  // with POOL [N, P/2, Q/2, K] or null
    int H, int W, int P, int Q,  // with POOL, P and Q are even: a last odd row is left out
    int C, int K, int R, int S,  // C and K of a group
    int groups, int x_lines, int x_line, int x_pitch, int residual_lines, int residual_line,
    int residual_pitch, int out_lines, int out_line, int out_pitch,  // the Grid of each
    int stride_h, int stride_w, int dilation_h, int dilation_w, int top, int left, int edge,
    int relu, int gap_h, int gap_w,
    int window_r, int window_s  // taps whose halo is in shared memory at once: all, or one
) {
    using B = Block<T, WIDTH, CHUNK, FILTERS, THREAD_ROWS, THREAD_COLUMNS>;
    DYNAMIC_SHARED(memory);
    const B block;
    // neighbouring blocks have the same pixels and other filters: they share them in the cache
    int rest = blockIdx.x;
    const auto digit = [&](int base) {
        const int value = rest % base;
        rest /= base;
        return value;
    };
    const int first_k = digit((K + B::BLOCK_FILTERS - 1) / B::BLOCK_FILTERS) * B::BLOCK_FILTERS;
    const int first_q = digit((Q + B::COLUMNS - 1) / B::COLUMNS) * B::COLUMNS;
    const int first_p = digit((P + B::ROWS - 1) / B::ROWS) * B::ROWS;
    const int group = digit(groups), n = rest;

    const Grid x_grid = {x_lines, x_line, x_pitch};
    const Image<T> image = {x + x_grid.place(n, 0, 0) + group * C, H, W, x_grid, C, edge != 0};
    const long long first_filter = (long long)group * K + first_k;
    const Filters<T> filters = {w + first_filter * R * S * C, K - first_k, C, R, S};
    float sums[B::PIXELS][B::FILTERS] = {};
    for (int r = 0; r < R; r += window_r)
        for (int s = 0; s < S; s += window_s) {
            const int h = first_p * stride_h - top + r * dilation_h;
            const int v = first_q * stride_w - left + s * dilation_w;
            const Axis rows = {h, stride_h, dilation_h, window_r, gap_h};
            const Axis columns = {v, stride_w, dilation_w, window_s, gap_w};
            correlate<B>(block, image, rows, columns, filters, r, s, memory, sums);
        }

    const Grid residual_grid = {residual_lines, residual_line, residual_pitch};
    const Grid out_grid = {out_lines, out_line, out_pitch};
#pragma unroll
    for (int j = 0; j < FILTERS; ++j) {
        if (first_k + block.lane + j * B::FILTER_LANES >= K) break;
        const long long k = first_filter + block.lane + j * B::FILTER_LANES;
        const float bias = b ? b[k] : 0.0f;
        if constexpr (POOL) {
#pragma unroll
            for (int i = 0; i < B::PATCH_COLUMNS; i += 2) {
                const int p = first_p + block.row, q = first_q + block.column + i;
                if (p >= P || q >= Q) continue;
                float best = sums[i][j] + bias;
                int at = 0;
                later_if_larger(best, at, sums[i + 1][j] + bias, 1);
                later_if_larger(best, at, sums[B::PATCH_COLUMNS + i][j] + bias, 2);
                later_if_larger(best, at, sums[B::PATCH_COLUMNS + i + 1][j] + bias, 3);
                const long long window = ((long long)n * (P / 2) + p / 2) * (Q / 2) + q / 2;
                if (code) code[window * groups * K + k] = best <= 0.0f ? DEAD : at;
                out[out_grid.place(n, p / 2, q / 2) + k] = narrow<T>(relu_of(best));
            }
        } else {
#pragma unroll
            for (int i = 0; i < B::PIXELS; ++i) {
                const int p = first_p + block.row + i / B::PATCH_COLUMNS;
                const int q = first_q + block.column + i % B::PATCH_COLUMNS;
                if (p >= P || q >= Q) continue;
                float value = sums[i][j] + bias;
                if (residual) value += widen(residual[residual_grid.place(n, p, q) + k]);
                out[out_grid.place(n, p, q) + k] = narrow<T>(relu ? relu_of(value) : value);
            }
        }
    }
}
