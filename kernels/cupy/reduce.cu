// Sums of columns in a fixed order: of activations over their pixels, and of partial sums.
#include "reduce.cuh"

// out[split, c] = sum of x over the pixels of the split / divisor
template <class T, class U>
__global__ void __launch_bounds__(THREADS) column_sums_kernel(
    const T* x,         // [pixels, channels], x_pitch elements from pixel to pixel
    U* out,             // [splits, channels]
    long long pixels, int channels, long long x_pitch, long long pixels_of_split, float divisor
) {
    const Strip strip = strip_of_thread<T>(pixels, channels, pixels_of_split);
    const bool vectors = on_vectors(x, x_pitch);
    float total[GROUP<T>];
    fill(total, 0.0f);
    for (long long m = strip.first; m < strip.end; m += strip.step) {
        float value[GROUP<T>];
        load_group(value, x + m * x_pitch + strip.channel, strip.count, vectors);
#pragma unroll
        for (int j = 0; j < GROUP<T>; ++j) total[j] += value[j];
    }
    sum_rows(total, strip.lanes);
    if (!strip.writes) return;
#pragma unroll
    for (int j = 0; j < GROUP<T>; ++j) total[j] /= divisor;
    store_group(out + strip.split * channels + strip.channel, total, strip.count,
                on_vectors(out, channels));
}

// Adds FAN_IN rows of `parts` and puts the sum in place of the first of them, or scaled into `out`.
// A block has 32 columns; each of its 8 warps adds every eighth row, and the first adds the warps.
template <int FAN_IN>
__global__ void __launch_bounds__(THREADS) add_rows_kernel(
    float* parts,  // [terms, count], of which every stride-th row counts
    float* out,    // [count], or null
    int count, int terms, int stride, float scale
) {
    SHARED(sums, float[THREADS / 32][32]);
    const int blocks = (count + 31) / 32;
    const int column = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int i = blockIdx.x % blocks * 32 + column;
    const int first = blockIdx.x / blocks * FAN_IN, end = min(first + FAN_IN, terms);
    const long long row_stride = static_cast<long long>(stride) * count;
    float total = 0.0f;
    if (i < count) {
#pragma unroll 4
        for (int row = first + warp; row < end; row += THREADS / 32)
            total += parts[row * row_stride + i];
    }
    sums[warp][column] = total;
    __syncthreads();
    if (warp > 0 || i >= count) return;
    for (int other = 1; other < THREADS / 32; ++other) total += sums[other][column];
    if (out)
        out[i] = total * scale;
    else
        parts[first * row_stride + i] = total;
}
