// Where the pixels of an image batch lie (kernels/spec/grid.py): in order, or with a border.
#pragma once
#include "common.cuh"

// `pitch` elements from pixel to pixel, `line` pixels from row to row, `lines` rows from image to
// image; an image may have a border of zeros on the right and below.
struct Grid {
    int lines, line, pitch;
    __device__ long long place(int n, int h, int w) const {
        return (((long long)n * lines + h) * line + w) * pitch;
    }
};
