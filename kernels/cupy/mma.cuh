// Matrix instructions that a warp runs as one: ldmatrix and mma.sync, of sm_80 and newer.
//
// A warp holds small matrices in pieces ("fragments"); these are the PTX ISA's. A word is 32 bits:
// two 2-byte elements, or one float. With g = lane / 4 and t = lane % 4, and the depth counted in
// bytes (a product is 32 bytes deep: 16 elements of 2 bytes, 8 floats):
//
//     a [16 rows, 32 bytes]      word 0: row g, bytes 4t..4t+3      word 1: row g + 8, the same
//                                word 2: row g, bytes 16+4t..       word 3: row g + 8, the same
//     b [32 bytes, 8 columns]    word 0: column g, bytes 4t..4t+3   word 1: column g, bytes 16+4t..
//     sums [16 rows, 8 columns]  0: row g, column 2t                1: row g, column 2t + 1
//                                2, 3: row g + 8, the same columns
#pragma once
#include "common.cuh"

struct Words { unsigned at[4]; };

#ifdef CNNENGINE_SIMULATOR

inline Words load_matrices(const void* line) {
    simulator::aligned(static_cast<const char*>(line), 16, "ldmatrix");
    const auto lines = simulator::exchange(static_cast<const char*>(line), "ldmatrix");
    const int g = simulator::lane() / 4, t = simulator::lane() % 4;
    Words words;
    for (int i = 0; i < 4; ++i) memcpy(&words.at[i], lines[8 * i + g] + 4 * t, 4);
    return words;
}

inline Words load_matrices_transposed(const void* line) {
    simulator::aligned(static_cast<const char*>(line), 16, "ldmatrix.trans");
    const auto lines = simulator::exchange(static_cast<const char*>(line), "ldmatrix.trans");
    const int g = simulator::lane() / 4, t = simulator::lane() % 4;
    Words words;
    for (int i = 0; i < 4; ++i) {
        unsigned short low, high;
        memcpy(&low, lines[8 * i + 2 * t] + 2 * g, 2);
        memcpy(&high, lines[8 * i + 2 * t + 1] + 2 * g, 2);
        words.at[i] = low | unsigned(high) << 16;
    }
    return words;
}

inline unsigned round_to_tf32(float value) {
    const unsigned bits = __float_as_uint(value);
    const bool special = (bits & 0x7f800000) == 0x7f800000;  // infinity, NaN
    return special ? bits : (bits + 0x1000) & ~0x1fffu;      // half a unit, away from zero
}

// The elements of a word as the multiplier sees them: of a float it reads the upper 19 bits.
inline int unpack(float16, unsigned word, float* to) {
    to[0] = widen(float16{(unsigned short)word});
    to[1] = widen(float16{(unsigned short)(word >> 16)});
    return 2;
}
inline int unpack(bfloat16, unsigned word, float* to) {
    to[0] = __uint_as_float(word << 16);
    to[1] = __uint_as_float(word & 0xffff0000);
    return 2;
}
inline int unpack(float, unsigned word, float* to) {
    to[0] = __uint_as_float(word & ~0x1fffu);
    return 1;
}

// Tensor cores do not round their sums but cut them (Fasi, Higham, Mikaitis & Pranesh 2021).
inline float cut(double sum) {
    const float nearest = float(sum);
    const bool over = sum > 0 ? nearest > sum : nearest < sum;
    return over && !isinf(nearest) ? __uint_as_float(__float_as_uint(nearest) - 1) : nearest;
}

template <class T>
inline void multiply_add(float (&sums)[4], const Words& a, unsigned b0, unsigned b1) {
    constexpr int EACH = 4 / sizeof(T);  // elements of a word
    struct { float a[4][EACH], b[2][EACH]; } mine;
    for (int i = 0; i < 4; ++i) unpack(T(), a.at[i], mine.a[i]);
    unpack(T(), b0, mine.b[0]);
    unpack(T(), b1, mine.b[1]);
    const auto all = simulator::exchange(mine, "mma.sync");
    const int g = simulator::lane() / 4, t = simulator::lane() % 4;
    double made[4] = {sums[0], sums[1], sums[2], sums[3]};
    for (int quarter = 0; quarter < 4; ++quarter) {
        const auto rows = all[4 * g + quarter];
        for (int j = 0; j < 2; ++j) {
            const auto column = all[4 * (2 * t + j) + quarter];
            for (int half = 0; half < 2; ++half)
                for (int e = 0; e < EACH; ++e) {
                    made[j] += double(rows.a[2 * half][e]) * column.b[half][e];
                    made[j + 2] += double(rows.a[2 * half + 1][e]) * column.b[half][e];
                }
        }
    }
    for (int i = 0; i < 4; ++i) sums[i] = cut(made[i]);
}

#else

// Four 8x8 matrices of 2-byte elements: lane l names the 16-byte line l % 8 of matrix l / 8, and
// word i is this lane's share of matrix i: elements (g, 2t) and (g, 2t + 1), or float (g, t).
__device__ inline Words load_matrices(const void* line) {
    Words words;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.at[0]), "=r"(words.at[1]), "=r"(words.at[2]), "=r"(words.at[3])
                 : "r"(shared_address(line)) : "memory");
    return words;
}

// The same, but word i holds elements (2t, g) and (2t + 1, g) of matrix i.
__device__ inline Words load_matrices_transposed(const void* line) {
    Words words;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.at[0]), "=r"(words.at[1]), "=r"(words.at[2]), "=r"(words.at[3])
                 : "r"(shared_address(line)) : "memory");
    return words;
}

// A float with 10 bits behind the point, nearest, ties away from zero.
__device__ inline unsigned round_to_tf32(float value) {
    unsigned rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
    return rounded;
}

// sums += a @ b, for elements of type T; for float the products are of TF32 numbers.
#define CNNENGINE_MMA(shape, type)                                                       \
    asm("mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 "                 \
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"       \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])            \
                 : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b0), "r"(b1))

template <class T>
__device__ inline void multiply_add(float (&sums)[4], const Words& a, unsigned b0, unsigned b1);
template <>
__device__ inline void multiply_add<float16>(float (&sums)[4], const Words& a, unsigned b0,
                                             unsigned b1) {
    CNNENGINE_MMA("m16n8k16", "f16");
}
template <>
__device__ inline void multiply_add<bfloat16>(float (&sums)[4], const Words& a, unsigned b0,
                                              unsigned b1) {
    CNNENGINE_MMA("m16n8k16", "bf16");
}
template <>
__device__ inline void multiply_add<float>(float (&sums)[4], const Words& a, unsigned b0,
                                           unsigned b1) {
    CNNENGINE_MMA("m16n8k8", "tf32");
}
#undef CNNENGINE_MMA

#endif
