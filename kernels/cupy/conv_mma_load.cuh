// Loaders: how the operands of `multiply` come from global to shared memory, chunk by chunk.
//
//     Pixels         lines are pixels, along the depth (r, s, c)       forward's x, dgrad's dy
//     Filters        lines are filters, along the depth (r, s, c)      forward's w
//     FiltersAcross  lines are depths (r, s, k), across the channels   dgrad's w
//     Gradients      lines are pixels (the depth), across the filters  wgrad's dy
//     Patches        lines are pixels (the depth), across (r, s, c)    wgrad's x
//
// Each thread keeps the same chunk of every line that it copies, so it knows its place in the depth
// (or in the tile) as a few numbers, which it counts on from step to step without a division. What
// lies outside an image, a filter or the depth is copied as zeros. A group's channels are counted
// in whole chunks (`padded`), so that a chunk never lies in two taps.
//
// WIDE loaders copy 16 bytes at a time in the background; they need every line to begin at a
// multiple of 16 bytes. The others take one element at a time, any channels at any address.
#pragma once
#include "conv_mma.cuh"
#include "grid.cuh"

// A count whose digits have different ranges: a depth as (r, s, channel), a pixel as (image, row,
// column).
struct Digits {
    int high, middle, low;
    __device__ static Digits of(int count, int middles, int lows) {
        return {count / lows / middles, count / lows % middles, count % lows};
    }
    // Count on by so many; both are below the ranges, so that each digit carries at most once.
    __device__ void add(const Digits& by, int middles, int lows) {
        low += by.low;
        const bool carry_low = low >= lows;
        low -= carry_low ? lows : 0;
        middle += by.middle + carry_low;
        const bool carry_middle = middle >= middles;
        middle -= carry_middle ? middles : 0;
        high += by.high + carry_middle;
    }
};

// `count`, rounded up to whole multiples of `of`.
__device__ constexpr int whole(int count, int of) { return (count + of - 1) / of * of; }

// Copy a chunk of 16 bytes, of which the first `valid` elements are there and the others zero.
template <bool WIDE, class T>
__device__ inline void copy_chunk(unsigned char* to, const T* from, int valid) {
    constexpr int VECTOR = 16 / sizeof(T);
    if constexpr (WIDE) {
        copy_async<16>(to, from, valid > 0 ? 16 : 0);  // WIDE: a chunk is there or not
    } else {
        Vector<T, VECTOR> chunk;
#pragma unroll
        for (int e = 0; e < VECTOR; ++e) chunk.at[e] = e < valid ? from[e] : T();
        store<VECTOR>(reinterpret_cast<T*>(to), chunk);
    }
}

// Which chunks of an operand a thread copies: the same chunk of every SPACING-th line.
template <class Memory_, int THREADS> struct Share {
    using Memory = Memory_;
    using T = typename Memory::Element;
    static constexpr int VECTOR = Memory::VECTOR;
    static_assert(THREADS % Memory::CHUNKS == 0, "a thread keeps its chunk");
    static constexpr int SPACING = THREADS / Memory::CHUNKS;
    static constexpr int COUNT = (Memory::LINES + SPACING - 1) / SPACING;
    int line, chunk;  // its first
    __device__ Share() : line(threadIdx.x / Memory::CHUNKS), chunk(threadIdx.x % Memory::CHUNKS) {}
    __device__ bool has(int i) const {
        return Memory::LINES % SPACING == 0 || line + i * SPACING < Memory::LINES;
    }
    __device__ int place(int i) const { return Memory::place(line + i * SPACING, chunk); }
};

// An image batch [images, height, width, channels of a group].
template <class T> struct Images {
    const T* at;
    int height, width, channels;
    Grid grid;
};

// x[n, h, w, c] for a tap and a pixel: its first tap's row and column, and steps from tap to tap.
struct Corner { int n, h, w; };
struct Taps { int rows, columns, row_step, column_step; };

template <class Memory_, int THREADS, bool EDGE, bool WIDE>
struct Pixels : Share<Memory_, THREADS> {
    using S = Share<Memory_, THREADS>;
    using typename S::T;
    const T* image[S::COUNT];
    int h[S::COUNT], w[S::COUNT];
    Images<T> x;
    Taps taps;
    int padded;
    Digits at, step;  // (r, s, c) of this thread's chunk

