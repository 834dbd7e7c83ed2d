// Softmax cross-entropy and its gradient in one launch; a warp takes one image.
//
// Its lanes walk over the classes three times: for the greatest logit m, for the sum of exp(z - m),
// and for the gradient; after the first walk the row is in the cache.
//
//     loss = log(sum exp(z - m)) - (1 - s) * (z[label] - m) - s * (mean(z) - m)
//     dlogits = (exp(z - m) / sum - (1 - s) * onehot(label) - s / K) * weight / N * grad_scale
//
// A label that is no class cannot be refused without waiting for the GPU: it makes NaN.
#include "group.cuh"

constexpr unsigned WARP = 0xffffffffu;  // all of its lanes

// The sum over the lanes of a warp, in every lane: pairs, then pairs of pairs.
__device__ inline float sum_of_warp(float value) {
    for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(WARP, value, apart);
    return value;
}

template <class T>
__global__ void __launch_bounds__(THREADS) softmax_cross_entropy_kernel(
    const T* logits,          // [N, K]
    const int* labels,        // [N]
    float* loss,              // [N]
    T* dlogits,               // [N, K] or null
    const float* grad_scale,  // [1] or null
    int images, int classes, float smoothing, float share  // share: weight / N
) {
    const int lane = threadIdx.x % 32;
    const int image = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (image >= images) return;  // the whole warp
    const T* row = logits + static_cast<long long>(image) * classes;
    const int label = labels[image];
    const bool is_class = label >= 0 && label < classes;
    float most = __int_as_float(0xff800000);  // -infinity
    for (int k = lane; k < classes; k += 32) most = fmaxf(most, widen(row[k]));
    for (int apart = 16; apart > 0; apart /= 2)
        most = fmaxf(most, __shfl_xor_sync(WARP, most, apart));
    float total = 0.0f, plain = 0.0f;  // sums of exp(z - most), and of z
    for (int k = lane; k < classes; k += 32) {
        const float z = widen(row[k]);
        total += expf(z - most);
        plain += z;
    }
    total = is_class ? sum_of_warp(total) : __int_as_float(0x7fffffff);  // NaN
    plain = sum_of_warp(plain);
    if (lane == 0) {
        float right = is_class ? widen(row[label]) - most : 0.0f;
        if (smoothing > 0.0f)  // else 0 * -inf would be NaN
            right = (1.0f - smoothing) * right + smoothing * (plain / classes - most);
        loss[image] = logf(total) - right;
    }
    if (!dlogits) return;
    __syncwarp();
    if (grad_scale) share *= *grad_scale;
    T* to = dlogits + static_cast<long long>(image) * classes;
    for (int k = lane; k < classes; k += 32) {
        float gradient = expf(widen(row[k]) - most) / total - smoothing / classes;
        if (k == label) gradient -= 1.0f - smoothing;
        to[k] = narrow<T>(gradient * share);
    }
}
