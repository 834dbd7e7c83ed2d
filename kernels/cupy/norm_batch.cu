// Batch norm: statistics, normalisation, sums of gradients, gradient.
//
// The statistics read x once. Every thread keeps, for each of its channels, a count, a mean and a
// sum of squares about that mean (Welford 1962); those of two parts, `apart` = mean2 - mean1, make
//
//     mean = mean1 + apart n2 / n,    squares = squares1 + squares2 + apart^2 n1 n2 / n
//
// (Chan, Golub & LeVeque 1983): over the threads of a block, and by a second kernel over the splits
// that the pixels are cut into. Like two passes, and unlike E[x^2] - E[x]^2, this survives a mean
// far from zero.
#include "reduce.cuh"

// The mean, and the squares about it, of one split.
template <class T>
__global__ void __launch_bounds__(THREADS) statistics_kernel(
    const T* x,    // [pixels, C], x_pitch elements from pixel to pixel
    float* parts,  // [2, splits, C]: means, squares
    long long pixels, int channels, long long x_pitch, long long pixels_of_split, int splits
) {
    const Strip strip = strip_of_thread<T>(pixels, channels, pixels_of_split);
    const bool vectors = on_vectors(x, x_pitch);
    float count = 0.0f, mean[GROUP<T>], squares[GROUP<T>];
    fill(mean, 0.0f);
    fill(squares, 0.0f);
    for (long long m = strip.first; m < strip.end; m += strip.step) {
        float value[GROUP<T>];
        load_group(value, x + m * x_pitch + strip.channel, strip.count, vectors);
        count += 1.0f;
        const float share = 1.0f / count;
#pragma unroll
        for (int j = 0; j < GROUP<T>; ++j) {
            const float change = value[j] - mean[j];
            mean[j] += change * share;
            squares[j] += change * (value[j] - mean[j]);
        }
    }
    SHARED(counts, float[THREADS]);
    SHARED(means, float[GROUP<T>][THREADS]);
    SHARED(spreads, float[GROUP<T>][THREADS]);
    const int thread = threadIdx.x;
    for (int half = THREADS / 2; half >= strip.lanes; half /= 2) {  // as in sum_rows
        if (thread >= half && thread < 2 * half) {
            counts[thread] = count;
#pragma unroll
            for (int j = 0; j < GROUP<T>; ++j) {
                means[j][thread] = mean[j];
                spreads[j][thread] = squares[j];
            }
        }
        __syncthreads();
        if (thread < half) {
            const float total = count + counts[thread + half];
            const float share = counts[thread + half] / max(total, 1.0f);
#pragma unroll
            for (int j = 0; j < GROUP<T>; ++j) {
                const float apart = means[j][thread + half] - mean[j];
                mean[j] += apart * share;
                squares[j] += spreads[j][thread + half] + apart * apart * count * share;
            }
            count = total;
        }
    }
    if (!strip.writes) return;
    float* to = parts + strip.split * channels + strip.channel;
    const bool whole = on_vectors(parts, channels);
    store_group(to, mean, strip.count, whole);
    store_group(to + static_cast<long long>(splits) * channels, squares, strip.count, whole);
}

// Mean and 1/sqrt(var + eps) from those of the splits; moves the running statistics. A block has 32
// channels; each of its 8 warps joins every eighth split, and the first joins the warps.
__global__ void __launch_bounds__(THREADS) join_statistics_kernel(
    const float* parts,  // [2, splits, C]: means, squares
    float* mean,         // [C], like all below
    float* invstd, float* running_mean, float* running_var,
    long long pixels, int channels, long long pixels_of_split, int splits,
    float eps, float momentum
) {
    constexpr int WARPS = THREADS / 32;
    SHARED(counts, float[WARPS]);
    SHARED(means, float[WARPS][32]);
    SHARED(spreads, float[WARPS][32]);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int c = blockIdx.x * 32 + lane;
    float count = 0.0f, centre = 0.0f, squares = 0.0f;
    const auto join = [&](float other, float other_mean, float other_squares) {
        const float total = count + other, apart = other_mean - centre;
        const float share = other / max(total, 1.0f);
        centre += apart * share;
        squares += other_squares + apart * apart * count * share;
        count = total;
    };
    for (int split = warp; split < splits; split += WARPS) {
        const long long left = pixels - split * pixels_of_split;
        const float here = static_cast<float>(max(min(left, pixels_of_split), 0LL));
        const float* part = parts + static_cast<long long>(split) * channels + c;
        if (c < channels) join(here, part[0], part[static_cast<long long>(splits) * channels]);
    }
    if (lane == 0) counts[warp] = count;
    means[warp][lane] = centre;
    spreads[warp][lane] = squares;
    __syncthreads();
    if (warp > 0 || c >= channels) return;
    for (int other = 1; other < WARPS; ++other)
        join(counts[other], means[other][lane], spreads[other][lane]);
    const bool any = pixels > 0;
    mean[c] = centre;
    invstd[c] = any ? 1.0f / sqrtf(squares / count + eps) : 0.0f;
    if (!any) return;  // the running statistics stay
    const float unbiased = squares / max(count - 1.0f, 1.0f);
    running_mean[c] = (1.0f - momentum) * running_mean[c] + momentum * centre;
    running_var[c] = (1.0f - momentum) * running_var[c] + momentum * unbiased;
}

