// Experts over pairs grouped by slot and the sum of a token's experts, in one kernel, sizes read on the device.
//
//     up       act[p]  = silu(gate x) * (up x)   x = rows[row_of_pair[p]]; gathered by threads, weights by the copy engine
//     down     y[p]    = down act[p]             both by the copy engine
//     combine  out[r]  = residual[r] + sum of weight * y over the row's pairs
//
// A block is a warpgroup of two producers and two clerks, and BM / 64 of consumers, over a ring of STAGES pieces of K = 64. Blocks stay and walk the list of tiles.
// Producers run ahead over the ends of tiles: weights stream while a tile is written, and those of down while the last of up is computed.
// The list is cut into bands of tiles of rows: of each the tiles of up, then those of down. Pairs of a slot stand by row, so after each band the lowest rows
// have all their pairs, and clerks combine them under the products of the next.
//
// Who waits for whom: a tile of down for the groups of 64 rows of up that it reads (`written` counts them), a clerk for all tiles of down so far (`done`).
// Clerks tell what consumers stored, since a fence waits for stores to arrive. Nobody waits for a block that has not started: tiles of up wait for nothing.
//
// What a tile has beyond the end of k comes as zeros; what it has beyond a slot's outputs is not written. A row's sums run over k in steps of 16 in order,
// whatever the tile: its bits do not depend on the rows beside it. Agrees with gr_cpu_experts() up to the roundings of bf16.
#include "compute/cuda/ampere.cuh"
#include "compute/cuda/experts.cuh"
#include "compute/cuda/hopper.cuh"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/wgmma.cuh"

