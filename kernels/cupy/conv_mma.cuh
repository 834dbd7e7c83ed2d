// The main loop that all tensor-core convolutions share: sums [rows, columns] of one tile.
//
//     for each step of the depth:                       (STAGES - 1 steps are on their way ahead)
//         first  [rows, DEPTH]     copied to shared memory by a loader of conv_mma_load.cuh
//         second [DEPTH, columns]  the same
//         sums  += first @ second  every warp multiplies its own part of the tile
//
// The pipeline is cp.async's: while one step is multiplied, the next ones are copied. Its method is
// that of CUTLASS's documentation (efficient_gemm.md, "multistage").
//
// A main loop of wgmma with im2col TMA for sm_90a would take `multiply`'s place, with the tile's
// geometry in place of the loaders.
#pragma once
#include "mma.cuh"

// What a block works on, in elements, and how many steps of it are in shared memory at once.
template <int ROWS_, int COLUMNS_, int DEPTH_, int WARP_ROWS_, int WARP_COLUMNS_, int STAGES_>
struct Tile {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, DEPTH = DEPTH_, STAGES = STAGES_;
    static constexpr int WARP_ROWS = WARP_ROWS_, WARP_COLUMNS = WARP_COLUMNS_;
    static constexpr int WARPS_ACROSS = COLUMNS / WARP_COLUMNS;
    static constexpr int THREADS = ROWS / WARP_ROWS * WARPS_ACROSS * 32;
    static constexpr int PRODUCTS_DOWN = WARP_ROWS / 16, PRODUCTS_ACROSS = WARP_COLUMNS / 8;
    static constexpr int STAGED_PITCH = COLUMNS + 8;  // floats from row to row of staged sums
    // two of the largest blocks at a time on a multiprocessor: 128 registers for a thread
    static constexpr int BLOCKS = THREADS == 256 ? 2 : 1;
    static_assert(ROWS % WARP_ROWS == 0 && COLUMNS % WARP_COLUMNS == 0, "whole warps");
    static_assert(WARP_ROWS % 16 == 0 && WARP_COLUMNS % 16 == 0, "whole fragments");
    using Sums = float[PRODUCTS_DOWN][PRODUCTS_ACROSS][4];
};

// One operand of one step in shared memory: LINES of 16-byte chunks. A line runs along the depth
// (one row or column of the product each), or across it (one position of the depth each),
// whichever is contiguous in global memory.
//
// Shared memory has 32 banks of 4 bytes, so a warp should touch all eight 16-byte columns of it at
// once. The chunks of a line are permuted (XOR with a number that follows from the line), so that
// this holds for a copy, which writes chunks of a line side by side, and for a fragment, which
// reads the same chunk of eight lines. tests/kernels/test_cupy_mma.py counts the banks.
template <class T, int EXTENT, int DEPTH, bool ALONG> struct Operand {
    using Element = T;
    static constexpr int VECTOR = 16 / sizeof(T);  // elements of a chunk
    static constexpr int LINES = ALONG ? EXTENT : DEPTH;
    static constexpr int CHUNKS = (ALONG ? DEPTH : EXTENT) / VECTOR;  // of a line
    static constexpr int BYTES = LINES * CHUNKS * 16;
    static constexpr int WAYS = CHUNKS < 8 ? CHUNKS : 8;
    static_assert(CHUNKS % WAYS == 0 && (WAYS & (WAYS - 1)) == 0, "a power of two, or eights");

    // Where a chunk of a line lies, in bytes.
    __device__ static int place(int line, int chunk) {
        // floats that lie across the depth are read one by one, four lines and two chunks at a time
        const int change = ALONG || sizeof(T) == 2 ? line * WAYS / 8 % WAYS
                                                   : line * WAYS / 8 % (WAYS / 2) * 2;
        return (line * CHUNKS + (chunk ^ change)) * 16;
    }

    // This lane's share of 16 rows or columns, from `first` on, and 32 bytes of depth: the words of
    // an `a`, or, as the SECOND operand, the two words of a `b` and those of its right neighbour.
    // They are four matrices of eight rows (or columns) by 16 bytes.
    template <bool SECOND>
    __device__ static Words fragment(const unsigned char* at, int first, int depth32) {
        const int lane = threadIdx.x % 32;
        const auto lower = [](int i) { return SECOND ? i / 2 : i % 2; };  // rows 8 to 15
        const auto deeper = [](int i) { return SECOND ? i % 2 : i / 2; };  // bytes 16 to 31
        if constexpr (ALONG) {
            const int line = first + lower(lane / 8) * 8 + lane % 8;
            return load_matrices(at + place(line, 2 * depth32 + deeper(lane / 8)));
        } else if constexpr (sizeof(T) == 2) {
            const int line = 16 * depth32 + deeper(lane / 8) * 8 + lane % 8;
            return load_matrices_transposed(at + place(line, first / VECTOR + lower(lane / 8)));
        } else {
            Words words;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int line = 8 * depth32 + deeper(i) * 4 + lane % 4;
                const int extent = first + lower(i) * 8 + lane / 4;
                const unsigned char* chunk = at + place(line, extent / VECTOR);
                words.at[i] = reinterpret_cast<const unsigned*>(chunk)[extent % VECTOR];
            }
            return words;
        }
    }
};

// A fragment as factors: 2-byte elements as they are; floats as one TF32 number, or as two that add
// up to it (all but the last bits): the product of sums is then three products, and a fourth that
// is too small to count (the "3xTF32" of CUTLASS's example 28). Infinities become NaN that way.
template <class T, int PARTS> struct Factors {
    Words part[PARTS];
    __device__ void set(const Words& words) {
        if constexpr (sizeof(T) == 2) {
            part[0] = words;
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float value = __uint_as_float(words.at[i]);
                part[0].at[i] = round_to_tf32(value);
                if constexpr (PARTS == 2)
                    part[1].at[i] = round_to_tf32(value - __uint_as_float(part[0].at[i]));
            }
        }
    }
};

