// Gradient with respect to w on tensor cores: a product summed over pixels, split, added in order.
//
//     dw [K, (r, s, c)]  =  sum over pixels of  dy [pixels, K] transposed  @  patches of x
//     with patches [pixels, (r, s, c)]
//
// Both operands lie in memory with the pixels, which are the depth here, across their lines. dw is
// small and the pixels are many: they are shared out among `splits` blocks for each tile, whose
// float32 sums go to the workspace and are added from the first split to the last.
#include "conv_mma_load.cuh"
#include "conv_mma_store.cuh"

template <class T, class Tile, int PARTS, bool EDGE, bool WIDE>
__global__ void __launch_bounds__(Tile::THREADS, sizeof(T) == 2 ? Tile::BLOCKS : 1)
conv2d_wgrad_mma_kernel(
    const T* x,   // [N, H, W, groups * C]
    const T* dy,  // [N, P, Q, groups * K]
    float* out,   // [splits, groups * K, R, S, C]
    int N, int H, int W, int P, int Q, int C, int K, int R, int S,  // C and K are those of a group
    int stride_h, int stride_w, int dilation_h, int dilation_w, int top, int left, int x_lines,
    int x_line, int x_pitch, int dy_lines, int dy_line, int dy_pitch,  // the Grid of each
    int groups,
    int positions,  // of the pixels of dy and of its border
    int splits,
    int steps,  // of Tile::DEPTH positions, in a split
    int wide,   // 16-byte stores
    int group_rows) {
    DYNAMIC_SHARED(shared);
    using A = Operand<T, Tile::ROWS, Tile::DEPTH, false>;
    using B = Operand<T, Tile::COLUMNS, Tile::DEPTH, false>;
    const int padded = whole(C, A::VECTOR);  // the channels of a tap in the tile
    const int row_tiles = (K + Tile::ROWS - 1) / Tile::ROWS;
    const int column_tiles = (R * S * padded + Tile::COLUMNS - 1) / Tile::COLUMNS;
    const int tiles = row_tiles * column_tiles;
    const int split = blockIdx.x / tiles % splits, group = blockIdx.x / tiles / splits;
    const Place tile = place_of_block(blockIdx.x % tiles, row_tiles, column_tiles, group_rows);
    const int first_k = tile.row * Tile::ROWS, first_t = tile.column * Tile::COLUMNS;
    const int first = split * steps * Tile::DEPTH;
    Gradients<A, Tile::THREADS, WIDE> gradients(dy + group * K, positions, dy_pitch, K, first,
                                                first_k, Tile::DEPTH);
    const Images<T> images = {x + group * C, H, W, C, {x_lines, x_line, x_pitch}};
    const Outputs outputs = {N, P, Q, dy_line, dy_lines, stride_h, stride_w};
    const Taps taps = {R, S, dilation_h, dilation_w};
    Patches<B, Tile::THREADS, EDGE, WIDE> patches(images, outputs, taps, top, left, first, first_t,
                                                  Tile::DEPTH);
    typename Tile::Sums sums;
    multiply<Tile, PARTS>(sums, gradients, patches, steps, shared);

    const float* const staged = stage<Tile>(sums, shared);
    using Mine = Rows<float, Tile>;
    const Mine mine;
    const int tap = (first_t + mine.column) / padded, c = (first_t + mine.column) % padded;
    const int valid = tap < R * S ? C - c : 0;
    if (valid <= 0) return;
    for (int row = mine.row; row < Tile::ROWS && first_k + row < K; row += Mine::SPACING) {
        const auto value = staged_values<4>(staged + row * Tile::STAGED_PITCH + mine.column);
        const long long filter = ((long long)split * groups + group) * K + first_k + row;
        store_chunk(out + ((filter * R * S + tap) * C + c), value, valid, wide);
    }
}