namespace {

using namespace experts;

enum { WARPGROUP = 128, BK = GR_CUDA_BOX_COLUMNS, ROW_BYTES = 2 * BK, BANDS_MAX = 4 };

// Registers move from the first warpgroup (two warps of producers, two clerks) to consumers.
enum { PRODUCERS = 64, CLERKS = 2, FIRST_REGISTERS = 56, CONSUMER_REGISTERS = 224 };
template <int BM> constexpr int n_threads() { return WARPGROUP * (1 + BM / 64); }

// ---- the walk: band by band, tiles of up, then of down; in each slot by slot, all tiles of rows for one tile of outputs ----

template <int BN> __device__ __forceinline__ int32_t n_across_of(const product &p) { return (p.n_weight_rows + BN - 1) / BN; }

struct walk {
    const uint16_t *tiles_before;       // [n_bands, n_slots + 1], of rows
    const int32_t *rows_below;          // [n_bands]: rows that have no pair after the band
    int32_t n_bands, up_across, down_across;
    __device__ __forceinline__ const uint16_t *band(const view &p, int32_t b) const { return tiles_before + b * (p.n_slots + 1); }
    __device__ __forceinline__ int32_t n_tiles(const view &p, int32_t b) const { return band(p, b)[p.n_slots]; }      // of rows
};

template <int BM> __device__ __forceinline__ int32_t slot_tiles(const view &p, int32_t slot) { return (p.first(slot + 1) - p.first(slot) + BM - 1) / BM; }

// Warp b counts band b.
template <int BM> __device__ void count_bands(const view &p, int32_t n_bands, uint16_t *tiles_before, int32_t *rows_below) {
    int32_t lane = threadIdx.x % 32, b = threadIdx.x / 32, carry = 0, below = p.n_rows;
    uint16_t *before = tiles_before + b * (p.n_slots + 1);
    for (int32_t base = 0; base < p.n_slots; base += 32) {
        int32_t s = base + lane, all = s < p.n_slots ? slot_tiles<BM>(p, s) : 0, end = (b + 1) * all / n_bands, n = end - b * all / n_bands, sum = n;
        for (int d = 1; d < 32; d *= 2) {
            int32_t left = __shfl_up_sync(~0u, sum, d);
            if (lane >= d) sum += left;
        }
        if (s < p.n_slots) before[s + 1] = carry + sum;
        if (end < all) below = min(below, p.row(p.first(s) + end * BM));
        carry += __shfl_sync(~0u, sum, 31);
    }
    for (int d = 16; d > 0; d /= 2) below = min(below, __shfl_xor_sync(~0u, below, d));
    if (lane == 0) before[0] = 0, rows_below[b] = below;
}

struct step : tile { int32_t band; bool is_up; };

// Step t of the walk; false: there is none. Of the tile this block's part, where PEERS blocks share it: whole groups of 64 rows, about alike.
template <int BM, int PEERS> __device__ bool step_at(const view &p, const walk &all, int32_t t, step *out) {
    int32_t b = 0, tiles_of_bands = 0, n = 0;
    for (;; b++) {
        if (b == all.n_bands) return false;
        n = all.n_tiles(p, b);
        if (t < n * (all.up_across + all.down_across)) break;
        t -= n * (all.up_across + all.down_across), tiles_of_bands += n;
    }
    const uint16_t *before = all.band(p, b);
    bool is_up = t < n * all.up_across;
    if (!is_up) t -= n * all.up_across;
    int32_t across = is_up ? all.up_across : all.down_across, slot = slot_at(p.n_slots, t, [&](int32_t s) { return before[s] * across; });
    int32_t local = t - before[slot] * across, n_down = before[slot + 1] - before[slot], down = local % n_down;
    int32_t first = p.first(slot) + (b * slot_tiles<BM * PEERS>(p, slot) / all.n_bands + down) * BM * PEERS;
    int32_t n_pairs = min(p.first(slot + 1) - first, BM * PEERS), rank = 0;
    if (PEERS > 1) {
        int32_t each = (n_pairs + 64 * PEERS - 1) / (64 * PEERS) * 64;
        rank = hopper::cluster_rank();
        first += min(rank * each, n_pairs), n_pairs = max(min(n_pairs - rank * each, each), 0);
    }
    *out = {{slot, (tiles_of_bands + before[slot] + down) * PEERS + rank, first, n_pairs, local / n_down}, b, is_up};
    return true;
}

template <int PEERS> __device__ __forceinline__ int32_t first_step() { return blockIdx.x / PEERS; }
template <int PEERS> __device__ __forceinline__ int32_t n_walkers() { return gridDim.x / PEERS; }

// ---- the ring ----

// A piece of the ring, and how often the ring went round.
struct ring_place { int32_t stage, parity; };
template <int STAGES> __device__ __forceinline__ void advance(ring_place &r) {
    if (++r.stage == STAGES) r.stage = 0, r.parity ^= 1;
}

template <int BM, int BN, int STAGES, int PEERS> struct ring {
    static const int32_t A_BYTES = BM * ROW_BYTES, B_BYTES = BN * ROW_BYTES, BYTES = STAGES * (A_BYTES + B_BYTES);
    static const int32_t ARRIVALS = PRODUCERS + 1;      // on full: every producer, and once more the one that asks for weights
    char *data;
    uint64_t *full, *empty;
    int32_t *source;            // [BM] rows that producers gather, -1: none
    __device__ char *a(int32_t stage) const { return data + stage * (A_BYTES + B_BYTES); }
    __device__ char *b(int32_t stage) const { return a(stage) + A_BYTES; }
};

// ---- producers ----

template <int BM, int BN, int STAGES, int PEERS>
__device__ __forceinline__ void ask_weights(const product &p, const ring<BM, BN, STAGES, PEERS> &r, const CUtensorMap *map, const tile &w, int32_t stage,
                                            int32_t k) {
    const int32_t first = w.slot * p.n_weight_rows + w.across * BN, own = PEERS > 1 ? hopper::cluster_rank() * (BN / PEERS) : 0;
    hopper::arrive_expecting(&r.full[stage], r.B_BYTES);
    for (int i = 0; i < BN / PEERS; i += GR_CUDA_WEIGHT_BOX_ROWS)
        if (PEERS == 1) hopper::copy_box(r.b(stage) + i * ROW_BYTES, map, k, first + i, &r.full[stage]);
        else hopper::copy_box_to_peers(r.b(stage) + (own + i) * ROW_BYTES, map, k, first + own + i, &r.full[stage], (1 << PEERS) - 1);
}

// All gather rows, 16 bytes a thread: eight threads a row, placed as the swizzle wants them; the first thread asks for the weights.
template <int BM, int BN, int STAGES, int PEERS>
__device__ void produce_up(const product &p, const ring<BM, BN, STAGES, PEERS> &r, const CUtensorMap *weights, const tile &w, ring_place &at) {
    const int32_t APART = PRODUCERS / 8, ROWS = BM / APART, thread = threadIdx.x, chunk = thread % 8, row = thread / 8;
    const uint32_t place = row * ROW_BYTES + ((chunk ^ row % 8) << 4);      // rows APART swizzle alike
    __syncwarp();       // the eight threads of a row are of one warp
    for (int i = chunk; i < ROWS; i += 8) r.source[row + APART * i] = row + APART * i < w.n_pairs ? p.pairs.row(w.first_pair + row + APART * i) : -1;
    __syncwarp();
    for (int32_t k = 0; k < p.k; k += BK) {
        hopper::wait(&r.empty[at.stage], at.parity);
        if (thread == 0) ask_weights(p, r, weights, w, at.stage, k);
        uint32_t to = hopper::shared_address(r.a(at.stage)) + place;
        bool inside = k + chunk * 8 < p.k;
        const bf16 *from = p.in + (inside ? k + chunk * 8 : 0);
#pragma unroll 8
        for (int i = 0; i < ROWS && APART * i < w.n_pairs; i++) {
            int32_t source = r.source[row + APART * i];
            hopper::copy_16(to + i * APART * ROW_BYTES, from + (int64_t)max(source, 0) * p.k, inside && source >= 0);
        }
        hopper::arrive_after_copies(&r.full[at.stage]);
        advance<STAGES>(at);
    }
}

__device__ void await(const int32_t *counter, int32_t n) {
    for (int64_t patience = (int64_t)1 << 26; hopper::load_acquire(counter) < n; patience--) {
        __nanosleep(32);
        if (patience == 0) __trap();        // seconds: a block died
    }
}

// Thread 0 asks for weights and never waits for act; the second warp's first thread asks for rows of act, as many groups of 64 as exist. Of the n_readers of
// these rows the last leaves their counter at zero for the next run.
template <int BM, int BN, int STAGES, int PEERS>
__device__ void produce_down(const product &p, const ring<BM, BN, STAGES, PEERS> &r, const CUtensorMap *rows, const CUtensorMap *weights, const walk &all,
                             int32_t *written, const tile &w, ring_place &at) {
    int32_t n_groups = (w.n_pairs + 63) / 64;
    for (int32_t k = 0; k < p.k; k += BK) {
        hopper::wait(&r.empty[at.stage], at.parity);
        if (threadIdx.x == 32) {
            if (k == 0) {
                int32_t n_writers = n_groups * all.up_across;
                await(written, n_writers);
                if (atomicAdd(written, 1) == n_writers + all.down_across - 1) atomicExch(written, 0);
                hopper::publish_all();      // what others stored is visible to this thread, and from here to the copy engine
            }
            hopper::arrive_expecting(&r.full[at.stage], n_groups * 64 * ROW_BYTES);
            for (int32_t g = 0; g < n_groups; g++)
                hopper::copy_box(r.a(at.stage) + g * 64 * ROW_BYTES, rows, k, w.first_pair + 64 * g, &r.full[at.stage]);
        } else {
            if (threadIdx.x == 0) ask_weights(p, r, weights, w, at.stage, k);
            hopper::arrive(&r.full[at.stage]);
        }
        advance<STAGES>(at);
    }
}

// ---- consumers ----

template <int STAGES> struct consumer {
    int32_t group;
    ring_place at, done;        // next piece to multiply, next to give back
    int32_t n_dumps[2];         // of each group, so far
};

// A warp has read a stage: here, and of what peers sent.
template <int PEERS> __device__ __forceinline__ void give_back(uint64_t *empty) {
    int32_t lane = threadIdx.x % 32;
    if (PEERS == 1 && lane == 0) hopper::arrive(empty);
    if (PEERS > 1 && lane < PEERS) hopper::arrive_at(empty, lane);
}

// After a piece's products are asked for: the piece before is read, its place is free.
template <int BM, int BN, int STAGES, int PEERS>
__device__ __forceinline__ void end_piece(const ring<BM, BN, STAGES, PEERS> &r, consumer<STAGES> &c, bool first) {
    wgmma::commit();
    advance<STAGES>(c.at);
    if (first) return;
    wgmma::wait<1>();
    give_back<PEERS>(&r.empty[c.done.stage]);
    advance<STAGES>(c.done);
}

// Rows that threads copied go through registers: the tensor cores would see them in shared memory only after a fence.
template <int BM, int BN, int STAGES, int PEERS>
__device__ __forceinline__ void multiply_gathered(const ring<BM, BN, STAGES, PEERS> &r, consumer<STAGES> &c, uint32_t (&a)[BK / 16][4], bool first,
                                                  float (&d)[BN / 2]) {
    const int32_t lane = threadIdx.x % 32, row = c.group * 64 + threadIdx.x % WARPGROUP / 32 * 16 + lane % 16;
    hopper::wait(&r.full[c.at.stage], c.at.parity);
    const uint32_t rows = hopper::shared_address(r.a(c.at.stage)) + row * ROW_BYTES;
    const uint64_t b = wgmma::descriptor(hopper::shared_address(r.b(c.at.stage)));
#pragma unroll
    for (int i = 0; i < BK / 16; i++) ampere::load_pieces(a[i], rows + (((2 * i + lane / 16) ^ row % 8) << 4));
    wgmma::fence();
#pragma unroll
    for (int i = 0; i < BK / 16; i++) wgmma::mma(d, a[i], b + 2 * i, !first || i > 0);
    end_piece(r, c, first);
}

template <int BM, int BN, int STAGES, int PEERS>
__device__ __forceinline__ void multiply_boxes(const ring<BM, BN, STAGES, PEERS> &r, consumer<STAGES> &c, bool first, float (&d)[BN / 2]) {
    hopper::wait(&r.full[c.at.stage], c.at.parity);
    const uint64_t a = wgmma::descriptor(hopper::shared_address(r.a(c.at.stage)) + c.group * 64 * ROW_BYTES);
    const uint64_t b = wgmma::descriptor(hopper::shared_address(r.b(c.at.stage)));
    wgmma::fence();
#pragma unroll
    for (int i = 0; i < BK / 16; i++) wgmma::mma<BN>(d, a + 2 * i, b + 2 * i, !first || i > 0);
    end_piece(r, c, first);
}

// d = the group's 64 rows of the tile times its weights.
template <int BM, int BN, int STAGES, int PEERS, bool UP>
__device__ __forceinline__ void multiply(const product &p, const ring<BM, BN, STAGES, PEERS> &r, consumer<STAGES> &c, float (&d)[BN / 2]) {
    if constexpr (UP) {
        uint32_t even[BK / 16][4], odd[BK / 16][4];     // of two pieces: one is read while the other's products run
        multiply_gathered(r, c, even, true, d);
        int32_t k = BK;
        for (; k + BK < p.k; k += 2 * BK) multiply_gathered(r, c, odd, false, d), multiply_gathered(r, c, even, false, d);
        if (k < p.k) multiply_gathered(r, c, odd, false, d);
    } else
        for (int32_t k = 0; k < p.k; k += BK) multiply_boxes(r, c, k == 0, d);
    wgmma::wait<0>();
    give_back<PEERS>(&r.empty[c.done.stage]);
    advance<STAGES>(c.done);
}

// None of the tile's rows are this group's: the others get the tensor cores.
template <int BM, int BN, int STAGES, int PEERS> __device__ void pass(const product &p, const ring<BM, BN, STAGES, PEERS> &r, consumer<STAGES> &c) {
    for (int32_t k = 0; k < p.k; k += BK) {
        hopper::wait(&r.full[c.at.stage], c.at.parity);
        give_back<PEERS>(&r.empty[c.at.stage]);
        advance<STAGES>(c.at);
    }
    c.done = c.at;
}

// The warpgroup's 64 x BN sums go out as bf16, 16 bytes a thread; with SWIGLU each 128 columns are 64 of gate and the same 64 of up.
template <int BN, bool SWIGLU> __device__ void write_tile(const product &p, const tile &w, int32_t first_row, const float (&d)[BN / 2]) {
    const int BLOCKS = SWIGLU ? BN / 16 : BN / 8;       // of eight columns written
    int32_t thread = threadIdx.x % WARPGROUP, warp_row = first_row + thread / 32 * 16, row = warp_row + thread % 32 / 4;
    int32_t column = w.across * (SWIGLU ? BN / 2 : BN) + thread % 4 * 8;
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
                const int from = SWIGLU ? (block + i) / 8 * 16 + (block + i) % 8 : block + i, at = 4 * from + 2 * half, up = SWIGLU ? at + 32 : at;
                v[i] = SWIGLU ? pack_two(swiglu(d[at], d[up], 0), swiglu(d[at + 1], d[up + 1], 0)) : pack_two(d[at], d[at + 1]);
            }
            transpose_quad(v);
            if (exists && column + block * 8 < p.n_out)
                *reinterpret_cast<uint4 *>(out + (int64_t)8 * half * p.n_out + block * 8) = make_uint4(v[0], v[1], v[2], v[3]);
        }
    }
}

