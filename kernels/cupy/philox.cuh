// Philox4x32-10, random numbers by counting (Salmon, Moraes, Dror & Shaw 2011), with the words of
// kernels/philox.py: block i / 4 of a stream is its numbers i … i + 3 (i a multiple of 4).
#pragma once

struct Numbers {
    unsigned at[4];
};

// Ten rounds on the counter (block low, block high, step, stream) under the key (seed low, high).
__device__ inline Numbers philox(long long block, const unsigned* key) {
    unsigned c0 = static_cast<unsigned>(block), c1 = static_cast<unsigned>(block >> 32);
    unsigned c2 = key[2], c3 = key[3];
    unsigned k0 = key[0], k1 = key[1];
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned long long product0 = 0xD2511F53ULL * c0;  // 32 x 32 bits, all 64
        const unsigned long long product1 = 0xCD9E8D57ULL * c2;
        c0 = static_cast<unsigned>(product1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<unsigned>(product1);
        c2 = static_cast<unsigned>(product0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<unsigned>(product0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}