    // `corner_of(line)` is the Corner of the pixel in a line of the tile.
    template <class CornerOf>
    __device__ Pixels(const Images<T>& x, const Taps& taps, int padded, int depth,
                      const CornerOf& corner_of)
        : x(x), taps(taps), padded(padded),
          at(Digits::of(S::chunk * S::VECTOR, taps.columns, padded)),
          step(Digits::of(depth, taps.columns, padded)) {
#pragma unroll
        for (int i = 0; i < S::COUNT; ++i) {
            const Corner corner = corner_of(S::line + i * S::SPACING);
            image[i] = x.at + x.grid.place(corner.n, 0, 0);
            h[i] = corner.h;
            w[i] = corner.w;
        }
    }

    __device__ void copy(unsigned char* to) {
        const bool there = at.high < taps.rows;
#pragma unroll
        for (int i = 0; i < S::COUNT; ++i) {
            if (!S::has(i)) break;
            int row = h[i] + at.high * taps.row_step, column = w[i] + at.middle * taps.column_step;
            bool inside = there;
            if constexpr (EDGE) {
                row = min(max(row, 0), x.height - 1);
                column = min(max(column, 0), x.width - 1);
            } else {  // a negative number is a large unsigned one
                inside = inside && unsigned(row) < unsigned(x.height) &&
                         unsigned(column) < unsigned(x.width);
            }
            const T* from = image[i] + ((row * x.grid.line + column) * x.grid.pitch + at.low);
            copy_chunk<WIDE>(to + S::place(i), from, inside ? x.channels - at.low : 0);
        }
        at.add(step, taps.columns, padded);
    }
};

template <class Memory_, int THREADS, bool WIDE> struct Filters : Share<Memory_, THREADS> {
    using S = Share<Memory_, THREADS>;
    using typename S::T;
    const T* filter[S::COUNT];
    int taps, channels, padded, depth, step;

    // w [filters, taps, channels] of the group; the tile begins at filter `first`.
    __device__ Filters(const T* w, int filters, int taps, int channels, int first, int depth_step)
        : taps(taps), channels(channels),
          padded(whole(channels, S::VECTOR)), depth(S::chunk * S::VECTOR),
          step(depth_step) {
#pragma unroll
        for (int i = 0; i < S::COUNT; ++i) {  // behind the last: the last again, never stored
            const int k = min(first + S::line + i * S::SPACING, filters - 1);
            filter[i] = w + (long long)k * taps * channels;
        }
    }

    __device__ void copy(unsigned char* to) {
        const int tap = WIDE ? 0 : depth / padded;  // 16-byte lines have no padding
        const int c = WIDE ? depth : depth % padded;
        const int valid = WIDE ? taps * channels - c : tap < taps ? channels - c : 0;
#pragma unroll
        for (int i = 0; i < S::COUNT; ++i)
            if (S::has(i))
                copy_chunk<WIDE>(to + S::place(i), filter[i] + tap * channels + c, valid);
        depth += step;
    }
};

// Which taps of a filter a phase of dgrad meets: from (first_row, first_column) on, in steps.
struct PhaseTaps { int rows, first_row, first_column, every_row, every_column; };

// It has no count of its own: it is copied before the pixels of the same step, whose place in the
// depth it reads. Their channels are padded to whole steps, so that a step lies in one tap.
template <class Memory_, int THREADS, bool WIDE, class Pixels>
struct FiltersAcross : Share<Memory_, THREADS> {
    using S = Share<Memory_, THREADS>;
    using typename S::T;
    const T* w;  // [filters, height, width, channels] of the group, at this thread's first element
    PhaseTaps taps;
    int filters, filter, width, channels, valid;  // filter: elements of one
    const Pixels& pixels;

    __device__ FiltersAcross(const T* w, const PhaseTaps& taps, int filters, int height, int width,
                             int channels, int first, const Pixels& pixels)
        : w(w + (S::line * height * width * channels + first + S::chunk * S::VECTOR)), taps(taps),
          filters(filters), filter(height * width * channels), width(width), channels(channels),
          valid(channels - first - S::chunk * S::VECTOR), pixels(pixels) {}