// ---- whole groups leave through shared memory: dumped by the group, sent by the clerk ----

enum { BOX_BYTES = 64 * ROW_BYTES };

struct staging {
    char *data;             // 32 KiB: of up half of it for each group, of down all of it for one
    int32_t *stored;        // [groups] warps that have stored, so far
    int32_t *freed;         // [groups] dumps that have been sent, so far
};

template <bool STAGED> __device__ __forceinline__ bool is_staged(const tile &w, int32_t group) { return STAGED && w.n_pairs >= (group + 1) * 64; }

// Where a group's dump of 64 rows lies.
__device__ __forceinline__ char *dump_of(const staging &s, int32_t group, bool is_up) { return s.data + (is_up ? group * 2 * BOX_BYTES : 0); }

__device__ __forceinline__ void await_shared(const int32_t *counter, int32_t n) {
    while (hopper::load_shared(counter) < n) __nanosleep(32);
}

// The group's sums as bf16 in boxes of 64 columns.
template <int BN, bool SWIGLU> __device__ void dump_tile(char *to, const float (&d)[BN / 2]) {
    const int BLOCKS = SWIGLU ? BN / 16 : BN / 8;
    const int32_t lane = threadIdx.x % 32, row = threadIdx.x % WARPGROUP / 32 * 16 + lane % 16;
    const uint32_t base = hopper::shared_address(to) + row * ROW_BYTES;
#pragma unroll
    for (int block = 0; block < BLOCKS; block += 2) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int from = block + i / 2, at = 4 * (SWIGLU ? from / 8 * 16 + from % 8 : from) + i % 2 * 2, up = SWIGLU ? at + 32 : at;
            v[i] = SWIGLU ? pack_two(swiglu(d[at], d[up], 0), swiglu(d[at + 1], d[up + 1], 0)) : pack_two(d[at], d[at + 1]);
        }
        const int32_t mine = block + lane / 16;
        hopper::store_pieces(base + block / 8 * BOX_BYTES + ((mine % 8 ^ row % 8) << 4), v);
    }
    hopper::publish_shared();
}

