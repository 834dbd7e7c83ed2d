// Average pooling, global average pooling and their gradients; the method is that of pool.cu.
//
// A window's divisor is the product of the pixels that count along H and along W: all of the window
// that lies in the padded image, or in the image alone.
#include "group.cuh"

// How many of the pixels start … start + taps - 1 the average counts along one axis.
__device__ inline int taps_counted(int start, int size, int taps, int after, int count_padding) {
    if (count_padding) return min(start + taps, size + after) - start;
    return min(start + taps, size) - max(start, 0);
}

template <class T>
__global__ void __launch_bounds__(THREADS) avg_pool2d_kernel(
    const T* x,        // [N, H, W, C], x_pitch
    T* out,            // [N, P, Q, C], out_pitch
    long long pixels,  // N*P*Q
    int channels, int H, int W, int P, int Q, long long x_pitch, long long out_pitch,
    int R, int S, int stride_h, int stride_w, int top, int bottom, int left, int right,
    int count_padding
) {
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    const Pixel window = pixel_at(here.pixel, P, Q);
    const int h = window.h * stride_h - top, w = window.w * stride_w - left;
    const bool vectors = on_vectors(x, x_pitch);
    float total[GROUP<T>];
    fill(total, 0.0f);
    for (int r = max(-h, 0); r < min(R, H - h); ++r) {
        for (int s = max(-w, 0); s < min(S, W - w); ++s) {
            float value[GROUP<T>];
            const long long pixel = (window.n * H + h + r) * W + w + s;
            load_group(value, x + pixel * x_pitch + here.channel, here.count, vectors);
#pragma unroll
            for (int j = 0; j < GROUP<T>; ++j) total[j] += value[j];
        }
    }
    const int rows = taps_counted(h, H, R, bottom, count_padding);
    const int columns = taps_counted(w, W, S, right, count_padding);
    const float divisor = static_cast<float>(rows * columns);
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) total[j] /= divisor;
    T* to = out + here.pixel * out_pitch + here.channel;
    store_group(to, total, here.count, on_vectors(out, out_pitch));
}

template <class T>
__global__ void __launch_bounds__(THREADS) avg_pool2d_backward_kernel(
    const T* dy,       // [N, P, Q, C], dy_pitch
    T* out,            // dx [N, H, W, C], out_pitch
    long long pixels,  // N*H*W
    int channels, int H, int W, int P, int Q, long long dy_pitch, long long out_pitch,
    int R, int S, int stride_h, int stride_w, int top, int bottom, int left, int right,
    int count_padding
) {
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    const Pixel pixel = pixel_at(here.pixel, H, W);
    const int h = pixel.h + top, w = pixel.w + left;  // counted from the padding's first pixel
    const bool vectors = on_vectors(dy, dy_pitch);
    float total[GROUP<T>];
    fill(total, 0.0f);
    for (int p = h / stride_h; p >= 0 && h - p * stride_h < R; --p) {
        if (p >= P) continue;
        const int rows = taps_counted(p * stride_h - top, H, R, bottom, count_padding);
        for (int q = w / stride_w; q >= 0 && w - q * stride_w < S; --q) {
            if (q >= Q) continue;
            const int columns = taps_counted(q * stride_w - left, W, S, right, count_padding);
            const float divisor = static_cast<float>(rows * columns);
            const long long window = (pixel.n * P + p) * Q + q;
            float value[GROUP<T>];
            load_group(value, dy + window * dy_pitch + here.channel, here.count, vectors);
#pragma unroll
            for (int j = 0; j < GROUP<T>; ++j) total[j] += value[j] / divisor;
        }
    }
    T* to = out + here.pixel * out_pitch + here.channel;
    store_group(to, total, here.count, on_vectors(out, out_pitch));
}

// out[pixel] = dy[image of the pixel] / pixels of an image
template <class T>
__global__ void __launch_bounds__(THREADS) global_avg_pool2d_backward_kernel(
    const T* dy,       // [N, C]
    T* out,            // dx [N, H, W, C], out_pitch
    long long pixels,  // N*H*W
    int channels, int pixels_of_image, long long out_pitch
) {
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    long long image = here.pixel;
    take(image, pixels_of_image);
    float share[GROUP<T>];
    load_group(share, dy + image * channels + here.channel, here.count, on_vectors(dy, channels));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) share[j] /= static_cast<float>(pixels_of_image);
    T* to = out + here.pixel * out_pitch + here.channel;
    store_group(to, share, here.count, on_vectors(out, out_pitch));
}
