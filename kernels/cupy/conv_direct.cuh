// Tiled direct convolution: the part that the forward pass and the gradient of x share.
//
//     sums[pixel, filter] = sum over taps and channels of  image[pixel + tap, c] * filter[tap, c]
//
// A block computes a tile of ROWS x COLUMNS pixels of one image for BLOCK_FILTERS filters. It walks
// over its group's channels, CHUNK at a time, and over the rows of the filter. Each step needs
//
//     the halo     all pixels that the tile reads, CHUNK channels each      [rows, columns, CHUNK]
//     the filters  one row of taps, CHUNK channels each              [taps, BLOCK_FILTERS, CHUNK]
//
// in shared memory: a pixel of the halo is read once from the image and then used by up to R*S taps
// and by all filters of the block. There are two of each, so that copies into one run in the
// background while the other is multiplied (double buffering; the halo changes with the channels,
// the filters with every row of taps).
//
// A thread keeps the sums of 2 x 4 pixels and FILTERS filters in registers. For four channels it
// reads 8 + FILTERS vectors of four from shared memory and does 4 * 8 * FILTERS multiplications:
// with FILTERS = 8 that is 16 vectors for 256, and the processor, not the memory, is the limit.
// Eight neighbouring threads have the same pixels (one read serves all) and neighbouring filters,
// whose rows in shared memory are padded to odd multiples of 16 bytes: they meet all 32 banks.
//
// A multiprocessor has registers for 384 such threads (168 each). These are the tiles of a matrix
// product (as in CUTLASS's efficient_gemm.md), over a halo in place of a matrix of patches.
//
// Sums are float32 for every type, of products that are fused (fmaf) and never shortened to TF32.
#pragma once
#include "grid.cuh"

constexpr int RESIDENT_THREADS = 384;  // of a multiprocessor

// The numbers of a block; all are known when it is compiled.
template <class T, int WIDTH_, int CHUNK_, int FILTERS_, int THREAD_ROWS, int THREAD_COLUMNS>
struct Block {
    static constexpr int WIDTH = WIDTH_;      // elements that one copy moves
    static constexpr int CHUNK = CHUNK_;      // channels of a step
    static constexpr int FILTERS = FILTERS_;  // of a thread
    static constexpr int FILTER_LANES = 8;    // neighbouring threads, with different filters
    static constexpr int PATCH_ROWS = 2, PATCH_COLUMNS = 4;  // of the pixels of a thread
    static constexpr int PIXELS = PATCH_ROWS * PATCH_COLUMNS;
    static constexpr int ROWS = PATCH_ROWS * THREAD_ROWS;
    static constexpr int COLUMNS = PATCH_COLUMNS * THREAD_COLUMNS;
    static constexpr int BLOCK_FILTERS = FILTERS * FILTER_LANES;
    static constexpr int THREADS = FILTER_LANES * THREAD_ROWS * THREAD_COLUMNS;
    // elements from filter to filter in shared memory: an odd multiple of 16 bytes, or just 8
    static constexpr int PITCH = CHUNK * sizeof(T) % 32 ? CHUNK : CHUNK + 16 / sizeof(T);
    static_assert(CHUNK % 4 == 0 && CHUNK % WIDTH == 0, "vectors of four, whole copies");

    int row, column, lane;  // of this thread's patch in the tile, and its first filter

    __device__ Block() {
        const int patch = threadIdx.x / FILTER_LANES;
        row = patch / THREAD_COLUMNS * PATCH_ROWS;
        column = patch % THREAD_COLUMNS * PATCH_COLUMNS;
        lane = threadIdx.x % FILTER_LANES;
    }
};

// What a block reads: the channels of its group in one image.
template <class T> struct Image {
    const T* first;
    int height, width;
    Grid grid;
    int channels;
    bool edge;  // outside lies the nearest pixel, not zero
};

// Which pixels: tap t of output i, along one axis, is pixel  first + i * stride + t * step.
struct Axis {
    int first;
    int stride, step, taps;
    // Pixels of the halo are `gap` apart: all that the tile reads lie on this grid.
    int gap;

    __device__ int halo(int outputs) const {
        return ((outputs - 1) * stride + (taps - 1) * step) / gap + 1;
    }
};

// The filters of the forward pass: w [K, R, S, C], a group's; channels lie side by side.
template <class T> struct Filters {
    const T* w;  // the first filter of the block
    int count;   // filters from there on; others are zero
    int channels, taps_r, taps_s;

    template <class B>
    __device__ void copy(T* to, int r, int first_s, int s_count, int first_channel) const {
        constexpr int COPIES = B::CHUNK / B::WIDTH;
#pragma unroll 1
        for (int i = threadIdx.x; i < s_count * B::BLOCK_FILTERS * COPIES; i += B::THREADS) {
            const int c = i % COPIES * B::WIDTH;
            const int k = i / COPIES % B::BLOCK_FILTERS, s = i / COPIES / B::BLOCK_FILTERS;
            const bool inside = k < count && first_channel + c < channels;
            const long long tap = ((long long)k * taps_r + r) * taps_s + first_s + s;
            const T* from = inside ? w + tap * channels + first_channel + c : w;
            copy_or_zero<B::WIDTH>(to + (s * B::BLOCK_FILTERS + k) * B::PITCH + c, from, inside);
        }
    }
};

