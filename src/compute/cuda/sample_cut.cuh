// Draws from what top_k and top_p leave, by a block a row. A cut needs the order of weights, but nothing is sorted: what top_k, top_p and u ask for
// is always "the first weight, from the largest down, at which a count or a sum passes a bound". A radix descent over its bits finds it, ten bits a
// level: a histogram of counts and of mantissas (integers: exact, whatever the order of the additions), a scan of its bins from above.
//
// Few weights matter as a rule. The largest logit of every run of 128 is known: the r-th largest of them is reached by at least r logits and by few
// more, so what is not below it, from the runs that reach it, is listed in shared memory, and the list answers everything if it holds enough.
#ifndef GR_COMPUTE_CUDA_SAMPLE_CUT_CUH
#define GR_COMPUTE_CUDA_SAMPLE_CUT_CUH
#include "compute/cuda/sample_row.cuh"

namespace sampling {

enum { BINS = 1024, BIN_BITS = 10, LEVELS = 3, OWN_BINS = BINS / THREADS, LISTED_MAX = 2048, RUNS_FEW = 64, RUNS_MANY = 512 };

// How many lie above a bin, with it, and the sum of those above.
struct height { int32_t n_above, n_with; double above; };

struct cut_workspace {
    workspace block;
    uint32_t n[BINS], low[BINS], high[BINS];        // of every bin: items, and the sum of their mantissas in two words
    uint32_t key[LISTED_MAX];           // the list, in any order
    int32_t id[LISTED_MAX];
    int32_t n_listed, id_found;
    uint32_t bin_found;
    height height_found;
};

// Where weights come from: all ids, the largest of every run, or the list.
enum source { ALL, LARGEST_OF_RUNS, LISTED };

struct cutting { drawing d; const float *largest_of_run; cut_workspace *s; source from; int32_t n; };

// Bits of the weights of items at .. at + 3. They grow with the weight; 0: not there, or no weight.
__device__ __forceinline__ void load_keys(const cutting &c, int32_t at, uint32_t to[4]) {
    float p[4];
    if (c.from == ALL) load_weights(c.d, at, p);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (c.from == LARGEST_OF_RUNS) p[i] = at + i < c.n ? weight_of(c.d, c.largest_of_run[at + i]) : 0;
        to[i] = c.from != LISTED ? __float_as_uint(p[i]) : at + i < c.n ? c.s->key[at + i] : 0;
    }
}

// ---- levels ----
__device__ __forceinline__ uint32_t digit(uint32_t key, int level) { return key >> (20 - BIN_BITS * level) & (BINS - 1); }

// Items whose bits above the level's digit are `prefix`.
__device__ __forceinline__ void count_bins(const cutting &c, uint32_t prefix, int level) {
    __syncthreads();        // whoever reads the bins is done
    for (int32_t i = threadIdx.x; i < BINS; i += THREADS) c.s->n[i] = c.s->low[i] = c.s->high[i] = 0;
    __syncthreads();        // bins are empty
    for (int32_t at = 4 * threadIdx.x; at < c.n; at += 4 * THREADS) {
        uint32_t key[4];
        load_keys(c, at, key);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (key[i] == 0 || (level > 0 && key[i] >> (30 - BIN_BITS * level) != prefix)) continue;
            const uint32_t to = digit(key[i], level), mantissa = (key[i] & 0x7FFFFF) | 1u << 23;
            atomicAdd(&c.s->n[to], 1u);
            if (atomicAdd(&c.s->low[to], mantissa) + mantissa < mantissa) atomicAdd(&c.s->high[to], 1u);       // a carry
        }
    }
    __syncthreads();        // bins are full
}

// The sum of a bin's weights, which share an exponent; they are normal floats, so it is exact.
__device__ __forceinline__ double sum_of_bin(const cut_workspace &s, uint32_t prefix, int level) {
    const uint32_t bin = prefix & (BINS - 1), exponent = prefix << (20 - BIN_BITS * level) >> 23;
    return s.n[bin] ? scalbn((double)((uint64_t)s.high[bin] << 32 | s.low[bin]), (int)exponent - 150) : 0;
}

// ---- the search. A place in the order of falling weight: the n-th (from 1), by id, of those whose weight has the bits `key`; `sum` of all weights
// up to it; whether it is what was looked for, or only the last there is ----
struct mark { uint32_t key; int32_t n; double sum; bool reached; };

