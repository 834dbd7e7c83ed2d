// Element-wise kernels: a thread takes one group of elements (see group.cuh), computes in float32
// and rounds once. Each kernel is one sweep through memory.
//
// Concat and its gradient copy groups of channels between arrays of two pitches (elements from one
// pixel to the next).
#include "group.cuh"
#include "philox.cuh"

// The elements of this thread's group of a flat array: how many, from `first` on.
struct Flat {
    long long first;
    int count;
};

template <int N> __device__ inline Flat flat_of_thread(long long elements) {
    const long long first = thread_number() * N;
    const long long left = max(elements - first, 0LL);
    return {first, static_cast<int>(min(left, static_cast<long long>(N)))};
}

template <class T>
__global__ void __launch_bounds__(THREADS) relu_kernel(const T* x, T* out, long long elements) {
    const Flat here = flat_of_thread<GROUP<T>>(elements);
    float value[GROUP<T>];
    load_group(value, x + here.first, here.count, on_vectors(x));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j)
        if (value[j] <= 0.0f) value[j] = 0.0f;  // NaN is not <= 0
    store_group(out + here.first, value, here.count, on_vectors(out));
}

// out = 0 where y <= 0, else dy
template <class T>
__global__ void __launch_bounds__(THREADS)
relu_backward_kernel(const T* dy, const T* y, T* out, long long elements) {
    const Flat here = flat_of_thread<GROUP<T>>(elements);
    float gradient[GROUP<T>], value[GROUP<T>];
    load_group(gradient, dy + here.first, here.count, on_vectors(dy));
    load_group(value, y + here.first, here.count, on_vectors(y));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j)
        if (value[j] <= 0.0f) gradient[j] = 0.0f;
    store_group(out + here.first, gradient, here.count, on_vectors(out));
}

template <class T>
__global__ void __launch_bounds__(THREADS)
add_kernel(const T* a, const T* b, T* out, long long elements, int relu) {
    const Flat here = flat_of_thread<GROUP<T>>(elements);
    float sum[GROUP<T>], other[GROUP<T>];
    load_group(sum, a + here.first, here.count, on_vectors(a));
    load_group(other, b + here.first, here.count, on_vectors(b));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) {
        sum[j] += other[j];
        if (relu && sum[j] <= 0.0f) sum[j] = 0.0f;
    }
    store_group(out + here.first, sum, here.count, on_vectors(out));
}

template <class T>
__global__ void __launch_bounds__(THREADS)
mul_kernel(const T* a, const T* b, T* out, long long elements) {
    const Flat here = flat_of_thread<GROUP<T>>(elements);
    float product[GROUP<T>], other[GROUP<T>];
    load_group(product, a + here.first, here.count, on_vectors(a));
    load_group(other, b + here.first, here.count, on_vectors(b));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) product[j] *= other[j];
    store_group(out + here.first, product, here.count, on_vectors(out));
}

// The wider of the two types sets how many elements are 16 bytes.
template <class T, class U>
__global__ void __launch_bounds__(THREADS) cast_kernel(const T* x, U* out, long long elements) {
    constexpr int N = GROUP<T> < GROUP<U> ? GROUP<T> : GROUP<U>;
    const Flat here = flat_of_thread<N>(elements);
    float value[N];
    load_group(value, x + here.first, here.count, on_vectors(x));
    store_group(out + here.first, value, here.count, on_vectors(out));
}

// Element i is kept, and scaled, where number i of the stream is >= threshold; else it becomes 0.
template <class T>
__global__ void __launch_bounds__(THREADS) dropout_kernel(
    const T* x,
    T* out,
    long long elements,
    const unsigned* key,  // [4]: seed low, seed high, step, stream
    long long threshold,
    float scale  // 1 / (1 - p)
) {
    const Flat here = flat_of_thread<GROUP<T>>(elements);
    float value[GROUP<T>];
    load_group(value, x + here.first, here.count, on_vectors(x));
#pragma unroll
    for (int j = 0; j < GROUP<T>; j += 4) {
        const Numbers numbers = philox((here.first + j) / 4, key);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            value[j + i] = numbers.at[i] >= threshold ? value[j + i] * scale : 0.0f;
    }
    store_group(out + here.first, value, here.count, on_vectors(out));
}

template <class T>
__global__ void __launch_bounds__(THREADS) copy_channels_kernel(
    const T* x, T* out, long long pixels, int channels, long long x_pitch, long long out_pitch
) {
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    const T* from = x + here.pixel * x_pitch + here.channel;
    T* to = out + here.pixel * out_pitch + here.channel;
    const bool vectors = on_vectors(x, x_pitch) && on_vectors(out, out_pitch);
    if (vectors && here.count == GROUP<T>) {
        store<GROUP<T>>(to, load<GROUP<T>>(from));
    } else {
        for (int j = 0; j < here.count; ++j) to[j] = from[j];
    }
}
