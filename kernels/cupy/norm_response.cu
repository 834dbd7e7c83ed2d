// Local response normalisation across channels (Krizhevsky et al. 2012) and its gradient.
//
// Every channel reads its window of neighbours; all but the first reader find them in the cache. In
// the gradient a thread walks once over all windows that its group of channels is in, and computes
// each window's response once for the whole group.
#include "group.cuh"

// k + share * the sum of x^2 over the window of channel c; `x` points to the pixel.
template <class T>
__device__ inline float response(const T* x, int c, int channels, int size, float k, float share) {
    float total = 0.0f;
    const int first = max(c - size / 2, 0), last = min(c + (size - 1) / 2, channels - 1);
    for (int at = first; at <= last; ++at) {
        const float value = widen(x[at]);
        total += value * value;
    }
    return k + share * total;
}

// out = x * response^-beta
template <class T>
__global__ void __launch_bounds__(THREADS) lrn_kernel(
    const T* x,  // [pixels, channels], x_pitch elements from pixel to pixel
    T* out,      // the same, out_pitch
    long long pixels, int channels, long long x_pitch, long long out_pitch,
    int size, float k, float share, float beta  // share: alpha / size
) {
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    const T* from = x + here.pixel * x_pitch;
    float value[GROUP<T>];
    load_group(value, from + here.channel, here.count, on_vectors(x, x_pitch));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) {
        const float d = response(from, here.channel + j, channels, size, k, share);
        value[j] *= exp2f(-beta * log2f(d));
    }
    T* to = out + here.pixel * out_pitch + here.channel;
    store_group(to, value, here.count, on_vectors(out, out_pitch));
}

// dx = dy d^-beta - 2 beta share x * sum of dy x d^(-beta - 1) over the windows the channel is in
template <class T>
__global__ void __launch_bounds__(THREADS) lrn_backward_kernel(
    const T* x,   // [pixels, channels], x_pitch
    const T* dy,  // the same, dy_pitch
    T* out,       // dx, the same, out_pitch
    long long pixels, int channels, long long x_pitch, long long dy_pitch, long long out_pitch,
    int size, float k, float share, float beta
) {
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    const T* x_from = x + here.pixel * x_pitch;
    const T* dy_from = dy + here.pixel * dy_pitch;
    const int before = size / 2, after = (size - 1) / 2;  // of the window around its channel
    float plain[GROUP<T>], total[GROUP<T>];
    fill(plain, 0.0f);
    fill(total, 0.0f);
    const int first = max(here.channel - after, 0);
    const int last = min(here.channel + here.count - 1 + before, channels - 1);
    for (int c = first; c <= last; ++c) {  // the window of channel c
        const float power = log2f(response(x_from, c, channels, size, k, share));
        const float gradient = widen(dy_from[c]) * exp2f(-beta * power);
        const float term = gradient * widen(x_from[c]) * exp2f(-power);
#pragma unroll
        for (int j = 0; j < GROUP<T>; ++j) {
            const int channel = here.channel + j;
            if (channel == c) plain[j] = gradient;
            if (c - before <= channel && channel <= c + after) total[j] += term;
        }
    }
    float value[GROUP<T>];
    load_group(value, x_from + here.channel, here.count, on_vectors(x, x_pitch));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) plain[j] -= 2.0f * beta * share * value[j] * total[j];
    T* to = out + here.pixel * out_pitch + here.channel;
    store_group(to, plain, here.count, on_vectors(out, out_pitch));
}
