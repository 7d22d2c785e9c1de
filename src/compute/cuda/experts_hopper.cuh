// What the expert kernels of wgmma and the copy engine share: pieces in a ring, rows gathered by threads, sums written by threads.
#ifndef GR_COMPUTE_CUDA_EXPERTS_HOPPER_CUH
#define GR_COMPUTE_CUDA_EXPERTS_HOPPER_CUH
#include "compute/cuda/experts.cuh"
#include "compute/cuda/hopper.cuh"
#include "compute/cuda/wgmma.cuh"

namespace experts {

enum { WARPGROUP = 128, BK = GR_CUDA_BOX_COLUMNS, ROW_BYTES = 2 * BK, GROUP_ROWS = 64 };
enum { PRODUCER_REGISTERS = 56, CONSUMER_REGISTERS = 224 };     // of two consumer groups; one needs no more than it starts with

// A piece of the ring, and how often the ring went round.
struct ring_place { int32_t stage, parity; };
template <int STAGES> __device__ __forceinline__ void advance(ring_place &r) {
    if (++r.stage == STAGES) r.stage = 0, r.parity ^= 1;
}

// A warpgroup gathers rows, 16 bytes a thread: eight threads a row, placed as the swizzle wants them; its first thread asks for the weights.
template <int BM> struct gather {
    static const int APART = WARPGROUP / 8, TURNS = BM / APART;      // rows APART apart swizzle alike
    tile w;
    int32_t source[TURNS];
    __device__ void aim(const product &p, const tile &at) {
        w = at;
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            int32_t row = threadIdx.x / 8 + APART * i;
            source[i] = row < w.n_pairs ? p.pairs.row(w.first_pair + row) : 0;
        }
    }
};

// A warp has read a stage.
__device__ __forceinline__ void give_back(uint64_t *empty) {
    if (threadIdx.x % 32 == 0) hopper::arrive(empty);
}

// The warpgroup's 64 x BN sums go out as bf16, 16 bytes a thread; with UP each 128 columns are 64 of gate and the same 64 of up.
template <int BN, bool UP> __device__ void write_group(const product &p, const tile &w, int32_t first_row, const float (&d)[BN / 2]) {
    const int BLOCKS = UP ? BN / 16 : BN / 8;       // of eight columns written
    int32_t thread = threadIdx.x % WARPGROUP, warp_row = first_row + thread / 32 * 16, row = warp_row + thread % 32 / 4;
    int32_t column = w.across * (UP ? BN / 2 : BN) + thread % 4 * 8;
    bf16 *out = p.out + (int64_t)(w.first_pair + row) * p.n_out + column;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (warp_row + 8 * half >= w.n_pairs) break;        /* none of the warp's */
        bool exists = row + 8 * half < w.n_pairs;
#pragma unroll
        for (int block = 0; block < BLOCKS; block += 4) {
            uint32_t v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int from = UP ? (block + i) / 8 * 16 + (block + i) % 8 : block + i, at = 4 * from + 2 * half, up = UP ? at + 32 : at;
                v[i] = UP ? pack_two(swiglu(d[at], d[up], 0), swiglu(d[at + 1], d[up + 1], 0)) : pack_two(d[at], d[at + 1]);
            }
            transpose_quad(v);
            if (exists && column + block * 8 < p.n_out)
                *reinterpret_cast<uint4 *>(out + (int64_t)8 * half * p.n_out + block * 8) = make_uint4(v[0], v[1], v[2], v[3]);
        }
    }
}

}  // namespace experts
#endif
