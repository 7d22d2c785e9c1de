// Tokens from logits, in two launches:
//
//     largest     a block a piece of a row: its largest logit and where
//     finish      greedy rows: the largest of the pieces; others: a block a row draws
//
// A draw without a cut goes through the row in order of ids, sums in double. A cut needs the order of weights, but never sorts: what top_k, top_p
// and u ask for is always "the first weight, from the largest down, at which a count or a sum passes a bound". A radix descent over the bits of the
// weight finds it: ten bits a level, a histogram of counts and of mantissas (integers: exact, whatever the order of the additions), a scan of its bins
// from above. Once few candidates are left above the cut they are listed in shared memory.
#include "compute/cuda/sample.h"

#include <math.h>

#include "compute/cuda/cuda.h"
#include "compute/cuda/lanes.cuh"

namespace {

enum { PIECE = 4096, PIECE_THREADS = 256, THREADS = 1024, TILE = 4 * THREADS, TILES_MAX = GR_CUDA_VOCAB_MAX / TILE };
enum { BINS = 1024, BIN_BITS = 10, LISTED_MAX = 2048 };
static_assert(PIECE % (4 * PIECE_THREADS) == 0 && (int)BINS == (int)THREADS, "a thread has whole groups of four logits, and one bin");

struct matrix { const float *logits; int64_t step; int32_t vocab, n_pieces; bool in_fours; };

// Logits at .. at + 3 of a row; those behind the vocabulary are -infinity.
__device__ __forceinline__ void load_four(const matrix &m, int64_t row, int32_t at, float to[4]) {
    const float *from = m.logits + row * m.step + at;
    if (m.in_fours && at + 4 <= m.vocab) {
        const float4 v = *reinterpret_cast<const float4 *>(from);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = at + i < m.vocab ? from[i] : -INFINITY;
}

// ---- the largest: a key grows with the logit, then with falling id; FLAWED is above all, 0 below ----
const uint64_t FLAWED = UINT64_MAX;

__device__ __forceinline__ uint64_t key_of(float logit, int32_t id) { return (uint64_t)lanes::ordered(logit + 0.0f) << 32 | (uint32_t)~id; } // -0: 0
__device__ __forceinline__ float logit_of_key(uint64_t key) { return lanes::of_ordered((uint32_t)(key >> 32)); }
__device__ __forceinline__ int32_t id_of_key(uint64_t key) { return (int32_t)~(uint32_t)key; }

__device__ __forceinline__ uint64_t largest_of_warp(uint64_t key) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) key = max(key, __shfl_xor_sync(~0u, key, d));
    return key;
}

// Grid: (pieces, rows). largest [n_rows, n_pieces]
__global__ __launch_bounds__(PIECE_THREADS) void find_largest(matrix m, uint64_t *largest) {
    enum { FOURS = PIECE / (4 * PIECE_THREADS) };
    __shared__ uint64_t of_warp[PIECE_THREADS / 32];
    const int64_t row = blockIdx.y;
    const int32_t from = blockIdx.x * PIECE + 4 * threadIdx.x;
    float x[FOURS][4], best = -INFINITY;
    int32_t id = min(from, m.vocab - 1);
    bool flawed = false;
#pragma unroll
    for (int i = 0; i < FOURS; i++) load_four(m, row, from + i * 4 * PIECE_THREADS, x[i]);
#pragma unroll
    for (int i = 0; i < FOURS; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            flawed = flawed || !(x[i][j] < INFINITY);
            if (x[i][j] > best) best = x[i][j], id = from + i * 4 * PIECE_THREADS + j;
        }
    const uint64_t key = largest_of_warp(flawed ? FLAWED : key_of(best, id));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = key;
    __syncthreads();        // keys of all warps are there
    if (threadIdx.x >= 32) return;
    const uint64_t all = largest_of_warp(threadIdx.x < PIECE_THREADS / 32 ? of_warp[threadIdx.x] : 0);
    if (threadIdx.x == 0) largest[row * m.n_pieces + blockIdx.x] = all;
}

