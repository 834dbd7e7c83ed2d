// Activations besides ReLU: one sweep through memory, in float32, rounded once.
//
// Softmax takes a warp a row, whose lanes walk over the classes three times: for the greatest x, for
// the sum of exp(x - greatest), and to write; after the first walk the row is in the cache.
#include "group.cuh"

constexpr unsigned WARP = 0xffffffffu;  // all of its lanes

// What a thread takes of a flat array.
template <class T> struct Span {
    long long first;
    int count;

    __device__ explicit Span(long long elements) : first(thread_number() * GROUP<T>) {
        const long long left = max(elements - first, 0LL);
        count = static_cast<int>(min(left, static_cast<long long>(GROUP<T>)));
    }
};

template <class T>
__global__ void __launch_bounds__(THREADS)
clip_kernel(const T* x, T* out, long long elements, float low, float high) {
    const Span<T> here(elements);
    float value[GROUP<T>];
    load_group(value, x + here.first, here.count, on_vectors(x));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) {
        if (value[j] < low) value[j] = low;  // NaN is not < low
        if (value[j] > high) value[j] = high;
    }
    store_group(out + here.first, value, here.count, on_vectors(out));
}

// out = 0 where x <= low or x >= high, else dy
template <class T>
__global__ void __launch_bounds__(THREADS)
clip_backward_kernel(const T* dy, const T* x, T* out, long long elements, float low, float high) {
    const Span<T> here(elements);
    float gradient[GROUP<T>], value[GROUP<T>];
    load_group(gradient, dy + here.first, here.count, on_vectors(dy));
    load_group(value, x + here.first, here.count, on_vectors(x));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j)
        if (value[j] <= low || value[j] >= high) gradient[j] = 0.0f;
    store_group(out + here.first, gradient, here.count, on_vectors(out));
}

// out = slope * dy where x <= 0, else dy; dy is x itself in the forward pass
template <class T>
__global__ void __launch_bounds__(THREADS)
leaky_relu_kernel(const T* dy, const T* x, T* out, long long elements, float slope) {
    const Span<T> here(elements);
    float gradient[GROUP<T>], value[GROUP<T>];
    load_group(gradient, dy + here.first, here.count, on_vectors(dy));
    load_group(value, x + here.first, here.count, on_vectors(x));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j)
        if (value[j] <= 0.0f) gradient[j] *= slope;
    store_group(out + here.first, gradient, here.count, on_vectors(out));
}

// The same with a slope for each channel, or (slope_step 0) one for all.
template <class T>
__global__ void __launch_bounds__(THREADS) prelu_kernel(
    const T* dy, const T* x, const float* slope, T* out,  // [pixels, channels]
    long long pixels, int channels, int slope_step
) {
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    const long long at = here.pixel * channels + here.channel;
    float gradient[GROUP<T>], value[GROUP<T>];
    load_group(gradient, dy + at, here.count, on_vectors(dy, channels));
    load_group(value, x + at, here.count, on_vectors(x, channels));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j)
        if (j < here.count && value[j] <= 0.0f)
            gradient[j] *= slope[(here.channel + j) * slope_step];
    store_group(out + at, gradient, here.count, on_vectors(out, channels));
}

// The sum over the lanes of a warp, in every lane: pairs, then pairs of pairs.
__device__ inline float sum_of_warp(float value) {
    for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(WARP, value, apart);
    return value;
}

template <class T>
__global__ void __launch_bounds__(THREADS)
softmax_kernel(const T* x, T* out, long long rows, int classes, int log) {
    const int lane = threadIdx.x % 32;
    const long long row = static_cast<long long>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;  // the whole warp
    const T* from = x + row * classes;
    T* to = out + row * classes;
    float most = __int_as_float(0xff800000);  // -infinity
    for (int k = lane; k < classes; k += 32) most = fmaxf(most, widen(from[k]));
    for (int apart = 16; apart > 0; apart /= 2)
        most = fmaxf(most, __shfl_xor_sync(WARP, most, apart));
    float total = 0.0f;
    for (int k = lane; k < classes; k += 32) total += expf(widen(from[k]) - most);
    total = sum_of_warp(total);
    const float logarithm = logf(total);
    for (int k = lane; k < classes; k += 32) {
        const float z = widen(from[k]) - most;
        to[k] = narrow<T>(log ? z - logarithm : expf(z) / total);
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS)
softmax_backward_kernel(const T* dy, const T* y, T* out, long long rows, int classes, int log) {
    const int lane = threadIdx.x % 32;
    const long long row = static_cast<long long>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;  // the whole warp
    const long long first = row * classes;
    float total = 0.0f;  // of dy * y, or of dy
    for (int k = lane; k < classes; k += 32) {
        const float gradient = widen(dy[first + k]);
        total += log ? gradient : gradient * widen(y[first + k]);
    }
    total = sum_of_warp(total);
    for (int k = lane; k < classes; k += 32) {
        const float gradient = widen(dy[first + k]), value = widen(y[first + k]);
        out[first + k] =
            narrow<T>(log ? gradient - expf(value) * total : value * (gradient - total));
    }
}
