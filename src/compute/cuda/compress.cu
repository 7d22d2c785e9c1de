// Rows packed for wires, bit for bit: see compress.h. A warp takes a row, a lane eight values of it at a time. Packing is three steps: what each row will
// take, where its body goes, the bodies. Few rows, all of whose blocks run at once, take them in one launch, many in three. Agrees with `reference_pack` of
// tests/cuda/test_compress.c, byte for byte. Every kernel waits before it touches anything, then releases the next.
#include "compute/cuda/compress.h"

#include "compute/cuda/cuda.h"
#include "compute/cuda/pdl.cuh"

namespace {

enum { WARPS = 4, LANES = 32, EXPONENTS = 256, AS_IT_IS = 0, PLACERS = 1024 };
enum { FEW_BLOCKS = GR_CUDA_BALE_STATE - 1, FEW_BLOCKS_IN_ALL = 512 };      // of a wire; of all wires: 4 a processor, which all run at once

struct entry { uint32_t start; uint16_t n_elsewhere; uint8_t base, width; };
static_assert(sizeof(entry) == 8, "as it travels");

__host__ __device__ constexpr int64_t on_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

__host__ __device__ constexpr uint32_t body_bytes(uint32_t width, uint32_t hidden, uint32_t n_elsewhere) {
    return width == AS_IT_IS ? 2 * hidden : (hidden + hidden / 8 * width + n_elsewhere + 15) / 16 * 16;
}

// The row of this warp; rows behind a wire's last have none.
struct job {
    uint4 *row;                 // [groups] of 8 values
    char *packed;
    int32_t at, n_rows, groups, hidden;
    __device__ bool is_none() const { return at >= n_rows; }
    __device__ entry *table() const { return reinterpret_cast<entry *>(packed) + at; }
};

__device__ __forceinline__ int32_t rows_of(const gr_cuda_bales &b, int wire) {
    const int32_t most = b.wire[wire].n_rows;
    return b.n_sent ? max(0, min(most, b.n_sent[2 * wire])) : most;
}

__device__ __forceinline__ job job_of(const gr_cuda_bales &b) {
    const gr_cuda_bale &wire = b.wire[blockIdx.y];
    const int32_t at = (int32_t)(blockIdx.x * WARPS + threadIdx.x / LANES), groups = b.hidden / 8;
    return {reinterpret_cast<uint4 *>(wire.rows) + (int64_t)at * groups, wire.packed, at, rows_of(b, (int)blockIdx.y), groups, b.hidden};
}

// Sum over the lanes before this one; *total: over all.
__device__ __forceinline__ uint32_t sum_before(uint32_t own, uint32_t *total) {
    const int lane = threadIdx.x % LANES;
    uint32_t sum = own;
#pragma unroll
    for (int d = 1; d < LANES; d *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += other;
    }
    *total = __shfl_sync(~0u, sum, LANES - 1);
    return sum - own;
}

__device__ __forceinline__ uint32_t value_of(const uint32_t word[4], int i) { return word[i / 2] >> 16 * (i % 2) & 0xFFFFu; }

// ---- what each row will take. Grid: (rows / WARPS, wires) ----

// bins[e]: values with an exponent of at most e.
__device__ __forceinline__ void count_exponents(const job &j, uint32_t *bins) {
    const int lane = threadIdx.x % LANES;
    for (int e = lane; e < EXPONENTS; e += LANES) bins[e] = 0;
    __syncwarp();               // zeroed before anybody counts
#pragma unroll 4
    for (int32_t g = lane; g < j.groups; g += LANES) {
        const uint4 v = j.row[g];
        const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 8; i++) atomicAdd(&bins[value_of(word, i) >> 7 & 0xFFu], 1u);
    }
    __syncwarp();               // all are counted
    uint32_t upto[EXPONENTS / LANES], sum = 0, total;
#pragma unroll
    for (int i = 0; i < EXPONENTS / LANES; i++) upto[i] = sum += bins[lane * (EXPONENTS / LANES) + i];
    const uint32_t before = sum_before(sum, &total);
#pragma unroll
    for (int i = 0; i < EXPONENTS / LANES; i++) bins[lane * (EXPONENTS / LANES) + i] = before + upto[i];
    __syncwarp();               // sums are there
}

struct window { uint32_t base, n_inside; };

