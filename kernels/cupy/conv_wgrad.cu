// The gradient of w: a product summed over pixels, of patches that are gathered when needed.
//
//     dw [K, R*S*C] = sum over pixels of  dy [pixels, K] transposed  @  patches [pixels, R*S*C]
//
// A block owns a tile of dw, BLOCK_FILTERS filters x BLOCK_TAPS taps (a tap is one (r, s, c)), and
// walks over its share of the pixels, PIXELS at a time. Each step needs
//
//     dy       [PIXELS, BLOCK_FILTERS]    neighbouring k lie side by side, in memory and here
//     patches  [PIXELS, BLOCK_TAPS]       neighbouring c likewise
//
// in shared memory, twice, so that the next step is copied while this one is multiplied. A thread
// keeps FILTERS x TAPS sums in registers: vectors of four, 32 filters or 64 taps apart, so that
// eight neighbouring threads read 128 bytes side by side and the others the same ones.
//
// dw is small and pixels are many: they are split among blocks, whose float32 sums are added from
// the first split to the last. Same inputs, same bits, without atomics.
#include "grid.cuh"

constexpr int PIXELS = 16;
constexpr int FILTER_THREADS = 8, TAP_THREADS = 16, THREADS = FILTER_THREADS * TAP_THREADS;

// A pixel of dy that moves on; n runs past the last image where the split does.
struct Pixel {
    int n, p, q, P, Q;

    __device__ Pixel(long long number, int P, int Q) : P(P), Q(Q) {
        q = number % Q;
        p = number / Q % P;
        n = number / Q / P;
    }
    __device__ void move(int by) {
        for (q += by; q >= Q; q -= Q)
            if (++p == P) p = 0, ++n;
    }
};

