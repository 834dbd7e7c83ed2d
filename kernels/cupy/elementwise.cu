// Element-wise kernels: a thread takes WIDTH elements side by side, in one 16-byte access where the
// arrays allow it, computes in float32 and rounds once.
#include "common.cuh"

constexpr int THREADS = 256;

template <class T, int WIDTH>
__global__ void __launch_bounds__(THREADS)
relu_kernel(const T* x, T* out, long long count) {
    const long long i = (blockIdx.x * (long long)THREADS + threadIdx.x) * WIDTH;
    if (i >= count) return;
    const auto values = load_some<WIDTH>(x + i, count - i);
    Vector<T, WIDTH> result;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        const float value = widen(values.at[j]);
        result.at[j] = value <= 0.0f ? narrow<T>(0.0f) : values.at[j];  // NaN is not <= 0
    }
    store_some(out + i, result, count - i);
}

template <class T, int WIDTH>
__global__ void __launch_bounds__(THREADS)
relu_backward_kernel(const T* dy, const T* y, T* out, long long count) {
    const long long i = (blockIdx.x * (long long)THREADS + threadIdx.x) * WIDTH;
    if (i >= count) return;
    const auto gradients = load_some<WIDTH>(dy + i, count - i);
    const auto values = load_some<WIDTH>(y + i, count - i);
    Vector<T, WIDTH> result;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j)
        result.at[j] = widen(values.at[j]) <= 0.0f ? narrow<T>(0.0f) : gradients.at[j];
    store_some(out + i, result, count - i);
}