// By a warp, from its row's pieces.
__device__ uint64_t largest_of_row(const matrix &m, const uint64_t *largest, int64_t row) {
    uint64_t key = 0;
    for (int32_t i = threadIdx.x % 32; i < m.n_pieces; i += 32) key = max(key, largest[row * m.n_pieces + i]);
    key = largest_of_warp(key);
    return logit_of_key(key) == -INFINITY ? FLAWED : key;
}

__device__ void write_largest(uint64_t key, int64_t row, int32_t *ids, int32_t *flaw) {
    if (key == FLAWED) atomicCAS(flaw, 0, (int32_t)row + 1);
    ids[row] = key == FLAWED ? 0 : id_of_key(key);
}

// Grid: a warp a row.
__global__ __launch_bounds__(PIECE_THREADS) void finish_greedy(matrix m, int32_t n_rows, const uint64_t *largest, int32_t *ids, int32_t *flaw) {
    const int64_t row = (int64_t)blockIdx.x * (PIECE_THREADS / 32) + threadIdx.x / 32;
    if (row >= n_rows) return;
    const uint64_t key = largest_of_row(m, largest, row);
    if (threadIdx.x % 32 == 0) write_largest(key, row, ids, flaw);
}

// ---- a block draws ----
struct drawing {
    matrix m;
    int64_t row;
    float most, temperature;
    int32_t n_listed;               // -1: candidates are all ids; else those in the list
};

struct shared {
    uint64_t largest;
    union {
        double sum_of_tile[TILES_MAX];
        struct { uint32_t n[BINS], middle[BINS], last[BINS]; } bin;     // items; sums of their second and third digit
    };
    double of_warp[32];
    int32_t n_of_warp[32];
    double before, found_sum;       // what a search found
    int32_t n_before, found, n_found;
    uint32_t key[LISTED_MAX];       // candidates by id
    int32_t id[LISTED_MAX];
};

// exp((logit - most) / temperature) of ids at .. at + 3: the cpu's weights. Those behind the vocabulary are 0.
__device__ __forceinline__ void load_weights(const drawing &d, int32_t at, float to[4]) {
    load_four(d.m, d.row, at, to);
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = lanes::exp_as_cpu(__fdiv_rn(__fsub_rn(to[i], d.most), d.temperature));
}

__device__ __forceinline__ int32_t n_candidates(const drawing &d) { return d.n_listed < 0 ? d.m.vocab : d.n_listed; }

// Bits of the weights of candidates at .. at + 3; those that are not there or weigh nothing are 0.
__device__ __forceinline__ void load_keys(const drawing &d, const shared &s, int32_t at, uint32_t to[4]) {
    if (d.n_listed < 0) {
        float p[4];
        load_weights(d, at, p);
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = __float_as_uint(p[i]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = at + i < d.n_listed ? s.key[at + i] : 0;
}

// Sum over the threads before this one, and over all.
template <class T> __device__ __forceinline__ T scan_block(T x, T *of_warp, T *all) {
    const int lane = threadIdx.x % 32;
    T sum = x;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const T left = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += left;
    }
    __syncthreads();        // of_warp is free
    if (lane == 31) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();        // sums of all warps are there
    T before = 0, total = 0;
    for (int w = 0; w < THREADS / 32; w++) {
        if (w == threadIdx.x / 32) before = total;
        total += of_warp[w];
    }
    *all = total;
    return before + sum - x;
}

// The lowest of the block's values >= 0; others are INT32_MAX.
__device__ int32_t lowest_of_block(int32_t x, int32_t *of_warp) {
    x = __reduce_min_sync(~0u, x);
    __syncthreads();        // of_warp is free
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();        // all warps' are there
    return __reduce_min_sync(~0u, of_warp[threadIdx.x % 32]);
}

// ---- without a cut: in order of ids ----
__device__ double sum_tiles(const drawing &d, shared *s) {
    const int32_t n_tiles = (d.m.vocab + TILE - 1) / TILE;
    for (int32_t tile = 0; tile < n_tiles; tile++) {
        float p[4];
        load_weights(d, tile * TILE + 4 * threadIdx.x, p);
        const double sum = lanes::sum_of_block((double)p[0] + (double)p[1] + (double)p[2] + (double)p[3], s->of_warp);
        if (threadIdx.x == 0) s->sum_of_tile[tile] = sum;
        __syncthreads();    // of_warp is free
    }
    double total = 0;
    for (int32_t tile = 0; tile < n_tiles; tile++) total += s->sum_of_tile[tile];
    return total;
}

// The tile in which the running sum passes `bound`, or else the last that weighs anything; *before: the sum up to it.
__device__ int32_t find_tile(const drawing &d, const shared *s, double bound, double *before) {
    double sum = 0;
    int32_t found = 0;
    for (int32_t tile = 0; tile * TILE < d.m.vocab; tile++) {
        const double here = s->sum_of_tile[tile];
        if (here > 0) found = tile, *before = sum;
        sum += here;
        if (sum > bound) break;
    }
    return found;
}

// The first id of the tile with a weight at which the sum passes `bound`, or else its last with a weight.
__device__ int32_t find_in_tile(const drawing &d, shared *s, int32_t tile, double before, double bound) {
    const int32_t at = tile * TILE + 4 * threadIdx.x;
    int32_t passed = INT32_MAX, last = INT32_MAX;       // last: counted from the end, so that the lowest is wanted
    float p[4];
    double all;
    load_weights(d, at, p);
    double sum = before + scan_block((double)p[0] + (double)p[1] + (double)p[2] + (double)p[3], s->of_warp, &all);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum += (double)p[i];
        if (p[i] > 0) last = INT32_MAX - 1 - (at + i);
        if (p[i] > 0 && sum > bound && passed == INT32_MAX) passed = at + i;
    }
    passed = lowest_of_block(passed, s->n_of_warp);
    last = lowest_of_block(last, s->n_of_warp);
    return passed != INT32_MAX ? passed : INT32_MAX - 1 - last;
}