    __device__ void copy(unsigned char* to) {
        const Digits& at = pixels.at;
        const int r = taps.first_row + at.high * taps.every_row;
        const int s = taps.first_column + at.middle * taps.every_column;
#pragma unroll
        for (int i = 0; i < S::COUNT; ++i) {
            if (!S::has(i)) break;
            const int k = at.low - pixels.chunk * pixels.VECTOR + i * S::SPACING;  // of line 0
            const bool there = at.high < taps.rows && k + S::line < filters;
            const T* from = w + (k * filter + (r * width + s) * channels);
            copy_chunk<WIDE>(to + S::place(i), from, there ? valid : 0);
        }
    }
};

template <class Memory_, int THREADS, bool WIDE> struct Gradients : Share<Memory_, THREADS> {
    using S = Share<Memory_, THREADS>;
    using typename S::T;
    const T* dy;  // [positions, filters] of the group, at this thread's line and filter
    int pitch, position, positions, valid, step;

    __device__ Gradients(const T* dy, int positions, int pitch, int filters, int first_position,
                         int first_filter, int depth)
        : pitch(pitch), position(first_position + S::line), positions(positions),
          valid(filters - first_filter - S::chunk * S::VECTOR), step(depth) {
        this->dy = dy + ((long long)position * pitch + first_filter + S::chunk * S::VECTOR);
    }

    __device__ void copy(unsigned char* to) {
#pragma unroll
        for (int i = 0; i < S::COUNT; ++i)
            if (S::has(i))
                copy_chunk<WIDE>(to + S::place(i), dy + (long long)i * S::SPACING * pitch,
                                 position + i * S::SPACING < positions ? valid : 0);
        position += step;
        dy += (long long)step * pitch;
    }
};

// The pixels of dy are counted with its border, as it lies in memory; the border adds zeros.
struct Outputs { int images, rows, columns, line, lines, stride_h, stride_w; };

template <class Memory_, int THREADS, bool EDGE, bool WIDE>
struct Patches : Share<Memory_, THREADS> {
    using S = Share<Memory_, THREADS>;
    using typename S::T;
    Images<T> x;
    Outputs y;
    int h, w, c, valid;         // of this thread's tap, from a pixel's corner
    Digits at[S::COUNT], step;  // (n, p, q) of each line

    // The tile's columns begin at the padded (r, s, c) called `first`.
    __device__ Patches(const Images<T>& x, const Outputs& y, const Taps& taps, int top, int left,
                       int first_position, int first, int depth)
        : x(x), y(y), step(Digits::of(depth, y.lines, y.line)) {
        const int padded = whole(x.channels, S::VECTOR);
        const Digits tap = Digits::of(first + S::chunk * S::VECTOR, taps.columns, padded);
        h = tap.high * taps.row_step - top;
        w = tap.middle * taps.column_step - left;
        c = tap.low;
        valid = tap.high < taps.rows ? x.channels - c : 0;
#pragma unroll
        for (int i = 0; i < S::COUNT; ++i)
            at[i] = Digits::of(first_position + S::line + i * S::SPACING, y.lines, y.line);
    }

    __device__ void copy(unsigned char* to) {
#pragma unroll
        for (int i = 0; i < S::COUNT; ++i) {
            if (!S::has(i)) break;
            const Digits& pixel = at[i];
            int row = pixel.middle * y.stride_h + h, column = pixel.low * y.stride_w + w;
            bool inside = pixel.high < y.images && pixel.middle < y.rows && pixel.low < y.columns;
            if constexpr (EDGE) {
                row = min(max(row, 0), x.height - 1);
                column = min(max(column, 0), x.width - 1);
            } else {
                inside = inside && unsigned(row) < unsigned(x.height) &&
                         unsigned(column) < unsigned(x.width);
            }
            const T* from = x.at + (x.grid.place(pixel.high, row, column) + c);
            copy_chunk<WIDE>(to + S::place(i), from, inside ? valid : 0);
            at[i].add(step, y.lines, y.line);
        }
    }
};