template <int BM, int BN, int STAGES, int PEERS, bool STAGED, bool UP>
__device__ __forceinline__ void consume(const product &p, const ring<BM, BN, STAGES, PEERS> &r, consumer<STAGES> &c, const staging &s, const tile &w) {
    if (w.n_pairs <= c.group * 64) pass(p, r, c);
    else {
        float d[BN / 2];
        multiply<BM, BN, STAGES, PEERS, UP>(p, r, c, d);
        if (is_staged<STAGED>(w, c.group)) {
            for (int32_t g = 0; g < BM / 64; g++) await_shared(s.freed + g, c.n_dumps[g] + (!UP && g < c.group));
            dump_tile<BN, UP>(dump_of(s, c.group, UP), d);
        } else write_tile<BN, UP>(p, w, c.group * 64, d);
    }
    for (int32_t g = 0; g < BM / 64; g++) c.n_dumps[g] += is_staged<STAGED>(w, g);
    __syncwarp();
    if (threadIdx.x % 32 == 0) hopper::add_shared(&s.stored[c.group], 1);
}

// ---- clerks ----

template <int BN> __device__ void send_dump(const char *from, const CUtensorMap *map, const step &w, int32_t group) {
    const int n_boxes = w.is_up ? BN / 128 : BN / 64;
    for (int i = 0; i < n_boxes; i++) hopper::send_box(map, from + i * BOX_BYTES, (w.across * n_boxes + i) * 64, w.first_pair + 64 * group);
    hopper::sends_commit();
    hopper::sends_wait_read();
}

