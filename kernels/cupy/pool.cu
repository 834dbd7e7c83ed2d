// Max pooling: a thread takes one group of channels (see group.cuh) of one pixel of its output.
//
// A 2x2 pool reads four numbers and writes one and a byte of code, where a 64-bit index would
// double the traffic. The gradient gathers: an input pixel asks the few windows that can cover it,
// in a fixed order, whether their code names it; nothing is added by atomics or zeroed before.
//
// Along one axis, window p starts at p*stride - before, and its tap r lies r*dilation further. The
// last window over pixel h is (h + before) / stride; at most ceil(reach / stride) windows, counting
// down from it, cover h.
#include "group.cuh"

// SIDE is that of a square window, which is fetched before it is compared; 0: R x S, tap by tap.
template <class T, int SIDE>
__global__ void __launch_bounds__(THREADS) max_pool2d_kernel(
    const T* x,         // [N, H, W, C], x_pitch elements from pixel to pixel
    T* out,             // [N, P, Q, C], out_pitch
    signed char* code,  // [N, P, Q, C], contiguous, or null
    long long pixels,   // N*P*Q
    int channels, int H, int W, int P, int Q, long long x_pitch, long long out_pitch,
    int R, int S, int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w
) {
    constexpr int AT_ONCE = SIDE ? SIDE * SIDE : 1;
    const int rows = SIDE ? SIDE : R, columns = SIDE ? SIDE : S;
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    const Pixel window = pixel_at(here.pixel, P, Q);
    const bool vectors = on_vectors(x, x_pitch);
    float best[GROUP<T>];
    int found[GROUP<T>];  // the tap of `best`
    fill(best, 0.0f);
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) found[j] = -1;  // no tap yet
    for (int first = 0; first < rows * columns; first += AT_ONCE) {
        Vector<T, GROUP<T>> values[AT_ONCE];
        bool inside[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int r = (first + i) / columns, s = (first + i) % columns;
            const int h = window.h * stride_h - top + r * dilation_h;
            const int w = window.w * stride_w - left + s * dilation_w;
            inside[i] = h >= 0 && h < H && w >= 0 && w < W;
            const T* from = x + ((window.n * H + h) * W + w) * x_pitch + here.channel;
            values[i] = fetch<GROUP<T>>(from, inside[i] ? here.count : 0, vectors);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (!inside[i]) continue;
#pragma unroll
            for (int j = 0; j < GROUP<T>; ++j) {
                const float value = widen(values[i].at[j]);
                const bool first_nan = value != value && best[j] == best[j];
                if (found[j] < 0 || value > best[j] || first_nan) {
                    best[j] = value;
                    found[j] = first + i;
                }
            }
        }
    }
    T* to = out + here.pixel * out_pitch + here.channel;
    store_group(to, best, here.count, on_vectors(out, out_pitch));
    if (code) {
        signed char* code_to = code + here.pixel * channels + here.channel;
        store_codes(code_to, found, here.count, codes_on_vectors<GROUP<T>>(code, channels));
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS) max_pool2d_backward_kernel(
    const T* dy,              // [N, P, Q, C], dy_pitch
    const signed char* code,  // [N, P, Q, C], contiguous
    T* out,                   // dx [N, H, W, C], out_pitch
    long long pixels,         // N*H*W
    int channels, int H, int W, int P, int Q, long long dy_pitch, long long out_pitch,
    int R, int S, int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w
) {
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    const Pixel pixel = pixel_at(here.pixel, H, W);
    const int h = pixel.h + top, w = pixel.w + left;  // counted from the padding's first pixel
    const bool vectors = on_vectors(dy, dy_pitch);
    const bool code_vectors = codes_on_vectors<GROUP<T>>(code, channels);
    float total[GROUP<T>];
    fill(total, 0.0f);
    for (int p = h / stride_h; p >= 0 && h - p * stride_h <= (R - 1) * dilation_h; --p) {
        const int below = h - p * stride_h;  // rows from the window's first to this one
        if (p >= P || below % dilation_h != 0) continue;
        for (int q = w / stride_w; q >= 0 && w - q * stride_w <= (S - 1) * dilation_w; --q) {
            const int beside = w - q * stride_w;
            if (q >= Q || beside % dilation_w != 0) continue;
            const int tap = below / dilation_h * S + beside / dilation_w;  // that this pixel is
            const long long window = (pixel.n * P + p) * Q + q;
            int named[GROUP<T>];
            float value[GROUP<T>];
            load_codes(named, code + window * channels + here.channel, here.count, code_vectors);
            load_group(value, dy + window * dy_pitch + here.channel, here.count, vectors);
#pragma unroll
            for (int j = 0; j < GROUP<T>; ++j)
                if (named[j] == tap) total[j] += value[j];
        }
    }
    T* to = out + here.pixel * out_pitch + here.channel;
    store_group(to, total, here.count, on_vectors(out, out_pitch));
}