template <class T, int WIDTH, int FILTERS, int TAPS>
__global__ void __launch_bounds__(THREADS, 3) conv2d_wgrad_kernel(
    const T* x,   // [N, H, W, C]
    const T* dy,  // [N, P, Q, K]
    float* out,   // [splits, K, R, S, C/groups]
    int N, int H, int W, int P, int Q,
    int C, int K, int R, int S,  // C and K of a group
    int groups, int x_lines, int x_line, int x_pitch, int dy_lines, int dy_line, int dy_pitch,
    int stride_h, int stride_w, int dilation_h, int dilation_w, int top, int left, int edge,
    int steps  // of PIXELS pixels in a split
) {
    constexpr int BLOCK_FILTERS = FILTER_THREADS * FILTERS, BLOCK_TAPS = TAP_THREADS * TAPS;
    SHARED(dys, T[2][PIXELS][BLOCK_FILTERS]);
    SHARED(patches, T[2][PIXELS][BLOCK_TAPS]);
    const int taps = R * S * C;
    const int tap_blocks = (taps + BLOCK_TAPS - 1) / BLOCK_TAPS;
    const int filter_blocks = (K + BLOCK_FILTERS - 1) / BLOCK_FILTERS;
    const int first_tap = blockIdx.x % tap_blocks * BLOCK_TAPS;
    const int first_k = blockIdx.x / tap_blocks % filter_blocks * BLOCK_FILTERS;
    const int group = blockIdx.x / tap_blocks / filter_blocks % groups;
    const long long split = blockIdx.x / tap_blocks / filter_blocks / groups;
    const long long first_pixel = split * steps * PIXELS;

    // what this thread copies: always the same filters and taps, of every so many-th pixel
    constexpr int DY_COPIES = BLOCK_FILTERS / WIDTH, PATCH_COPIES = BLOCK_TAPS / WIDTH;
    // pixels of a pass; where more threads would have one, the last threads have none
    constexpr int DY_ROWS = THREADS / DY_COPIES < PIXELS ? THREADS / DY_COPIES : PIXELS;
    constexpr int PATCH_ROWS = THREADS / PATCH_COPIES < PIXELS ? THREADS / PATCH_COPIES : PIXELS;
    const int dy_k = threadIdx.x % DY_COPIES * WIDTH, dy_row = threadIdx.x / DY_COPIES;
    const int tap = threadIdx.x % PATCH_COPIES * WIDTH, tap_row = threadIdx.x / PATCH_COPIES;
    const bool k_inside = first_k + dy_k < K, tap_inside = first_tap + tap < taps;
    const int c = (first_tap + tap) % C, rs = (first_tap + tap) / C, r = rs / S, s = rs % S;
    const int down = r * dilation_h - top, right = s * dilation_w - left;
    x += group * C + c;
    dy += group * K + first_k + dy_k;
    const Grid x_grid = {x_lines, x_line, x_pitch}, dy_grid = {dy_lines, dy_line, dy_pitch};
    Pixel dy_pixel(first_pixel + dy_row, P, Q), pixel(first_pixel + tap_row, P, Q);

    const auto copy = [&](int step) {
        T(&to_dy)[PIXELS][BLOCK_FILTERS] = dys[step % 2];
        T(&to_patches)[PIXELS][BLOCK_TAPS] = patches[step % 2];
#pragma unroll
        for (int i = dy_row; i < PIXELS; i += DY_ROWS) {
            const bool inside = k_inside && dy_pixel.n < N;
            const long long at = dy_grid.place(dy_pixel.n, dy_pixel.p, dy_pixel.q);
            copy_or_zero<WIDTH>(&to_dy[i][dy_k], inside ? dy + at : dy, inside);
            dy_pixel.move(DY_ROWS);
        }
#pragma unroll
        for (int i = tap_row; i < PIXELS; i += PATCH_ROWS) {
            int h = pixel.p * stride_h + down, v = pixel.q * stride_w + right;
            bool inside = tap_inside && pixel.n < N;
            if (edge) {
                h = min(max(h, 0), H - 1);
                v = min(max(v, 0), W - 1);
            } else {
                inside = inside && h >= 0 && h < H && v >= 0 && v < W;
            }
            const long long at = x_grid.place(pixel.n, h, v);
            copy_or_zero<WIDTH>(&to_patches[i][tap], inside ? x + at : x, inside);
            pixel.move(PATCH_ROWS);
        }
        commit_copies();
    };

    const int filter = threadIdx.x % FILTER_THREADS * 4, own_tap = threadIdx.x / FILTER_THREADS * 4;
    float sums[FILTERS][TAPS] = {};
    copy(0);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        wait_for_copies<0>();
        __syncthreads();  // this step has arrived, and everybody has left the one before it
        if (step + 1 < steps) copy(step + 1);
#pragma unroll 4
        for (int i = 0; i < PIXELS; ++i) {
            float a[FILTERS / 4][4], b[TAPS / 4][4];
#pragma unroll
            for (int j = 0; j < FILTERS; j += 4)
                widen_four(a[j / 4], &dys[step % 2][i][filter + j * FILTER_THREADS]);
#pragma unroll
            for (int j = 0; j < TAPS; j += 4)
                widen_four(b[j / 4], &patches[step % 2][i][own_tap + j * TAP_THREADS]);
#pragma unroll
            for (int j = 0; j < FILTERS; ++j)
#pragma unroll
                for (int t = 0; t < TAPS; ++t)
                    sums[j][t] = fmaf(a[j / 4][j % 4], b[t / 4][t % 4], sums[j][t]);
        }
    }

    out += (split * groups + group) * K * taps;
#pragma unroll
    for (int j = 0; j < FILTERS; ++j) {
        const int k = first_k + filter + j / 4 * 4 * FILTER_THREADS + j % 4;
        if (k >= K) continue;
#pragma unroll
        for (int t = 0; t < TAPS; ++t) {
            const int at = first_tap + own_tap + t / 4 * 4 * TAP_THREADS + t % 4;
            if (at < taps) out[(long long)k * taps + at] = sums[j][t];
        }
    }
}