// One thread sends what consumers dumped and tells what they stored, tile by tile: a group without rows in a tile of up has nothing to tell.
template <int BM, int BN, int PEERS, bool STAGED>
__device__ void tell(const view &p, const walk &all, const staging &s, const CUtensorMap *act, const CUtensorMap *y, bool combines, int32_t *written,
                     int32_t *done) {
    step w;
    int32_t n_stored = 0;
    for (int32_t t = first_step<PEERS>(); step_at<BM, PEERS>(p, all, t, &w); t += n_walkers<PEERS>()) {
        n_stored += WARPGROUP / 32;
        for (int32_t group = 0; group < BM / 64; group++) {
            bool staged = is_staged<STAGED>(w, group), counts = w.is_up ? w.n_pairs > group * 64 : combines;
            if (!staged && !counts) continue;
            await_shared(s.stored + group, n_stored);
            if (staged) {
                send_dump<BN>(dump_of(s, group, w.is_up), w.is_up ? act : y, w, group);
                hopper::add_shared(s.freed + group, 1);
            }
            if (!counts) continue;
            if (staged) hopper::sends_wait();
            hopper::publish_all();
            __threadfence();
            atomicAdd(w.is_up ? written + w.row_tile : done + w.band, 1);
        }
    }
    hopper::sends_wait();
}