template <class B, class T>
__device__ void copy_halo(T* to, const Image<T>& image, const Axis& rows, const Axis& columns,
                          int first_channel) {
    constexpr int COPIES = B::CHUNK / B::WIDTH;
    const int height = rows.halo(B::ROWS), width = columns.halo(B::COLUMNS);
#pragma unroll 1
    for (int i = threadIdx.x; i < height * width * COPIES; i += B::THREADS) {
        const int c = i % COPIES * B::WIDTH, pixel = i / COPIES;
        int h = rows.first + pixel / width * rows.gap;
        int v = columns.first + pixel % width * columns.gap;
        bool inside = first_channel + c < image.channels;
        if (image.edge) {
            h = min(max(h, 0), image.height - 1);
            v = min(max(v, 0), image.width - 1);
        } else {
            inside = inside && h >= 0 && h < image.height && v >= 0 && v < image.width;
        }
        const long long at = image.grid.place(0, h, v) + first_channel + c;
        copy_or_zero<B::WIDTH>(to + pixel * B::CHUNK + c, image.first + (inside ? at : 0), inside);
    }
}

// sums += one row of taps: `halo` begins at its first tap for this thread's first pixel.
template <class B, class T>
__device__ void multiply(const T* halo, const int (&offsets)[B::PIXELS], int tap_offset,
                         const T* filters, int taps, float (&sums)[B::PIXELS][B::FILTERS]) {
#pragma unroll 1
    for (int s = 0; s < taps; ++s, halo += tap_offset, filters += B::BLOCK_FILTERS * B::PITCH) {
#pragma unroll 1  // the vectors of more than four channels would not fit the registers
        for (int c = 0; c < B::CHUNK; c += 4) {
            float x[B::PIXELS][4];
#pragma unroll
            for (int i = 0; i < B::PIXELS; ++i) widen_four(x[i], halo + offsets[i] + c);
#pragma unroll
            for (int j = 0; j < B::FILTERS; ++j) {
                float w[4];
                widen_four(w, filters + j * B::FILTER_LANES * B::PITCH + c);
#pragma unroll
                for (int i = 0; i < B::PIXELS; ++i)
#pragma unroll
                    for (int v = 0; v < 4; ++v) sums[i][j] = fmaf(x[i][v], w[v], sums[i][j]);
            }
        }
    }
}

// sums += the correlation of `image` with `filters` over the taps of rows x columns, of which the
// filters call the first (first_r, first_s). `memory` is the block's shared memory.
template <class B, class T, class F>
__device__ void correlate(const B& block, const Image<T>& image, const Axis& rows,
                          const Axis& columns, const F& filters, int first_r, int first_s,
                          unsigned char* memory, float (&sums)[B::PIXELS][B::FILTERS]) {
    const int width = columns.halo(B::COLUMNS);
    // both parts of shared memory, twice
    const int halo_size = rows.halo(B::ROWS) * width * B::CHUNK;
    const int filters_size = columns.taps * B::BLOCK_FILTERS * B::PITCH;
    T* const halos = reinterpret_cast<T*>(memory);
    T* const rows_of_filters = halos + (2 * halo_size + 15) / 16 * 16;

    int offsets[B::PIXELS];  // of this thread's pixels in the halo
#pragma unroll
    for (int i = 0; i < B::PIXELS; ++i) {
        const int p = block.row + i / B::PATCH_COLUMNS, q = block.column + i % B::PATCH_COLUMNS;
        const int h = p * rows.stride / rows.gap, v = q * columns.stride / columns.gap;
        offsets[i] = (h * width + v) * B::CHUNK;
    }
    const int steps = (image.channels + B::CHUNK - 1) / B::CHUNK * rows.taps;
    const auto copy = [&](int step) {
        const int chunk = step / rows.taps, r = step % rows.taps, c = chunk * B::CHUNK;
        if (r == 0) copy_halo<B>(halos + chunk % 2 * halo_size, image, rows, columns, c);
        filters.template copy<B>(rows_of_filters + step % 2 * filters_size, first_r + r, first_s,
                                 columns.taps, c);
        commit_copies();
    };
    __syncthreads();  // whoever was here before has left the buffers
    copy(0);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        wait_for_copies<0>();
        __syncthreads();  // this step has arrived, and everybody has left the one before it
        if (step + 1 < steps) copy(step + 1);
        const int chunk = step / rows.taps, r = step % rows.taps;
        const T* halo = halos + chunk % 2 * halo_size;
        const T* row = rows_of_filters + step % 2 * filters_size + block.lane * B::PITCH;
        multiply<B>(halo + r * (rows.step / rows.gap) * width * B::CHUNK, offsets,
                    columns.step / columns.gap * B::CHUNK, row, columns.taps, sums);
    }
}

// to[filter] = the sum of all threads' values of that filter, patch after patch, for the first
// `count` filters of the block.
template <class B>
__device__ void add_patches(const B& block, const float (&values)[B::FILTERS], float* to,
                            int count) {
    constexpr int PATCHES = B::THREADS / B::FILTER_LANES;
    SHARED(shares, float[PATCHES][B::BLOCK_FILTERS]);
    const int patch = threadIdx.x / B::FILTER_LANES;
#pragma unroll
    for (int j = 0; j < B::FILTERS; ++j)
        shares[patch][block.lane + j * B::FILTER_LANES] = values[j];
    __syncthreads();
    for (int k = threadIdx.x; k < B::BLOCK_FILTERS && k < count; k += B::THREADS) {
        float total = 0.0f;
        for (int other = 0; other < PATCHES; ++other) total += shares[other][k];
        to[k] = total;
    }
}