// Of all runs of `span` exponents the one with most values; of several the lowest.
__device__ __forceinline__ window best_window(const uint32_t *upto, int span) {
    uint32_t best = 0;
    for (int e = threadIdx.x % LANES; e < EXPONENTS; e += LANES) {
        const uint32_t inside = upto[min(e + span - 1, EXPONENTS - 1)] - (e > 0 ? upto[e - 1] : 0);
        best = max(best, inside << 8 | (uint32_t)(EXPONENTS - 1 - e));
    }
    best = __reduce_max_sync(~0u, best);
    return {EXPONENTS - 1 - (best & 0xFFu), best >> 8};
}

// Of this warp's row; it does not know where its body starts.
__device__ __forceinline__ entry choose_code(const job &j, uint32_t *bins) {
    uint32_t bytes = body_bytes(AS_IT_IS, j.hidden, 0);
    entry e = {0, 0, 0, AS_IT_IS};
    count_exponents(j, bins);
#pragma unroll
    for (int width = 3; width <= 4; width++) {
        const window w = best_window(bins, (1 << width) - 1);
        const uint32_t n_elsewhere = (uint32_t)j.hidden - w.n_inside, takes = body_bytes(width, j.hidden, n_elsewhere);
        if (takes >= bytes) continue;
        bytes = takes;
        e = {0, (uint16_t)n_elsewhere, (uint8_t)w.base, (uint8_t)width};
    }
    return e;
}

__global__ __launch_bounds__(WARPS * LANES) void choose_codes(const __grid_constant__ gr_cuda_bales bales) {
    pdl::wait();
    pdl::release_next();
    __shared__ uint32_t bins_of_warp[WARPS][EXPONENTS];
    const job j = job_of(bales);
    if (j.is_none()) return;
    const entry e = choose_code(j, bins_of_warp[threadIdx.x / LANES]);
    if (threadIdx.x % LANES == 0) *j.table() = e;
}

// ---- where bodies go. Grid: a block a wire; a thread a run of rows ----

__device__ __forceinline__ uint32_t first_body(int32_t n_rows) { return (uint32_t)(on_16(8 * (int64_t)n_rows) / 16); }

// Up to the first body.
__device__ __forceinline__ void end_table(entry *table, int32_t n_rows) {
    if (n_rows % 2) table[n_rows] = {0, 0, 0, 0};
}

__global__ __launch_bounds__(PLACERS) void place_bodies(const __grid_constant__ gr_cuda_bales bales, int64_t *n_bytes) {
    pdl::wait();
    pdl::release_next();
    __shared__ uint32_t of_warp[PLACERS / LANES];
    const int wire = blockIdx.x, t = threadIdx.x, warp = t / LANES;
    const int32_t n = rows_of(bales, wire), run = (n + PLACERS - 1) / PLACERS, first = min(n, t * run), last = min(n, first + run);
    entry *table = reinterpret_cast<entry *>(bales.wire[wire].packed);
    uint32_t own = 0, of_own_warp, of_all;
    for (int32_t r = first; r < last; r++) own += body_bytes(table[r].width, bales.hidden, table[r].n_elsewhere) / 16;
    uint32_t at = sum_before(own, &of_own_warp);
    if (t % LANES == 0) of_warp[warp] = of_own_warp;
    __syncthreads();            // sums of all warps are there
    const uint32_t before_warp = sum_before(of_warp[t % LANES], &of_all);
    at += first_body(n) + __shfl_sync(~0u, before_warp, warp);
    for (int32_t r = first; r < last; r++) {
        table[r].start = at;
        at += body_bytes(table[r].width, bales.hidden, table[r].n_elsewhere) / 16;
    }
    if (t == PLACERS - 1) n_bytes[wire] = 16 * (int64_t)at;
    if (t == 0) end_table(table, n);
}

// ---- bodies. Grid: (rows / WARPS, wires) ----

__device__ __forceinline__ void copy_row(const uint4 *from, int32_t groups, uint4 *to) {
#pragma unroll 4
    for (int32_t g = threadIdx.x % LANES; g < groups; g += LANES) to[g] = from[g];
}

// A lane's eight values: sign and mantissa, codes.
struct octet {
    uint32_t low[2], codes, n_elsewhere;

