// What epilogues share: rows of staged sums in, chunks of 16 bytes of the result out.
#pragma once
#include "conv_mma.cuh"

// A thread's share of a tile in the epilogue: one chunk of VECTOR columns of every SPACING-th row.
template <class T, class Tile> struct Rows {
    static constexpr int VECTOR = 16 / sizeof(T);
    static constexpr int CHUNKS = Tile::COLUMNS / VECTOR;
    static constexpr int SPACING = Tile::THREADS / CHUNKS;
    static_assert(Tile::THREADS % CHUNKS == 0, "a thread keeps its columns");
    int row, column;  // its first
    __device__ Rows() : row(threadIdx.x / CHUNKS), column(threadIdx.x % CHUNKS * VECTOR) {}
};

// A chunk's values in float32.
template <int VECTOR> struct Values { float at[VECTOR]; };

template <int VECTOR> __device__ inline Values<VECTOR> staged_values(const float* from) {
    Values<VECTOR> values;
#pragma unroll
    for (int e = 0; e < VECTOR; e += 4) {
        const auto four = load<4>(from + e);
#pragma unroll
        for (int j = 0; j < 4; ++j) values.at[e + j] = four.at[j];
    }
    return values;
}

// Elements of a chunk that one instruction moves: a chunk of halves is two pieces of floats.
template <class T, int VECTOR>
constexpr int PIECE_OF = VECTOR * sizeof(T) < 16 ? VECTOR : 16 / sizeof(T);

// The first `valid` elements of a chunk, the others zero; in pieces if `wide` and all are valid.
template <int VECTOR, class T>
__device__ inline Values<VECTOR> load_chunk(const T* from, int valid, bool wide) {
    Values<VECTOR> values;
    if (wide && valid >= VECTOR) {
        constexpr int PIECE = PIECE_OF<T, VECTOR>;
#pragma unroll
        for (int e = 0; e < VECTOR; e += PIECE) {
            const auto piece = load<PIECE>(from + e);
#pragma unroll
            for (int j = 0; j < PIECE; ++j) values.at[e + j] = widen(piece.at[j]);
        }
    } else {
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) values.at[e] = e < valid ? widen(from[e]) : 0.0f;
    }
    return values;
}

// Round and write the first `valid` elements of a chunk.
template <class T, int VECTOR>
__device__ inline void store_chunk(T* to, const Values<VECTOR>& values, int valid, bool wide) {
    if (wide && valid >= VECTOR) {
        constexpr int PIECE = PIECE_OF<T, VECTOR>;
#pragma unroll
        for (int e = 0; e < VECTOR; e += PIECE) {
            Vector<T, PIECE> piece;
#pragma unroll
            for (int j = 0; j < PIECE; ++j) piece.at[j] = narrow<T>(values.at[e + j]);
            store<PIECE>(to + e, piece);
        }
    } else {
#pragma unroll
        for (int e = 0; e < VECTOR; ++e)
            if (e < valid) to[e] = narrow<T>(values.at[e]);
    }
}
