// Optimizers: one launch over the whole parameter arena, a group of four parameters a thread.
//
// Learning rate, step number and gradient scale are read from the device's memory, so that a
// captured graph replays with new values. SGD moves five numbers a parameter, AdamW seven, and two
// bytes more for the 16-bit copy that kernels read (`Low` is its type; without one it is null).
#include "group.cuh"

constexpr int FOUR = GROUP<float>;

template <class Low>
__global__ void __launch_bounds__(THREADS) sgd_update_kernel(
    float* w,        // [M], as are g and v
    const float* g, float* v,
    Low* low,        // [M] or null
    const float* lr, const float* grad_scale, const int* skip,  // [1]; all but lr may be null
    long long elements, long long decay_until, float momentum, float weight_decay, int nesterov
) {
    const long long i = thread_number() * FOUR;
    const int count = static_cast<int>(min(elements - i, static_cast<long long>(FOUR)));
    if (count <= 0) return;
    float weight[FOUR], gradient[FOUR], velocity[FOUR];
    load_group(weight, w + i, count, on_vectors(w));
    load_group(gradient, g + i, count, on_vectors(g));
    load_group(velocity, v + i, count, on_vectors(v));
    const float rate = *lr;
    const bool taken = !skip || *skip == 0;
#pragma unroll
    for (int j = 0; j < FOUR && taken; ++j) {
        if (grad_scale) gradient[j] /= *grad_scale;
        if (i + j < decay_until) gradient[j] += weight_decay * weight[j];
        velocity[j] = momentum * velocity[j] + gradient[j];
        weight[j] -= rate * (nesterov ? gradient[j] + momentum * velocity[j] : velocity[j]);
    }
    store_group(v + i, velocity, count, on_vectors(v));
    store_group(w + i, weight, count, on_vectors(w));
    if (low) store_group(low + i, weight, count, on_vectors(low));
}

template <class Low>
__global__ void __launch_bounds__(THREADS) adamw_update_kernel(
    float* w,        // [M], as are g, m and v
    const float* g, float* m, float* v,
    Low* low,        // [M] or null
    const float* lr, const long long* step,     // [1]
    const float* grad_scale, const int* skip,   // [1] or null
    long long elements, long long decay_until,
    float beta1, float beta2,
    float rest1, float rest2,          // 1 - beta, from float64: 1 - 0.999f is off by 1e-5
    float log_beta1, float log_beta2,  // -inf for 0
    float eps, float weight_decay
) {
    const long long i = thread_number() * FOUR;
    const int count = static_cast<int>(min(elements - i, static_cast<long long>(FOUR)));
    if (count <= 0) return;
    const float t = static_cast<float>(*step), rate = *lr;
    // 1 - beta^t = -expm1(t log beta), which keeps its digits where beta^t is almost 1
    const float rate_of_mean = rate / -expm1f(t * log_beta1);
    const float root = sqrtf(1.0f / -expm1f(t * log_beta2));
    float weight[FOUR], gradient[FOUR], mean[FOUR], square[FOUR];
    load_group(weight, w + i, count, on_vectors(w));
    load_group(gradient, g + i, count, on_vectors(g));
    load_group(mean, m + i, count, on_vectors(m));
    load_group(square, v + i, count, on_vectors(v));
    const bool taken = !skip || *skip == 0;
#pragma unroll
    for (int j = 0; j < FOUR && taken; ++j) {
        if (grad_scale) gradient[j] /= *grad_scale;
        if (i + j < decay_until) weight[j] -= rate * weight_decay * weight[j];
        mean[j] = beta1 * mean[j] + rest1 * gradient[j];
        square[j] = beta2 * square[j] + rest2 * (gradient[j] * gradient[j]);
        weight[j] -= rate_of_mean * mean[j] / (sqrtf(square[j]) * root + eps);
    }
    store_group(m + i, mean, count, on_vectors(m));
    store_group(v + i, square, count, on_vectors(v));
    store_group(w + i, weight, count, on_vectors(w));
    if (low) store_group(low + i, weight, count, on_vectors(low));
}

// out[part] = 1 where the part of x has an infinity or a NaN; a block a part.
template <class T>
__global__ void __launch_bounds__(THREADS)
non_finite_kernel(const T* x, int* out, long long elements, long long of_part) {
    SHARED(found, int[1]);
    if (threadIdx.x == 0) found[0] = 0;
    __syncthreads();
    const long long first = blockIdx.x * of_part;
    const long long end = min(first + of_part, elements);
    for (long long i = first + threadIdx.x; i < end; i += THREADS) {
        const float value = widen(x[i]);
        if (!(value - value == 0.0f)) found[0] = 1;  // whoever writes, writes the same
    }
    __syncthreads();
    if (threadIdx.x == 0) out[blockIdx.x] = found[0];
}

__global__ void __launch_bounds__(THREADS) loss_scale_kernel(
    const int* flags,                          // [parts]
    float* scale, int* good, float* out, int* skip,  // [1]
    int parts, int growth_steps
) {
    SHARED(found, int[1]);
    if (threadIdx.x == 0) found[0] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < parts; i += THREADS)
        if (flags[i]) found[0] = 1;
    __syncthreads();
    if (threadIdx.x) return;
    const int steps = found[0] ? 0 : *good + 1;
    *out = *scale;
    *skip = found[0];
    *good = steps;
    if (found[0]) *scale *= 0.5f;
    else if (steps % growth_steps == 0) *scale *= 2.0f;
}