__device__ int32_t draw_from_all(const drawing &d, shared *s, double u) {
    double before = 0;
    const double bound = u * sum_tiles(d, s);
    const int32_t tile = find_tile(d, s, bound, &before);
    return find_in_tile(d, s, tile, before, bound);
}

// ---- with a cut: in order of falling weight ----
// A place in that order: the `n`-th (from 1), by id, of the candidates whose weight has the bits `key`; `sum` of all weights up to it.
struct mark { uint32_t key; int32_t n; double sum; };

// What is looked for: the first place at which the count reaches `count`, or the sum reaches (or, `passing`, passes) `bound`.
struct goal { int32_t count; double bound; bool passing; };
__device__ __forceinline__ bool reached(const goal &g, int32_t n, double sum) {
    return g.count > 0 ? n >= g.count : g.passing ? sum > g.bound : sum >= g.bound;
}

__device__ __forceinline__ uint32_t digit(uint32_t key, int level) { return key >> (20 - BIN_BITS * level) & (BINS - 1); }

// The sum of a bin's weights, whose bits are those of `prefix` from the level's digit upwards. Weights are normal floats: it is exact.
__device__ __forceinline__ double sum_of_bin(const shared &s, uint32_t prefix, int level) {
    const uint32_t key = prefix << (20 - BIN_BITS * level), bin = prefix & (BINS - 1), n = s.bin.n[bin];
    const uint64_t below = ((uint64_t)s.bin.middle[bin] << BIN_BITS) + s.bin.last[bin];
    const uint64_t mantissas = (uint64_t)n * (1u << 23 | (key & 0x7FFFFF)) + below;
    return n ? scalbn((double)mantissas, (int)(key >> 23) - 150) : 0;
}

__device__ void count_bins(const drawing &d, shared *s, uint32_t prefix, int level) {
    __syncthreads();        // whoever reads the bins is done
    s->bin.n[threadIdx.x] = s->bin.middle[threadIdx.x] = s->bin.last[threadIdx.x] = 0;
    __syncthreads();        // bins are empty
    for (int32_t at = 4 * threadIdx.x; at < n_candidates(d); at += TILE) {
        uint32_t key[4];
        load_keys(d, *s, at, key);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (key[i] == 0 || (level > 0 && key[i] >> (30 - BIN_BITS * level) != prefix)) continue;
            const uint32_t bin = digit(key[i], level);
            atomicAdd(&s->bin.n[bin], 1u);
            if (level < 1) atomicAdd(&s->bin.middle[bin], digit(key[i], 1));
            if (level < 2) atomicAdd(&s->bin.last[bin], digit(key[i], 2));
        }
    }
    __syncthreads();        // bins are full
}