// Rows from .. to - 1, 32 vectors at a time, spread over n_workers warps.
__device__ void combine_rows(const combination &c, int32_t from, int32_t to, int32_t worker, int32_t n_workers) {
    const int32_t n_chunks = (c.n_vectors + 31) / 32, lane = threadIdx.x % 32;
    for (int64_t unit = (int64_t)from * n_chunks + worker; unit < (int64_t)to * n_chunks; unit += n_workers) {
        int32_t v = (int32_t)(unit % n_chunks) * 32 + lane;
        if (v < c.n_vectors) combine_vector(c, unit / n_chunks, v);
    }
}

template <int BM, int PEERS>
__device__ void combine_band(const view &p, const walk &all, const combination &c, const int32_t *done, int32_t b, int32_t worker, int32_t n_workers) {
    if (threadIdx.x % 32 == 0) await(done + b, all.n_tiles(p, b) * PEERS * all.down_across * (BM / 64));
    __syncwarp();
    combine_rows(c, b > 0 ? all.rows_below[b - 1] : 0, all.rows_below[b], worker, n_workers);
}

// The rows of the last band: all warps but the producers'.
template <int BM, int PEERS> __device__ void combine_last(const view &p, const walk &all, const combination &c, const int32_t *done) {
    const int32_t n_warps = BM / 16 + CLERKS;
    combine_band<BM, PEERS>(p, all, c, done, all.n_bands - 1, blockIdx.x * n_warps + threadIdx.x / 32 - PRODUCERS / 32, gridDim.x * n_warps);
}