// What is looked for: the first place at which the count reaches `count`, or the sum reaches (or, `passing`, passes) `bound`.
struct goal { int32_t count; double bound; bool passing; };
__device__ __forceinline__ bool is_reached(const goal &g, int32_t n, double sum) {
    return g.count > 0 ? n >= g.count : g.passing ? sum > g.bound : sum >= g.bound;
}

// The first bin from above that reaches the goal, or else the last that is not empty. A thread has OWN_BINS of them, from above.
__device__ __forceinline__ uint32_t find_bin(cut_workspace *s, uint32_t prefix, int level, const goal &g, height *h) {
    const uint32_t first = BINS - 1 - OWN_BINS * threadIdx.x;
    int32_t n[OWN_BINS], n_own = 0, all;
    double sum[OWN_BINS], sum_own = 0, sum_all;
#pragma unroll
    for (uint32_t i = 0; i < OWN_BINS; i++) {
        n[i] = (int32_t)s->n[first - i], sum[i] = sum_of_bin(*s, prefix << BIN_BITS | (first - i), level);
        n_own += n[i], sum_own += sum[i];
    }
    height at = {h->n_above + scan_block(n_own, s->block.n, &all), 0, h->above + scan_block(sum_own, s->block.sum, &sum_all)}, mine = at;
    uint32_t bin = 0;
    bool here = false;
#pragma unroll
    for (uint32_t i = 0; i < OWN_BINS; i++) {
        if (!here && n[i] > 0) mine = {at.n_above, at.n_above + n[i], at.above}, bin = first - i;
        here = here || (n[i] > 0 && is_reached(g, at.n_above + n[i], at.above + sum[i]));
        at.n_above += n[i], at.above += sum[i];
    }
    const int32_t found = first_thread(here, n_own > 0, s->block.n);
    if ((int32_t)threadIdx.x == found) s->height_found = mine, s->bin_found = bin;
    __syncthreads();        // the bin's thread has written
    *h = s->height_found, bin = s->bin_found;
    __syncthreads();        // all have read
    return bin;
}

// Of the items with these bits, those it takes to reach the goal.
__device__ __forceinline__ mark mark_in(uint32_t key, const goal &g, const height &h) {
    const double p = (double)__uint_as_float(key), missing = (g.bound - h.above) / p, n_equal = h.n_with - h.n_above;
    const double needed = g.count > 0 ? (double)(g.count - h.n_above) : g.passing ? floor(missing) + 1 : ceil(missing);
    const double n = fmin(fmax(needed, 1.0), n_equal);
    return {key, (int32_t)n, h.above + n * p, needed <= n_equal};
}

__device__ __forceinline__ mark find(const cutting &c, const goal &g) {
    height h = {0, 0, 0};
    uint32_t prefix = 0;
    for (int level = 0; level < LEVELS; level++) {
        count_bins(c, prefix, level);
        prefix = prefix << BIN_BITS | find_bin(c.s, prefix, level, g, &h);
    }
    return mark_in(prefix, g, h);
}

// ---- the list ----
// A warp lists what is not below `lowest` of a run; false when the list is full.
__device__ __forceinline__ bool list_run(const cutting &c, int32_t run, uint32_t lowest) {
    const uint32_t lane = threadIdx.x % 32, before = (1u << lane) - 1;
    const int32_t at = run * RUN + (int32_t)lane * 4;
    uint32_t listed[4];
    int32_t n = 0, to = 0;
    float p[4];
    load_weights(c.d, at, p);
#pragma unroll
    for (int i = 0; i < 4; i++) listed[i] = __ballot_sync(~0u, p[i] > 0 && __float_as_uint(p[i]) >= lowest), n += __popc(listed[i]);
    if (n > 0 && lane == 0) to = atomicAdd(&c.s->n_listed, n);
    to = __shfl_sync(~0u, to, 0);
    if (to + n > LISTED_MAX) return false;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int32_t own = to + __popc(listed[i] & before);
        if (listed[i] >> lane & 1) c.s->key[own] = __float_as_uint(p[i]), c.s->id[own] = at + i;
        to += __popc(listed[i]);
    }
    return true;
}

