// Backward of the fused convolution, ReLU and 2x2 max pool: dy goes to the pixel of the code.
//
// A thread walks over windows and, for its group of channels, reads the pooled gradient and the
// code once and writes all four pixels: 0 to 3 is the pixel in row-major order, 4 (dead) is none of
// them. An odd last row or column of out counts as windows without gradient, so that every pixel is
// written once. The bias gradient is summed on the way: over the pixels of a window it is the
// gradient of its one pixel.
#include "grid.cuh"
#include "reduce.cuh"

template <class T>
__global__ void __launch_bounds__(THREADS) unpool_kernel(
    const T* dy,              // [N, P/2, Q/2, K]
    const signed char* code,  // [N, P/2, Q/2, K], contiguous
    T* out,                   // [N, P, Q, K]
    float* sums,              // [splits, K] or null: the shares of db
    long long windows,        // N * ceil(P/2) * ceil(Q/2)
    int K, int P, int Q, int dy_lines, int dy_line, int dy_pitch, int out_lines, int out_line,
    int out_pitch,  // the Grid of both
    long long windows_of_split
) {
    const Strip strip = strip_of_thread<T>(windows, K, windows_of_split);
    const Grid dy_grid = {dy_lines, dy_line, dy_pitch};
    const Grid out_grid = {out_lines, out_line, out_pitch};
    const bool dy_vectors = on_vectors(dy, dy_pitch), out_vectors = on_vectors(out, out_pitch);
    const bool code_vectors = codes_on_vectors<GROUP<T>>(code, K);
    float total[GROUP<T>];
    fill(total, 0.0f);
    for (long long m = strip.first; m < strip.end; m += strip.step) {
        const Pixel window = pixel_at(m, (P + 1) / 2, (Q + 1) / 2);
        float gradient[GROUP<T>];
        int named[GROUP<T>];
        const bool pooled = window.h < P / 2 && window.w < Q / 2;
        const int count = pooled ? strip.count : 0;  // of none, all are 0
        const long long from = (window.n * (P / 2) + window.h) * (Q / 2) + window.w;
        const T* at = dy + dy_grid.place(window.n, window.h, window.w) + strip.channel;
        load_group(gradient, at, count, dy_vectors);
        load_codes(named, code + from * K + strip.channel, count, code_vectors);
#pragma unroll
        for (int pixel = 0; pixel < 4; ++pixel) {
            const int p = 2 * window.h + pixel / 2, q = 2 * window.w + pixel % 2;
            float share[GROUP<T>];
#pragma unroll
            for (int j = 0; j < GROUP<T>; ++j) {
                share[j] = named[j] == pixel ? gradient[j] : 0.0f;
                total[j] += share[j];
            }
            if (p >= P || q >= Q) continue;
            T* to = out + out_grid.place(window.n, p, q) + strip.channel;
            store_group(to, share, strip.count, out_vectors);
        }
    }
    if (!sums) return;
    sum_rows(total, strip.lanes);
    if (!strip.writes) return;
    float* to = sums + strip.split * K + strip.channel;
    store_group(to, total, strip.count, on_vectors(sums, K));
}