// The last block to leave clears what all have waited for.
__device__ void leave(int32_t *done) {
    __threadfence();
    if (atomicAdd(done + BANDS_MAX, 1) == (int32_t)gridDim.x - 1)
        for (int i = 0; i <= BANDS_MAX; i++) atomicExch(done + i, 0);
}

// ---- the kernel: as many blocks as the device has processors. Shared: the ring, its barriers, the bands ----

template <int BM, int BN, int STAGES> struct shared_rest {      // behind the ring and what is staged
    uint64_t full[STAGES], empty[STAGES];
    int32_t rows_below[BANDS_MAX], stored[BM / 64], freed[BM / 64], source[BM];
    uint16_t tiles_before[BANDS_MAX * (GR_CUDA_SLOTS_MAX + 1)];
};
template <int BM, int BN, int STAGES, int PEERS, bool STAGED> constexpr int shared_bytes() {
    return ring<BM, BN, STAGES, PEERS>::BYTES + (STAGED ? 4 * BOX_BYTES : 0) + (int)sizeof(shared_rest<BM, BN, STAGES>);
}

template <int BM, int BN, int STAGES, int PEERS, bool STAGED>
__global__ __launch_bounds__(n_threads<BM>(), 1) void both_products(const __grid_constant__ CUtensorMap up_weights, const __grid_constant__ CUtensorMap act,
                                                                   const __grid_constant__ CUtensorMap down_weights, const __grid_constant__ CUtensorMap y, product up, product down, combination c,
                                                                   int32_t n_bands, int32_t *written, int32_t *done) {
    extern __shared__ __align__(1024) char shared[];       // nothing is static: it starts at a swizzle atom
    const int32_t GROUPS = BM / 64, group = (int32_t)threadIdx.x / WARPGROUP - 1;
    const view &pairs = up.pairs;
    char *staged = shared + ring<BM, BN, STAGES, PEERS>::BYTES;
    shared_rest<BM, BN, STAGES> &rest = *reinterpret_cast<shared_rest<BM, BN, STAGES> *>(staged + (STAGED ? 4 * BOX_BYTES : 0));
    const ring<BM, BN, STAGES, PEERS> r = {shared, rest.full, rest.empty, rest.source};
    const staging out = {staged, rest.stored, rest.freed};
    if (hopper::shared_address(shared) % 1024 != 0) __trap();
    const walk all = {rest.tiles_before, rest.rows_below, n_bands, n_across_of<BN>(up), n_across_of<BN>(down)};
    pdl::release_next();
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) hopper::barrier_init(&r.full[i], r.ARRIVALS), hopper::barrier_init(&r.empty[i], 4 * GROUPS * PEERS);
        for (int i = 0; i < GROUPS; i++) rest.stored[i] = rest.freed[i] = 0;
        hopper::barrier_init_done();
    }
    __syncwarp();
    pdl::wait();
    if ((int32_t)threadIdx.x < 32 * n_bands) count_bands<BM * PEERS>(pairs, n_bands, rest.tiles_before, rest.rows_below);
    __syncthreads();        // bands and barriers are there
    if (PEERS > 1) hopper::cluster_sync();      // in every block of the cluster
    step w;
    if (group < 0) {
        if (GROUPS > 1) hopper::registers_give<FIRST_REGISTERS>();
        const int32_t warp = threadIdx.x / 32;
        if (warp < PRODUCERS / 32) {
            ring_place at = {0, 1};
            for (int32_t t = first_step<PEERS>(); step_at<BM, PEERS>(pairs, all, t, &w); t += n_walkers<PEERS>())
                if (w.is_up) produce_up(up, r, &up_weights, w, at);
                else produce_down(down, r, &act, &down_weights, all, written + w.row_tile, w, at);
        } else if (warp == PRODUCERS / 32) {
            if (threadIdx.x % 32 == 0) tell<BM, BN, PEERS, STAGED>(pairs, all, out, &act, &y, c.out != nullptr, written, done);
        } else if (c.out)
            for (int32_t b = 0; b < n_bands - 1; b++) combine_band<BM, PEERS>(pairs, all, c, done, b, blockIdx.x, gridDim.x);
        __syncwarp();
        if (c.out && warp >= PRODUCERS / 32) combine_last<BM, PEERS>(pairs, all, c, done);
    } else {
        if (GROUPS > 1) hopper::registers_take<CONSUMER_REGISTERS>();
        consumer<STAGES> own = {group, {0, 0}, {0, 0}, {0, 0}};
        if (group > 0 && step_at<BM, PEERS>(pairs, all, first_step<PEERS>(), &w))       // groups out of step: one writes while the other multiplies
            hopper::wait(&r.full[min(STAGES / 2, (min(up.k, down.k) + BK - 1) / BK - 1)], 0);
        for (int32_t t = first_step<PEERS>(); step_at<BM, PEERS>(pairs, all, t, &w); t += n_walkers<PEERS>()) {
            if (w.is_up) consume<BM, BN, STAGES, PEERS, STAGED, true>(up, r, own, out, w);
            else consume<BM, BN, STAGES, PEERS, STAGED, false>(down, r, own, out, w);
        }
        if (c.out) combine_last<BM, PEERS>(pairs, all, c, done);
    }
    __syncwarp();
    if (c.out) {
        __syncthreads();        // nobody of this block waits any more
        if (threadIdx.x == 0) leave(done);
    }
    __syncwarp();
    if (PEERS > 1) hopper::cluster_sync();      // nobody leaves while a peer may still send to it or give back
}