    __device__ __forceinline__ octet(const uint32_t word[4], uint32_t base, uint32_t width) : low{0, 0}, codes(0), n_elsewhere(0) {
        const uint32_t elsewhere = (1u << width) - 1;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t x = value_of(word, i), code = min((x >> 7 & 0xFFu) - base, elsewhere);      // below the base: a huge number
            low[i / 4] |= (x >> 8 & 0x80u | x & 0x7Fu) << 8 * (i % 4);
            codes |= code << width * i;
            n_elsewhere += code == elsewhere;
        }
    }
};

__device__ __forceinline__ void pack_row(const job &j, const entry &e, uint8_t *body) {
    const uint32_t width = e.width, elsewhere = (1u << width) - 1;
    uint8_t *codes = body + j.hidden, *exponents = codes + j.groups * width;
    uint32_t n_before = 0, total;
    for (int32_t first = 0; first < j.groups; first += LANES) {        // in step: lanes without values take part in the sums
        const int32_t g = first + threadIdx.x % LANES;
        const bool valid = g < j.groups;
        const uint4 v = valid ? j.row[g] : make_uint4(0, 0, 0, 0);
        const uint32_t word[4] = {v.x, v.y, v.z, v.w};
        const octet o(word, e.base, width);
        uint32_t at = n_before + sum_before(valid ? o.n_elsewhere : 0, &total);
        n_before += total;
        if (!valid) continue;
        reinterpret_cast<uint2 *>(body)[g] = make_uint2(o.low[0], o.low[1]);
        for (uint32_t k = 0; k < width; k++) codes[g * width + k] = (uint8_t)(o.codes >> 8 * k);
        if (o.n_elsewhere == 0) continue;
#pragma unroll
        for (int i = 0; i < 8; i++)
            if ((o.codes >> width * i & elsewhere) == elsewhere) exponents[at++] = (uint8_t)(value_of(word, i) >> 7);
    }
    const uint32_t end = (uint32_t)j.hidden + j.groups * width + n_before;
    for (uint32_t i = end + threadIdx.x % LANES; i < body_bytes(width, j.hidden, n_before); i += LANES) body[i] = 0;
}

__device__ __forceinline__ void write_body(const job &j, const entry &e) {
    char *body = j.packed + 16 * (int64_t)e.start;
    if (e.width == AS_IT_IS) copy_row(j.row, j.groups, reinterpret_cast<uint4 *>(body));
    else pack_row(j, e, reinterpret_cast<uint8_t *>(body));
}

__global__ __launch_bounds__(WARPS * LANES) void pack_rows(const __grid_constant__ gr_cuda_bales bales) {
    pdl::wait();
    pdl::release_next();
    const job j = job_of(bales);
    if (!j.is_none()) write_body(j, *j.table());
}

// ---- all of it, for few rows. Grid: (rows / WARPS, wires) ----

// Blocks of a wire tell each other what their rows take, in words that carry the number of the call: nobody zeroes them, and a word is all that is read.
struct board {
    uint64_t *word;         // [0] the last call and how many of its successor's blocks have read all; [1 + block]
    uint32_t number;

    __device__ __forceinline__ explicit board(uint64_t *state) : word(state), number(*(volatile uint32_t *)state + 1) {}
    __device__ __forceinline__ void tell(uint32_t takes) const { *(volatile uint64_t *)&word[1 + blockIdx.x] = (uint64_t)number << 32 | takes; }
    // Ends: blocks with lower numbers run, or have run, and wait for lower ones alone.
    __device__ __forceinline__ uint32_t told_by(int32_t block) const {
        for (;;) {
            const uint64_t told = *(volatile uint64_t *)&word[1 + block];
            if (told >> 32 == number) return (uint32_t)told;
        }
    }
    // By a thread of each of n blocks, behind all that the block reads here: the next call may begin.
    __device__ __forceinline__ void leave(int32_t n) const {
        uint32_t *head = reinterpret_cast<uint32_t *>(word);
        if (atomicInc(&head[1], n - 1) == n - 1) *(volatile uint32_t *)head = number;
    }
};

