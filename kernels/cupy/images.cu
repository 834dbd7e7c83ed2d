// Pictures: a thread takes one group of neighbouring elements of a batch, finds for each the pixel
// that its image's move brings there, or black, and normalises it.
#include "group.cuh"

template <class T>
__global__ void __launch_bounds__(THREADS) normalise_kernel(
    const unsigned char* images,  // [N, H, W, C]
    const int* moves,             // [N, 3]: down, right, mirror; or null
    const float* mean,            // [C], as is scale
    const float* scale,
    T* out,                       // [N, H, W, C]
    long long elements, int H, int W, int C
) {
    constexpr int N = GROUP<T>;
    const long long first = thread_number() * N;
    const int count = static_cast<int>(min(elements - first, static_cast<long long>(N)));
    if (count <= 0) return;
    long long pixel = first;
    int channel = take(pixel, C);
    Pixel to = pixel_at(pixel, H, W);
    float value[N];
#pragma unroll
    for (int j = 0; j < N; ++j) {
        value[j] = 0.0f;
        if (j >= count) continue;
        int row = to.h, column = to.w;
        if (moves) {
            const int* move = moves + 3 * to.n;
            column = (move[2] ? W - 1 - column : column) - move[1];
            row -= move[0];
        }
        const bool inside = row >= 0 && row < H && column >= 0 && column < W;
        const float x = inside ? images[((to.n * H + row) * W + column) * C + channel] : 0;
        value[j] = (x - mean[channel]) * scale[channel];
        if (++channel < C) continue;
        channel = 0;
        if (++to.w < W) continue;
        to.w = 0;
        if (++to.h < H) continue;
        to.h = 0;
        ++to.n;
    }
    store_group(out + first, value, count, on_vectors(out));
}