struct outputs { const float *weight; const void *residual; void *y, *out; };

template <int BM, int BN, int STAGES, int PEERS, bool STAGED>
grace_status launch(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, const outputs &o, int32_t n_bands, cudaStream_t stream) {
    const int bytes = shared_bytes<BM, BN, STAGES, PEERS, STAGED>();
    auto kernel = both_products<BM, BN, STAGES, PEERS, STAGED>;
    static bool ready = false;
    if (!ready) {
        grace_status st = gr_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory of both_products");
        if (st) return st;
        ready = true;
    }
    const combination c = {pairs->pair_of_choice, o.weight, (const uint4 *)o.y, (const uint4 *)o.residual, (uint4 *)o.out, pairs->n_rows, pairs->top_k,
                           e->options.hidden / 8};
    CUtensorMap y;
    grace_status st = gr_cuda_map_open(o.y, (int64_t)pairs->n_rows * pairs->top_k, e->options.hidden, GR_CUDA_PAIR_BOX_ROWS, &y);
    if (st) return st;
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = PEERS, attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = e->n_processors / PEERS * PEERS, config.blockDim = n_threads<BM>(), config.dynamicSmemBytes = bytes, config.stream = stream;
    config.attrs = attributes, config.numAttrs = PEERS > 1 ? 2 : 1;
    return gr_cuda_status(cudaLaunchKernelEx(&config, kernel, e->up_boxes, e->act_boxes, e->down_boxes, y, up_product(e, pairs, rows),
                                             down_product(e, pairs, o.y), c, n_bands, e->written + BANDS_MAX + 1, e->written), "both_products");
}

}  // namespace

extern "C" grace_status gr_cuda_experts_fused(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, const float *weight, const void *residual,
                                              void *y, void *out, int which, int n_bands, cudaStream_t stream) {
    const outputs o = {weight, residual, y, out};
    switch (which) {
    case 0: return launch<64, 128, 8, 1, false>(e, pairs, rows, o, n_bands, stream);
    case 1: return launch<128, 256, 4, 1, false>(e, pairs, rows, o, n_bands, stream);
    case 2: return launch<128, 256, 4, 2, false>(e, pairs, rows, o, n_bands, stream);
    case 3: return launch<128, 256, 4, 1, true>(e, pairs, rows, o, n_bands, stream);
    default: return launch<128, 256, 4, 2, true>(e, pairs, rows, o, n_bands, stream);
    }
}