// 16s that the rows of lower blocks take. By a whole block; of_warp [WARPS] shared, not in use.
__device__ __forceinline__ uint32_t taken_before(const board &b, uint32_t *of_warp) {
    uint32_t own = 0, of_own_warp, before = 0;
    for (int32_t i = threadIdx.x; i < blockIdx.x; i += WARPS * LANES) own += b.told_by(i);
    sum_before(own, &of_own_warp);
    if (threadIdx.x % LANES == 0) of_warp[threadIdx.x / LANES] = of_own_warp;
    __syncthreads();            // sums of all warps are there
    for (int w = 0; w < WARPS; w++) before += of_warp[w];
    return before;
}

__global__ __launch_bounds__(WARPS * LANES, 4) void pack_few(const __grid_constant__ gr_cuda_bales bales, int64_t *n_bytes) {
    pdl::wait();
    pdl::release_next();
    __shared__ uint32_t bins_of_warp[WARPS][EXPONENTS], takes[WARPS], before_of_warp[WARPS];
    const job j = job_of(bales);
    const int wire = blockIdx.y, warp = threadIdx.x / LANES, n_blocks = max(1, (j.n_rows + WARPS - 1) / WARPS);
    if (blockIdx.x >= n_blocks) return;
    const board b(bales.state + (int64_t)wire * GR_CUDA_BALE_STATE);
    entry e = {0, 0, 0, AS_IT_IS};
    if (!j.is_none()) e = choose_code(j, bins_of_warp[warp]);
    if (threadIdx.x % LANES == 0) takes[warp] = j.is_none() ? 0 : body_bytes(e.width, j.hidden, e.n_elsewhere) / 16;
    __syncthreads();            // what all warps' rows take is there
    uint32_t of_block = 0, at = first_body(j.n_rows);
    for (int w = 0; w < WARPS; at += w < warp ? takes[w] : 0, w++) of_block += takes[w];
    if (threadIdx.x == 0) b.tell(of_block);
    const uint32_t before = taken_before(b, before_of_warp);
    if (threadIdx.x == 0) b.leave(n_blocks);
    if (threadIdx.x == 0 && blockIdx.x == n_blocks - 1) {
        n_bytes[wire] = 16 * (int64_t)(first_body(j.n_rows) + before + of_block);
        end_table(reinterpret_cast<entry *>(j.packed), j.n_rows);
    }
    if (j.is_none()) return;
    e.start = at + before;
    if (threadIdx.x % LANES == 0) *j.table() = e;
    write_body(j, e);
}

// ---- and back. Grid: (rows / WARPS, wires) ----

__device__ __forceinline__ void expand_row(const job &j, const entry &e, const uint8_t *body) {
    const uint32_t width = e.width, elsewhere = (1u << width) - 1;
    const uint8_t *codes = body + j.hidden, *exponents = codes + j.groups * width;
    uint32_t n_before = 0, total;
    for (int32_t first = 0; first < j.groups; first += LANES) {        // in step, as in pack_row
        const int32_t g = first + threadIdx.x % LANES;
        const bool valid = g < j.groups;
        const uint2 low = valid ? reinterpret_cast<const uint2 *>(body)[g] : make_uint2(0, 0);
        uint32_t packed = 0, n_elsewhere = 0, word[4] = {0, 0, 0, 0};
        for (uint32_t k = 0; k < width && valid; k++) packed |= (uint32_t)codes[g * width + k] << 8 * k;
#pragma unroll
        for (int i = 0; i < 8; i++) n_elsewhere += (packed >> width * i & elsewhere) == elsewhere;
        uint32_t at = n_before + sum_before(valid ? n_elsewhere : 0, &total);
        n_before += total;
        if (!valid) continue;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t code = packed >> width * i & elsewhere, s = (i < 4 ? low.x : low.y) >> 8 * (i % 4);
            uint32_t exponent = e.base + code & 0xFFu;
            if (code == elsewhere) exponent = at < e.n_elsewhere ? exponents[at] : 0, at++;
            word[i / 2] |= ((s & 0x80u) << 8 | exponent << 7 | s & 0x7Fu) << 16 * (i % 2);
        }
        j.row[g] = make_uint4(word[0], word[1], word[2], word[3]);
    }
}

// Whether the body is one, and in the bytes that so many rows may take.
__device__ __forceinline__ bool is_sound(const job &j, const entry &e) {
    const int64_t most = on_16(8 * (int64_t)j.n_rows) + 2 * (int64_t)j.hidden * j.n_rows;
    return (e.width == AS_IT_IS || e.width == 3 || e.width == 4) && 16 * (int64_t)e.start + body_bytes(e.width, j.hidden, e.n_elsewhere) <= most;
}