// The first bin from above that reaches the goal, or else the last that is not empty; *n and *sum: what lies above it, before and after.
__device__ uint32_t find_bin(shared *s, uint32_t prefix, int level, const goal &g, int32_t *n, double *sum, int32_t *n_with) {
    const uint32_t bin = BINS - 1 - threadIdx.x, own = s->bin.n[bin];
    const double own_sum = sum_of_bin(*s, prefix << BIN_BITS | bin, level);
    int32_t all;
    double all_sum;
    const int32_t n_above = *n + scan_block((int32_t)own, s->n_of_warp, &all);
    const double sum_above = *sum + scan_block(own_sum, s->of_warp, &all_sum);
    const bool is_there = own > 0 && reached(g, n_above + (int32_t)own, sum_above + own_sum);
    int32_t found = lowest_of_block(is_there ? (int32_t)threadIdx.x : INT32_MAX, s->n_of_warp);
    if (found == INT32_MAX) found = THREADS - 1 - lowest_of_block(own > 0 ? THREADS - 1 - (int32_t)threadIdx.x : INT32_MAX, s->n_of_warp);
    if ((int32_t)threadIdx.x == found) s->n_before = n_above, s->before = sum_above, s->n_found = n_above + (int32_t)own;
    __syncthreads();        // the bin's thread has written
    *n = s->n_before, *sum = s->before, *n_with = s->n_found;
    __syncthreads();        // all have read
    return BINS - 1 - found;
}

// Of n_equal candidates of weight p behind n and sum, those it takes to reach the goal.
__device__ mark mark_in(uint32_t key, const goal &g, int32_t n, double sum, int32_t n_equal) {
    const double p = (double)__uint_as_float(key), missing = (g.bound - sum) / p;
    double take = g.count > 0 ? (double)(g.count - n) : g.passing ? floor(missing) + 1 : ceil(missing);
    take = fmin(fmax(take, 1.0), (double)n_equal);
    return {key, (int32_t)take, sum + take * p};
}

// The candidates with at least the digit `lowest`, in order of ids.
__device__ void list_candidates(drawing *d, shared *s, uint32_t lowest) {
    int32_t n = 0;
    for (int32_t from = 0; from < d->m.vocab; from += TILE) {
        uint32_t key[4];
        int32_t own = 0, all;
        load_keys(*d, *s, from + 4 * threadIdx.x, key);
#pragma unroll
        for (int i = 0; i < 4; i++) own += key[i] != 0 && digit(key[i], 0) >= lowest;
        int32_t to = n + scan_block(own, s->n_of_warp, &all);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (key[i] != 0 && digit(key[i], 0) >= lowest) s->key[to] = key[i], s->id[to++] = from + 4 * threadIdx.x + i;
        n += all;
    }
    __syncthreads();        // the list is there
    d->n_listed = n;
}

// The histogram of level 0 is there. When few lie above what is found there, they become the only candidates: later goals are reached no later.
__device__ mark find(drawing *d, shared *s, const goal &g) {
    int32_t n = 0, n_with;
    double sum = 0;
    uint32_t prefix = find_bin(s, 0, 0, g, &n, &sum, &n_with);
    if (d->n_listed < 0 && n_with <= LISTED_MAX) list_candidates(d, s, prefix);
    for (int level = 1; level < 3; level++) {
        count_bins(*d, s, prefix, level);
        prefix = prefix << BIN_BITS | find_bin(s, prefix, level, g, &n, &sum, &n_with);
    }
    return mark_in(prefix, g, n, sum, n_with - n);
}

// The n-th of the candidates with these bits, by id.
__device__ int32_t find_id(const drawing &d, shared *s, const mark &m) {
    int32_t n = 0;
    for (int32_t from = 0; from < n_candidates(d) && n < m.n; from += TILE) {
        uint32_t key[4];
        int32_t own = 0, all;
        load_keys(d, *s, from + 4 * threadIdx.x, key);
#pragma unroll
        for (int i = 0; i < 4; i++) own += key[i] == m.key;
        int32_t before = n + scan_block(own, s->n_of_warp, &all);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (key[i] == m.key && ++before == m.n) s->found = from + 4 * threadIdx.x + i;
        n += all;
    }
    __syncthreads();        // the one thread has written
    return d.n_listed < 0 ? s->found : s->id[s->found];
}