// sums += what one step adds to the part of the tile that this warp owns.
template <class Tile, int PARTS, class First, class Second>
__device__ inline void multiply_step(typename Tile::Sums& sums, const unsigned char* first,
                                     const unsigned char* second) {
    using T = typename First::Element;
    const int warp = threadIdx.x / 32;
    const int row = warp / Tile::WARPS_ACROSS * Tile::WARP_ROWS;
    const int column = warp % Tile::WARPS_ACROSS * Tile::WARP_COLUMNS;
#pragma unroll(PARTS == 2 ? 1 : 8)  // sums outside the tensor cores would spill
    for (int depth32 = 0; depth32 < Tile::DEPTH * int(sizeof(T)) / 32; ++depth32) {
        Factors<T, PARTS> columns[Tile::PRODUCTS_ACROSS / 2];
#pragma unroll
        for (int j = 0; j < Tile::PRODUCTS_ACROSS / 2; ++j)
            columns[j].set(Second::template fragment<true>(second, column + 16 * j, depth32));
#pragma unroll
        for (int i = 0; i < Tile::PRODUCTS_DOWN; ++i) {
            Factors<T, PARTS> a;
            a.set(First::template fragment<false>(first, row + 16 * i, depth32));
#pragma unroll
            for (int j = 0; j < Tile::PRODUCTS_ACROSS; ++j) {
                const Factors<T, PARTS>& b = columns[j / 2];
                const int k = j % 2 * 2;  // the words of these eight columns
                if constexpr (PARTS == 2) {
                    // added outside: tensor cores cut their sums, each time, instead of rounding
                    float step[4] = {};
                    multiply_add<T>(step, a.part[1], b.part[0].at[k], b.part[0].at[k + 1]);
                    multiply_add<T>(step, a.part[0], b.part[1].at[k], b.part[1].at[k + 1]);
                    multiply_add<T>(step, a.part[0], b.part[0].at[k], b.part[0].at[k + 1]);
#pragma unroll
                    for (int e = 0; e < 4; ++e) sums[i][j][e] += step[e];
                } else {
                    multiply_add<T>(sums[i][j], a.part[0], b.part[0].at[k], b.part[0].at[k + 1]);
                }
            }
        }
    }
}

// sums = first @ second over `steps` steps of the depth; `shared` is free again at the end.
template <class Tile, int PARTS, class First, class Second>
__device__ inline void multiply(typename Tile::Sums& sums, First& first, Second& second, int steps,
                                unsigned char* shared) {
    using A = typename First::Memory;
    using B = typename Second::Memory;
    constexpr int STAGE = A::BYTES + B::BYTES;
#pragma unroll
    for (int i = 0; i < Tile::PRODUCTS_DOWN; ++i)
#pragma unroll
        for (int j = 0; j < Tile::PRODUCTS_ACROSS; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
    int filled = 0;  // where the stage lies that is copied to next
#pragma unroll
    for (int step = 0; step < Tile::STAGES - 1; ++step, filled += STAGE) {
        if (step < steps) {
            second.copy(shared + filled + A::BYTES);
            first.copy(shared + filled);
        }
        commit_copies();  // a group for every step, be it empty: they are counted
    }
    int ready = 0;
    for (int step = 0; step < steps; ++step) {
        wait_for_copies<Tile::STAGES - 2>();
        __syncthreads();  // this step has arrived; all warps are done with the one before
        if (step + Tile::STAGES - 1 < steps) {
            second.copy(shared + filled + A::BYTES);
            first.copy(shared + filled);
        }
        commit_copies();
        multiply_step<Tile, PARTS, A, B>(sums, shared + ready, shared + ready + A::BYTES);
        filled = filled == (Tile::STAGES - 1) * STAGE ? 0 : filled + STAGE;
        ready = ready == (Tile::STAGES - 1) * STAGE ? 0 : ready + STAGE;
    }
    wait_for_copies<0>();
    __syncthreads();
}

// Lay the sums out as [ROWS, STAGED_PITCH] floats, from which the epilogue takes whole rows. The
// pitch is 8 floats off a multiple of 32 banks: four lines of eight floats fill them all.
template <class Tile>
__device__ inline const float* stage(const typename Tile::Sums& sums, unsigned char* shared) {
    float* const staged = reinterpret_cast<float*>(shared);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int row = warp / Tile::WARPS_ACROSS * Tile::WARP_ROWS + g;
    const int column = warp % Tile::WARPS_ACROSS * Tile::WARP_COLUMNS + 2 * t;
#pragma unroll
    for (int i = 0; i < Tile::PRODUCTS_DOWN; ++i)
#pragma unroll
        for (int j = 0; j < Tile::PRODUCTS_ACROSS; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at = (row + 16 * i + 8 * half) * Tile::STAGED_PITCH + column + 8 * j;
                store<2>(staged + at, Vector<float, 2>{sums[i][j][2 * half],
                                                       sums[i][j][2 * half + 1]});
            }
    __syncthreads();
    return staged;
}

// The tile (row, column) of a block: `group` tiles of rows before the next column, so that blocks
// which run at the same time find the same columns in the L2 cache.
struct Place { int row, column; };
__device__ inline Place place_of_block(int block, int row_tiles, int column_tiles, int group) {
    const int first = block / (group * column_tiles) * group;
    const int rows = min(row_tiles - first, group);
    const int within = block % (group * column_tiles);
    return {first + within % rows, within / rows};
}