__global__ __launch_bounds__(WARPS * LANES) void expand_rows(const __grid_constant__ gr_cuda_bales bales) {
    pdl::wait();
    pdl::release_next();
    const job j = job_of(bales);
    if (j.is_none()) return;
    const entry e = *j.table();
    const char *body = j.packed + 16 * (int64_t)e.start;
    if (!is_sound(j, e)) return;
    if (e.width == AS_IT_IS) copy_row(reinterpret_cast<const uint4 *>(body), j.groups, j.row);
    else expand_row(j, e, reinterpret_cast<const uint8_t *>(body));
}

grace_status check(const gr_cuda_bales *b, int32_t *n_rows_most) {
    grace_status st = GRACE_OK;
    *n_rows_most = 0;
    GR_CHECK(b->hidden > 0 && b->hidden % 8 == 0 && b->hidden <= GR_CUDA_PACKED_WIDTH_MAX, GRACE_ERR_LIMIT,
             "compress: expected a width that is a multiple of 8 up to %d, found %d", GR_CUDA_PACKED_WIDTH_MAX, b->hidden);
    GR_CHECK(b->n_wires >= 0 && b->n_wires <= GR_CUDA_WIRES_MAX, GRACE_ERR_LIMIT, "compress: expected up to %d wires, found %d", GR_CUDA_WIRES_MAX, b->n_wires);
    for (int32_t w = 0; w < b->n_wires; w++) {
        const gr_cuda_bale *p = &b->wire[w];
        GR_CHECK(p->n_rows >= 0, GRACE_ERR_ARG, "compress: expected 0 or more rows, found %d", p->n_rows);
        GR_CHECK(((uintptr_t)p->rows | (uintptr_t)p->packed) % 16 == 0, GRACE_ERR_ARG, "compress: rows and packed bytes of wire %d do not lie on 16 bytes", w);
        if (*n_rows_most < p->n_rows) *n_rows_most = p->n_rows;
    }
done:
    return st;
}

dim3 grid_of(const gr_cuda_bales *b, int32_t n_rows_most) { return dim3((n_rows_most + WARPS - 1) / WARPS, b->n_wires); }

bool is_few(const gr_cuda_bales *b, const dim3 &grid) { return b->state && grid.x >= 1 && grid.x <= FEW_BLOCKS && grid.x * grid.y <= FEW_BLOCKS_IN_ALL; }

}  // namespace

extern "C" int64_t gr_cuda_packed_bytes(int64_t n_rows, int32_t hidden) { return on_16(8 * n_rows) + 2 * (int64_t)hidden * n_rows; }

extern "C" grace_status gr_cuda_compress(const gr_cuda_bales *bales, int64_t *n_bytes, gr_cuda_stream stream) {
    int32_t n = 0;
    const grace_status st = check(bales, &n);
    if (st != GRACE_OK || bales->n_wires == 0) return st;
    const dim3 grid = grid_of(bales, n);
    if (is_few(bales, grid)) pdl::launch(pack_few, grid, WARPS * LANES, 0, stream, true, *bales, n_bytes);
    else {
        if (n > 0) pdl::launch(choose_codes, grid, WARPS * LANES, 0, stream, true, *bales);
        pdl::launch(place_bodies, bales->n_wires, PLACERS, 0, stream, true, *bales, n_bytes);
        if (n > 0) pdl::launch(pack_rows, grid, WARPS * LANES, 0, stream, true, *bales);
    }
    return gr_cuda_status(cudaGetLastError(), "compress");
}

extern "C" grace_status gr_cuda_expand(const gr_cuda_bales *bales, gr_cuda_stream stream) {
    int32_t n = 0;
    const grace_status st = check(bales, &n);
    if (st != GRACE_OK || bales->n_wires == 0 || n == 0) return st;
    // Where the host knows the numbers, rows may have come behind an event of another stream: such a launch overlaps nothing.
    pdl::launch(expand_rows, grid_of(bales, n), WARPS * LANES, 0, stream, bales->n_sent != NULL, *bales);
    return gr_cuda_status(cudaGetLastError(), "expand");
}