// out = (x - mean) * spread * gamma + beta, then max(0, .) with relu. `spread` is
// 1/sqrt(var + eps), or the variance itself with of_variance.
template <class T>
__global__ void __launch_bounds__(THREADS) normalise_kernel(
    const T* x,          // [pixels, C], x_pitch
    const float* mean,   // [C], like spread, gamma and beta
    const float* spread, const float* gamma, const float* beta,
    T* out,              // [pixels, C], out_pitch
    long long pixels, int channels, long long x_pitch, long long out_pitch,
    float eps, int of_variance, int relu
) {
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    const int c = here.channel;
    float value[GROUP<T>], centre[GROUP<T>], scale[GROUP<T>], factor[GROUP<T>], shift[GROUP<T>];
    load_group(value, x + here.pixel * x_pitch + c, here.count, on_vectors(x, x_pitch));
    load_group(centre, mean + c, here.count, on_vectors(mean));
    load_group(scale, spread + c, here.count, on_vectors(spread));
    load_group(factor, gamma + c, here.count, on_vectors(gamma));
    load_group(shift, beta + c, here.count, on_vectors(beta));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) {
        if (of_variance) scale[j] = 1.0f / sqrtf(scale[j] + eps);
        value[j] = (value[j] - centre[j]) * (scale[j] * factor[j]) + shift[j];
        if (relu && value[j] <= 0.0f) value[j] = 0.0f;
    }
    T* to = out + here.pixel * out_pitch + c;
    store_group(to, value, here.count, on_vectors(out, out_pitch));
}

// dy at one group, 0 where the mask of a ReLU (null: there is none) is <= 0
template <class T>
__device__ inline void load_gradient(
    float (&gradient)[GROUP<T>], const T* dy, const T* mask,
    long long pixel, int channel, int count, long long dy_pitch, long long mask_pitch
) {
    load_group(gradient, dy + pixel * dy_pitch + channel, count, on_vectors(dy, dy_pitch));
    if (!mask) return;
    float alive[GROUP<T>];
    load_group(alive, mask + pixel * mask_pitch + channel, count, on_vectors(mask, mask_pitch));
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j)
        if (alive[j] <= 0.0f) gradient[j] = 0.0f;
}

// The sums of one split that dbeta (of dy) and dgamma (of dy * xhat) are made of.
template <class T>
__global__ void __launch_bounds__(THREADS) batch_norm_sums_kernel(
    const T* x,     // [pixels, C], x_pitch; dy and mask the same with pitches of their own
    const T* dy,
    const T* mask,  // or null
    const float* mean, const float* invstd,  // [C]
    float* parts,   // [2, splits, C]: sums of dy, of dy * xhat
    long long pixels, int channels, long long x_pitch, long long dy_pitch, long long mask_pitch,
    long long pixels_of_split, int splits
) {
    const Strip strip = strip_of_thread<T>(pixels, channels, pixels_of_split);
    const int c = strip.channel;
    const bool vectors = on_vectors(x, x_pitch);
    float centre[GROUP<T>], scale[GROUP<T>], plain[GROUP<T>], against[GROUP<T>];
    load_group(centre, mean + c, strip.count, on_vectors(mean));
    load_group(scale, invstd + c, strip.count, on_vectors(invstd));
    fill(plain, 0.0f);
    fill(against, 0.0f);
    for (long long m = strip.first; m < strip.end; m += strip.step) {
        float value[GROUP<T>], gradient[GROUP<T>];
        load_group(value, x + m * x_pitch + c, strip.count, vectors);
        load_gradient<T>(gradient, dy, mask, m, c, strip.count, dy_pitch, mask_pitch);
#pragma unroll
        for (int j = 0; j < GROUP<T>; ++j) {
            plain[j] += gradient[j];
            against[j] += gradient[j] * ((value[j] - centre[j]) * scale[j]);
        }
    }
    sum_rows(plain, strip.lanes);
    sum_rows(against, strip.lanes);
    if (!strip.writes) return;
    float* to = parts + strip.split * channels + c;
    const bool whole = on_vectors(parts, channels);
    store_group(to, plain, strip.count, whole);
    store_group(to + static_cast<long long>(splits) * channels, against, strip.count, whole);
}

// out = dx = gamma * invstd * (dy - dbeta / M - xhat * dgamma / M), M pixels
template <class T>
__global__ void __launch_bounds__(THREADS) batch_norm_backward_kernel(
    const T* x,     // [pixels, C], x_pitch; dy, mask and out the same with pitches of their own
    const T* dy,
    const T* mask,  // or null
    const float* gamma,  // [C], like all up to dbeta
    const float* mean, const float* invstd, const float* dgamma, const float* dbeta,
    T* out,
    long long pixels, int channels,
    long long x_pitch, long long dy_pitch, long long mask_pitch, long long out_pitch
) {
    const Place here = place_of_thread<T>(pixels, channels);
    if (!here.exists) return;
    const int c = here.channel;
    float value[GROUP<T>], gradient[GROUP<T>];
    load_group(value, x + here.pixel * x_pitch + c, here.count, on_vectors(x, x_pitch));
    load_gradient<T>(gradient, dy, mask, here.pixel, c, here.count, dy_pitch, mask_pitch);
    const float share = 1.0f / static_cast<float>(pixels);
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) {
        if (j >= here.count) break;
        const float scale = invstd[c + j], normal = (value[j] - mean[c + j]) * scale;
        const float apart = gradient[j] - dbeta[c + j] * share - normal * (dgamma[c + j] * share);
        value[j] = gamma[c + j] * scale * apart;
    }
    T* to = out + here.pixel * out_pitch + c;
    store_group(to, value, here.count, on_vectors(out, out_pitch));
}