__device__ mark find_anew(drawing *d, shared *s, const goal &g) {
    count_bins(*d, s, 0, 0);
    return find(d, s, g);
}

// The sum of all weights, from the histogram of level 0.
__device__ double sum_of_bins(shared *s) {
    double all;
    scan_block(sum_of_bin(*s, BINS - 1 - threadIdx.x, 0), s->of_warp, &all);
    return all;
}

__device__ int32_t draw_from_cut(drawing *d, shared *s, int32_t top_k, float top_p, double u) {
    mark last = {0, 0, 0};      // the last that the cuts leave
    count_bins(*d, s, 0, 0);
    if (top_k > 0 && top_k < d->m.vocab) last = find(d, s, {top_k, 0, false});
    else last.sum = sum_of_bins(s);
    if (top_p < 1) last = find_anew(d, s, {0, (double)top_p * last.sum, false});
    mark drawn = find_anew(d, s, {0, u * last.sum, true});
    if (drawn.key < last.key || (drawn.key == last.key && drawn.n > last.n)) drawn = last;     // rounding must not choose what was cut
    return find_id(*d, s, drawn);
}

// Grid: a block a row.
__global__ __launch_bounds__(THREADS) void finish(matrix m, const uint64_t *largest, gr_draws draws, int32_t *ids, int32_t *flaw) {
    extern __shared__ unsigned char memory[];
    shared *s = reinterpret_cast<shared *>(memory);
    const int64_t row = blockIdx.x;
    const float temperature = draws.temperature[row], top_p = draws.top_p[row];
    const int32_t top_k = draws.top_k[row];
    if (threadIdx.x < 32) s->largest = largest_of_row(m, largest, row);
    __syncthreads();        // the largest is there
    const uint64_t key = s->largest;
    if (key == FLAWED || !(temperature > 0)) {
        if (threadIdx.x == 0) write_largest(key, row, ids, flaw);
        return;
    }
    drawing d = {m, row, logit_of_key(key), temperature, -1};
    const bool cut = (top_k > 0 && top_k < m.vocab) || top_p < 1;
    const int32_t id = cut ? draw_from_cut(&d, s, top_k, top_p, draws.u[row]) : draw_from_all(d, s, draws.u[row]);
    if (threadIdx.x == 0) ids[row] = id;
}

}  // namespace

static int32_t n_pieces_of(int32_t vocab) { return (vocab + PIECE - 1) / PIECE; }

extern "C" int64_t gr_cuda_sample_scratch(int32_t n_rows_max, int32_t vocab) {
    return (int64_t)n_rows_max * n_pieces_of(vocab) * (int64_t)sizeof(uint64_t);
}

extern "C" grace_status gr_cuda_sample(const float *logits, int64_t step, int32_t n_rows, int32_t vocab, const gr_draws *draws, int32_t *ids,
                                       int32_t *flaw, void *scratch, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    uint64_t *largest = (uint64_t *)scratch;
    const matrix m = {logits, step, vocab, n_pieces_of(vocab), step % 4 == 0 && (uintptr_t)logits % 16 == 0};
    GR_CHECK(vocab >= 1 && vocab <= GR_CUDA_VOCAB_MAX, GRACE_ERR_LIMIT, "cuda: %d logits to sample from, expected 1 to %d", vocab, GR_CUDA_VOCAB_MAX);
    GR_CHECK(step >= vocab, GRACE_ERR_ARG, "cuda: rows of %d logits, %lld apart", vocab, (long long)step);
    if (n_rows == 0) return GRACE_OK;
    find_largest<<<dim3((unsigned)m.n_pieces, (unsigned)n_rows), PIECE_THREADS, 0, stream>>>(m, largest);
    if (draws) finish<<<(unsigned)n_rows, THREADS, sizeof(shared), stream>>>(m, largest, *draws, ids, flaw);
    else finish_greedy<<<(unsigned)((n_rows + 7) / 8), PIECE_THREADS, 0, stream>>>(m, n_rows, largest, ids, flaw);
    st = gr_cuda_status(cudaGetLastError(), "sample");
done:
    return st;
}