// All ids with a weight not below `lowest`; false where they are too many. A run is left out where its largest logit says so; exp as computed may
// fall a little where it should rise, so runs just below are looked at too.
__device__ __forceinline__ bool list_ids(cutting *c, uint32_t lowest) {
    const float enough = __uint_as_float(lowest) * (1 - 0x1p-20f);
    __syncthreads();        // whoever reads the list is done
    if (threadIdx.x == 0) c->s->n_listed = 0;
    __syncthreads();        // the list is empty
    for (int32_t from = threadIdx.x / 32; from < c->d.m.n_runs; from += THREADS) {
        const int32_t run = from + threadIdx.x % 32 * WARPS;
        const bool there = run < c->d.m.n_runs && weight_of(c->d, c->largest_of_run[run]) >= enough;
        uint32_t left = __ballot_sync(~0u, there);
        for (; left && list_run(*c, from + (__ffs(left) - 1) * WARPS, lowest); left &= left - 1) {}
        if (left) break;
    }
    __syncthreads();        // the list is there
    if (c->s->n_listed > LISTED_MAX) return false;
    c->from = LISTED, c->n = c->s->n_listed;
    return true;
}

// The list becomes the source if it can be had and surely holds what `g` looks for; *last: what it found.
__device__ __forceinline__ bool find_in_list(cutting *c, int32_t n_runs, const goal &g, mark *last) {
    c->from = LARGEST_OF_RUNS, c->n = c->d.m.n_runs;
    const mark runs = find(*c, {n_runs, 0, false});
    if (list_ids(c, runs.key)) {
        *last = find(*c, g);
        if (last->reached) return true;
    }
    c->from = ALL, c->n = c->d.m.vocab;
    return false;
}

// From all ids; those not below what is found become the list, when they are few.
__device__ __forceinline__ mark find_in_all(cutting *c, const goal &g) {
    c->from = ALL, c->n = c->d.m.vocab;
    const mark m = find(*c, g);
    if (!list_ids(c, m.key)) c->from = ALL, c->n = c->d.m.vocab;
    return m;
}

// ---- the id: the n-th, by id, of those with these bits ----
__device__ __forceinline__ int32_t id_in_list(const cutting &c, const mark &m) {
    const cut_workspace *s = c.s;
    for (int32_t i = threadIdx.x; i < c.n; i += THREADS) {
        if (s->key[i] != m.key) continue;
        int32_t before = 0;
        for (int32_t j = 0; j < c.n; j++) before += s->key[j] == m.key && s->id[j] < s->id[i];
        if (before == m.n - 1) c.s->id_found = s->id[i];
    }
    __syncthreads();        // the one thread has written
    return s->id_found;
}

__device__ __forceinline__ int32_t id_in_all(const cutting &c, const mark &m) {
    int32_t n = 0;
    for (int32_t from = 0; from < c.n && n < m.n; from += 4 * THREADS) {
        uint32_t key[4];
        int32_t own = 0, all;
        load_keys(c, from + 4 * threadIdx.x, key);
#pragma unroll
        for (int i = 0; i < 4; i++) own += key[i] == m.key;
        int32_t before = n + scan_block(own, c.s->block.n, &all);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (key[i] == m.key && ++before == m.n) c.s->id_found = from + 4 * threadIdx.x + i;
        n += all;
    }
    __syncthreads();        // the one thread has written
    return c.s->id_found;
}

// total: the sum of all weights; used when top_k does not cut.
__device__ __forceinline__ int32_t draw_from_cut(const drawing &d, const float *largest_of_run, double total, int32_t top_k, float top_p, double u,
                                                 cut_workspace *s) {
    const bool by_count = top_k > 0 && top_k < d.m.vocab;
    const goal first = by_count ? goal{top_k, 0, false} : goal{0, (double)top_p * total, false};
    cutting c = {d, largest_of_run, s, ALL, d.m.vocab};
    mark last;      // that the cuts leave
    const bool few = by_count ? top_k <= RUNS_MANY && find_in_list(&c, top_k, first, &last)
                              : find_in_list(&c, RUNS_FEW, first, &last) || find_in_list(&c, RUNS_MANY, first, &last);
    if (!few) last = find_in_all(&c, first);
    if (by_count && top_p < 1) last = find(c, {0, (double)top_p * last.sum, false});
    mark drawn = find(c, {0, u * last.sum, true});
    if (drawn.key < last.key || (drawn.key == last.key && drawn.n > last.n)) drawn = last;     // rounding must not choose what was cut
    return c.from == LISTED ? id_in_list(c, drawn) : id_in_all(c, drawn);
}

}  // namespace sampling
#endif
