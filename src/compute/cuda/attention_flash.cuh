// Attention by the tensor cores, for prompts and for decode rows, one kernel in two shapes.
//
// A block takes QUERIES = 16 WM queries: rows x heads that share a kv head. It walks tiles of KEYS positions, which begin at multiples of KEYS, through a
// ring of STAGES tiles in shared memory. Warp (m, n) of WM x WN has 16 queries:
//
//     scores   its queries against part n of the tile's positions, and tops and weights of the parts meet in shared memory; or (long keys) part n of
//              its queries' and all keys' elements, and scores are added up there
//     sums     its queries' weights times part n of the elements of all the tile's values
//
// A query's weights are relative to the largest score so far, and all of it is rescaled when that grows: positions in order, the same tiles wherever
// the query lies, so a row's bits are its own. A decode row is cut at multiples of GR_CUDA_SPLIT positions: parts leave sums behind, and the last block
// to come adds them in order. Agrees with gr_cpu_attention() up to the roundings of bf16: of weights and of the result.
#ifndef GR_COMPUTE_CUDA_ATTENTION_FLASH_CUH
#define GR_COMPUTE_CUDA_ATTENTION_FLASH_CUH
#include <cuda_bf16.h>

#include "compute/cuda/ampere.cuh"
#include "compute/cuda/attention_work.h"

namespace attention {

typedef __nv_bfloat16 bf16;

// Where keys and values are: in pages, every kv head's; in pages, a latent that holds its value; in rows of the step, every head's, made of latents.
enum form { HEADS, LATENT, MADE };

struct made_rows {
    const bf16 *k, *v;              // [rows, n_heads, n_own], [rows, n_heads, value_dim]
    const bf16 *turned;             // the rest of a row's keys, the same for all heads
    int64_t turned_step;            // from row to row
    int32_t n_own;
};

const float LOG2_E = 1.4426950408889634f;

struct flash_args {
    gr_cuda_list list;
    bool from_end;                  // of the list, where a prompt's longest work is
    gr_cuda_heads heads;
    gr_cuda_attention_step step;
    gr_cuda_attention_layer layer;
    int32_t n_heads, n_kv_heads;
    made_rows made;                 // of form MADE
    float scale;                    // of scores, times log2 e
    float *partial_out;
    float2 *partial_sum;
    int32_t *n_done;
};

// What a block works on: rows of w, heads first_head to first_head + n_heads - 1, positions from to to - 1.
struct unit {
    gr_cuda_work w;
    int32_t kv_head, first_head, n_heads, n_queries, from, to;
    int32_t counter;                // of n_done
    __device__ int32_t row(int32_t query) const { return w.row + query / n_heads; }
    __device__ int32_t head(int32_t query) const { return first_head + query % n_heads; }
};

// Work is `rest` of n_parts that share a piece of work.
__device__ unit unit_of(const flash_args &x, const gr_cuda_work &work, int32_t n_parts, int32_t rest) {
    const int32_t group = x.n_heads / x.n_kv_heads, part = rest % x.heads.n_parts;
    unit u;
    u.w = work;
    u.kv_head = rest / x.heads.n_parts;
    u.first_head = u.kv_head * group + part * x.heads.heads;
    u.n_heads = min(x.heads.heads, group - part * x.heads.heads);
    u.n_queries = (u.w.end_row - u.w.row) * u.n_heads;
    u.from = x.layer.window > 0 ? max(u.w.from, u.w.first - x.layer.window + 1) : u.w.from;
    u.to = u.w.to;
    u.counter = u.w.partial * n_parts + rest;
    return u;
}

__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack_two(float a, float b) {
    __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<uint32_t *>(&two);
}

// Over the four lanes that share a row of a fragment.
__device__ __forceinline__ float largest_of_quad(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float sum_of_quad(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// Rows in shared memory are 16 bytes longer than their elements, so that eight of them at one column lie in different banks.
__host__ __device__ constexpr int32_t row_bytes(int32_t n) { return 2 * n + 16; }

template <int KD, int VD, form FORM, int WM, int WN, int KEYS, int STAGES> struct shape {
    static const int32_t THREADS = 32 * WM * WN, QUERIES = 16 * WM;
    static const int32_t K_BYTES = KEYS * row_bytes(KD), V_BYTES = FORM == LATENT ? 0 : KEYS * row_bytes(VD), STAGE_BYTES = K_BYTES + V_BYTES;
    static const bool SPLIT_KEYS = WN > 1 && KD <= 192, SPLIT_DIMS = WN > 1 && KD > 192;
    static const int32_t P_BYTES = SPLIT_KEYS ? QUERIES * row_bytes(KEYS) : 0, TOP_BYTES = SPLIT_KEYS ? WN * QUERIES * 4 : 0;
    static const int32_t PART_BYTES = SPLIT_DIMS ? WN * QUERIES * KEYS * 4 : 0;
    static const int32_t BYTES = STAGES * STAGE_BYTES + P_BYTES + TOP_BYTES + PART_BYTES;
    static_assert(QUERIES * row_bytes(KD) <= STAGE_BYTES, "queries pass through a stage");
};

template <int KD, int VD, form FORM, int WM, int WN, int KEYS, int STAGES> struct flash {
    typedef shape<KD, VD, FORM, WM, WN, KEYS, STAGES> S;
    static const int32_t OWN_KEYS = S::SPLIT_KEYS ? KEYS / WN : KEYS, OWN_DIMS = VD / WN;       // of a warp's scores and sums
    static const int32_t Q_DIMS = S::SPLIT_DIMS ? KD / WN : KD;                                 // elements of keys it multiplies
    static_assert(OWN_KEYS % 16 == 0 && OWN_DIMS % 16 == 0 && Q_DIMS % 16 == 0 && KEYS % GR_KV_PAGE == 0 && GR_CUDA_SPLIT % KEYS == 0, "");
    static const int32_t PAGES = KEYS / GR_KV_PAGE;
    static const int32_t CHAINS = OWN_KEYS == 16 ? 2 : 1;   // sums a score is made of, so that products need not wait for each other

    const flash_args &x;
    const unit &u;
    char *ring;
    int32_t page[PAGES];            // of the tile to be asked for next; MADE: the row of each page's first position
    uint32_t p_at;                  // shared address
    float *tops;                    // [WN, QUERIES]
    float4 *parts;                  // [WM, WN, KEYS / 8, 32] fragments of scores
    int32_t lane, m, n;             // of the warp
    int32_t last[2];                // of each row of its fragments: last position that the query sees; -1: there is no query
    float out[OWN_DIMS / 8][4];
    float top[2], sum[2];           // largest score; sum of weights over own keys

    __device__ flash(const flash_args &args, const unit &w, char *shared) : x(args), u(w), ring(shared) {
        char *behind = shared + STAGES * S::STAGE_BYTES;
        p_at = ampere::shared_address(behind), tops = (float *)(behind + S::P_BYTES), parts = (float4 *)(behind + S::P_BYTES + S::TOP_BYTES);
        lane = threadIdx.x % 32, m = threadIdx.x / 32 / WN, n = threadIdx.x / 32 % WN;
        for (int i = 0; i < 2; i++) {
            const int32_t row = u.row(query(i));
            last[i] = query(i) >= u.n_queries ? -1 : row == u.w.row ? u.w.first : x.step.position[row];
            top[i] = -INFINITY, sum[i] = 0;
        }
        for (int j = 0; j < OWN_DIMS / 8; j++)
            for (int e = 0; e < 4; e++) out[j][e] = 0;
    }

    __device__ int32_t query(int32_t i) const { return 16 * m + lane / 4 + 8 * i; }     // of each row of its fragments

    // The WN warps with the same queries wait for each other.
    __device__ void meet() const {
        if (WM == 1) __syncthreads();
        else asm volatile("bar.sync %0, %1;" ::"r"(1 + m), "n"(32 * WN) : "memory");
    }

    // ---- copies ----
    __device__ void ask_queries(uint32_t to) const {
        for (int32_t c = threadIdx.x; c < S::QUERIES * (KD / 8); c += S::THREADS) {
            const int32_t i = c / (KD / 8), chunk = c % (KD / 8);
            const bool exists = i < u.n_queries;
            const bf16 *from = exists ? (const bf16 *)x.layer.q + u.row(i) * x.layer.q_step + u.head(i) * KD + chunk * 8 : (const bf16 *)x.layer.q;
            ampere::copy_16(to + i * row_bytes(KD) + chunk * 16, from, exists);
        }
    }

    // The pages of a tile: looked up a tile before they are needed. Where there is none any more, a page that exists stands for it and is not read.
    __device__ void find_pages(int32_t tile) {
        const int32_t *page_of = x.step.page_table + (int64_t)u.w.sequence * x.step.pages_max + tile * PAGES;
        const int32_t row = u.w.row - u.w.first + tile * KEYS;      // MADE: of the tile's first position
#pragma unroll
        for (int i = 0; i < PAGES; i++) page[i] = tile * KEYS + i * GR_KV_PAGE >= u.to ? 0 : FORM == MADE ? row + i * GR_KV_PAGE : page_of[i];
    }

    // The kv head's part of a page, positions `width` elements apart, of which n_there have been written; zeros for the rest. Warps take positions, so that
    // a thread's addresses are one plus constants.
    template <int D> __device__ void ask_page(const bf16 *from, int32_t width, int32_t n_there, uint32_t to) const {
        const int32_t CHUNKS = D / 8, ROWS = 32 % CHUNKS == 0 ? 32 / CHUNKS : 1, STEP = ROWS * S::THREADS / 32;    // positions of a warp, and of all, at a time
        const int32_t key = threadIdx.x / 32 * ROWS + (ROWS > 1 ? lane / CHUNKS : 0), chunk = ROWS > 1 ? lane % CHUNKS : lane;
        const bf16 *some = from + chunk * 8;        // an address where there is none
        from = some + key * width;
        to += key * row_bytes(D) + chunk * 16;
#pragma unroll
        for (int i = 0; i < (GR_KV_PAGE + STEP - 1) / STEP; i++)
#pragma unroll
            for (int c = 0; c < CHUNKS; c += 32) {
                if ((GR_KV_PAGE % STEP && key + i * STEP >= GR_KV_PAGE) || (ROWS == 1 && c + lane >= CHUNKS)) continue;
                const bool is_there = key + i * STEP < n_there;
                ampere::copy_16(to + i * STEP * row_bytes(D) + c * 16, FORM == MADE && !is_there ? some : from + i * STEP * width + c * 8, is_there);
            }
    }

    // The same of the rows of the step: a lane has a piece of the head's own part of keys, or of the turned part.
    __device__ void ask_made_keys(int32_t row, int32_t n_there, uint32_t to) const {
        static_assert(FORM != MADE || (KD / 8 <= 32 && 32 % (KD / 8) != 0), "a warp takes a key at a time");
        const made_rows &made = x.made;
        const bool own = 8 * lane < made.n_own;
        const bf16 *from = own ? made.k + ((int64_t)row * x.n_heads + u.kv_head) * made.n_own : made.turned + row * made.turned_step - made.n_own;
        ask_page<KD>(from, own ? x.n_heads * made.n_own : (int32_t)made.turned_step, n_there, to);
    }

    __device__ void ask_keys(int32_t index, int32_t n_there, uint32_t to) const {
        const bf16 *pages = (const bf16 *)x.layer.k_pages;
        if constexpr (FORM == MADE) ask_made_keys(index, n_there, to);
        else ask_page<KD>(pages + ((int64_t)index * GR_KV_PAGE * x.n_kv_heads + u.kv_head) * KD, x.n_kv_heads * KD, n_there, to);
    }

    __device__ void ask_values(int32_t index, int32_t n_there, uint32_t to) const {
        const bf16 *values = FORM == MADE ? x.made.v : (const bf16 *)x.layer.v_pages;
        const int64_t first = FORM == MADE ? index : (int64_t)index * GR_KV_PAGE;
        ask_page<VD>(values + (first * x.n_kv_heads + u.kv_head) * VD, x.n_kv_heads * VD, n_there, to);
    }

    // The tile whose pages were found last; then finds the next one's.
    __device__ void ask_tile(int32_t tile, int32_t stage) {
        const uint32_t to = ampere::shared_address(ring + stage * S::STAGE_BYTES);
#pragma unroll
        for (int i = 0; i < PAGES; i++) {
            const int32_t n_there = u.to - tile * KEYS - i * GR_KV_PAGE;
            ask_keys(page[i], n_there, to + i * GR_KV_PAGE * row_bytes(KD));
            if constexpr (FORM != LATENT) ask_values(page[i], n_there, to + S::K_BYTES + i * GR_KV_PAGE * row_bytes(VD));
        }
        find_pages(tile + 1);
    }

    // ---- fragments: the lane's address in a 16 x 16 square of rows and columns ----
    __device__ uint32_t square(uint32_t at, int32_t bytes, int32_t row, int32_t column) const {     // A, and B turned: rows of pieces 0, 1 follow each other
        return at + (row + lane % 16) * bytes + 2 * (column + lane / 16 * 8);
    }
    __device__ uint32_t square_across(uint32_t at, int32_t bytes, int32_t row, int32_t column) const {  // B: columns of pieces 0, 1 follow each other
        return at + (row + lane % 8 + lane / 16 * 8) * bytes + 2 * (column + lane / 8 % 2 * 8);
    }

    // ---- scores of own queries and keys ----
    __device__ void load_queries(uint32_t q_at, uint32_t (&q)[Q_DIMS / 16][4]) const {
#pragma unroll
        for (int i = 0; i < Q_DIMS / 16; i++) ampere::load_pieces(q[i], square(q_at, row_bytes(KD), 16 * m, (S::SPLIT_DIMS ? Q_DIMS * n : 0) + 16 * i));
    }

    __device__ void multiply_keys(const uint32_t (&q)[Q_DIMS / 16][4], uint32_t k_at, float (&score)[OWN_KEYS / 8][4]) const {
        float part[CHAINS][OWN_KEYS / 8][4] = {};
        const int32_t first_key = S::SPLIT_KEYS ? OWN_KEYS * n : 0, first_dim = S::SPLIT_DIMS ? Q_DIMS * n : 0;
#pragma unroll
        for (int i = 0; i < Q_DIMS / 16; i++)
#pragma unroll
            for (int j = 0; j < OWN_KEYS / 16; j++) {
                uint32_t b[4];
                ampere::load_pieces(b, square_across(k_at, row_bytes(KD), first_key + 16 * j, first_dim + 16 * i));
                ampere::multiply(part[i % CHAINS][2 * j], q[i], b[0], b[1]);
                ampere::multiply(part[i % CHAINS][2 * j + 1], q[i], b[2], b[3]);
            }
#pragma unroll
        for (int j = 0; j < OWN_KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) score[j][e] = CHAINS == 2 ? part[0][j][e] + part[CHAINS - 1][j][e] : part[0][j][e];
    }

    // Scores of parts of the elements become whole ones, in every warp.
    __device__ void add_parts(float (&score)[OWN_KEYS / 8][4]) const {
        float4 *own = parts + (m * WN + n) * (KEYS / 8) * 32 + lane;
        const float4 *all = parts + m * WN * (KEYS / 8) * 32 + lane;
#pragma unroll
        for (int j = 0; j < OWN_KEYS / 8; j++) own[32 * j] = make_float4(score[j][0], score[j][1], score[j][2], score[j][3]);
        meet();         // scores of all parts are there
#pragma unroll
        for (int j = 0; j < OWN_KEYS / 8; j++) {
            float4 sum = all[32 * j];
#pragma unroll
            for (int w = 1; w < WN; w++) {
                const float4 one = all[(w * (KEYS / 8) + j) * 32];
                sum.x += one.x, sum.y += one.y, sum.z += one.z, sum.w += one.w;
            }
            score[j][0] = sum.x, score[j][1] = sum.y, score[j][2] = sum.z, score[j][3] = sum.w;
        }
    }

    // Whether every query sees all of the tile.
    __device__ bool is_seen(int32_t base) const {
        return base + KEYS <= u.w.first + 1 && (x.layer.window <= 0 || base > max(u.w.first, u.w.to - 1) - x.layer.window);
    }

    __device__ void hide_unseen(int32_t base, float (&score)[OWN_KEYS / 8][4]) const {
#pragma unroll
        for (int j = 0; j < OWN_KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int32_t at = base + (S::SPLIT_KEYS ? OWN_KEYS * n : 0) + 8 * j + lane % 4 * 2 + e % 2;
                if (at > last[e / 2] || (x.layer.window > 0 && at <= last[e / 2] - x.layer.window)) score[j][e] = -INFINITY;
            }
    }

    // The largest score of each own query in this tile, over all parts.
    __device__ void find_tops(const float (&score)[OWN_KEYS / 8][4], float (&most)[2]) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            most[i] = -INFINITY;
#pragma unroll
            for (int j = 0; j < OWN_KEYS / 8; j++) most[i] = fmaxf(most[i], fmaxf(score[j][2 * i], score[j][2 * i + 1]));
            most[i] = largest_of_quad(most[i]);
            if (S::SPLIT_KEYS && lane % 4 == 0) tops[n * S::QUERIES + query(i)] = most[i];
        }
        if (!S::SPLIT_KEYS) return;
        meet();         // tops of all parts are there
        for (int i = 0; i < 2; i++)
            for (int w = 0; w < WN; w++) most[i] = fmaxf(most[i], tops[w * S::QUERIES + query(i)]);
    }

    // Scores become weights relative to the new top, and what there is is rescaled. A query that has seen nothing stays at zero.
    __device__ void weigh(float (&score)[OWN_KEYS / 8][4]) {
        float most[2];
        find_tops(score, most);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float new_top = fmaxf(top[i], most[i]), anchor = new_top == -INFINITY ? 0 : new_top, base = anchor * x.scale;
            const float share = exp2_of((top[i] - anchor) * x.scale);      // exactly 1 where the top stays: tiles that a query does not see change no bit
            float added = 0;
#pragma unroll
            for (int j = 0; j < OWN_KEYS / 8; j++)
#pragma unroll
                for (int e = 2 * i; e < 2 * i + 2; e++) added += score[j][e] = exp2_of(fmaf(score[j][e], x.scale, -base));
            sum[i] = sum[i] * share + added;
            top[i] = new_top;
            if (__all_sync(~0u, share == 1)) continue;
#pragma unroll
            for (int j = 0; j < OWN_DIMS / 8; j++) out[j][2 * i] *= share, out[j][2 * i + 1] *= share;
        }
    }

    // ---- sums of own dims over all keys ----
    __device__ void share_weights(const float (&score)[OWN_KEYS / 8][4]) const {
#pragma unroll
        for (int j = 0; j < OWN_KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t to = p_at + query(i) * row_bytes(KEYS) + 2 * (OWN_KEYS * n + 8 * j + lane % 4 * 2);
                asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pack_two(score[j][2 * i], score[j][2 * i + 1])) : "memory");
            }
        meet();         // weights of all parts are there
    }

    __device__ void add_values(const float (&score)[OWN_KEYS / 8][4], uint32_t v_at) {
        const int32_t bytes = row_bytes(FORM == LATENT ? KD : VD);
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            uint32_t p[4];
            if constexpr (S::SPLIT_KEYS) ampere::load_pieces(p, square(p_at, row_bytes(KEYS), 16 * m, 16 * k));
            else {
                p[0] = pack_two(score[2 * k][0], score[2 * k][1]), p[1] = pack_two(score[2 * k][2], score[2 * k][3]);
                p[2] = pack_two(score[2 * k + 1][0], score[2 * k + 1][1]), p[3] = pack_two(score[2 * k + 1][2], score[2 * k + 1][3]);
            }
#pragma unroll
            for (int j = 0; j < OWN_DIMS / 16; j++) {
                uint32_t b[4];
                ampere::load_pieces_turned(b, square(v_at, bytes, 16 * k, OWN_DIMS * n + 16 * j));
                ampere::multiply(out[2 * j], p, b[0], b[1]);
                ampere::multiply(out[2 * j + 1], p, b[2], b[3]);
            }
        }
    }

    __device__ void walk() {
        const int32_t first_tile = u.from / KEYS, end = (u.to + KEYS - 1) / KEYS;
        const uint32_t ring_at = ampere::shared_address(ring), last_at = ring_at + (STAGES - 1) * S::STAGE_BYTES;
        uint32_t q[Q_DIMS / 16][4];
        int32_t stage = 0;
        find_pages(first_tile);
        ask_queries(last_at);       // the stage that no tile is asked for yet
        for (int i = 0; i < STAGES - 1; i++) {
            if (first_tile + i < end) ask_tile(first_tile + i, i);
            ampere::copies_commit();
        }
        for (int32_t tile = first_tile; tile < end; tile++) {
            float score[OWN_KEYS / 8][4];
            const uint32_t k_at = ring_at + stage * S::STAGE_BYTES;
            ampere::copies_wait<STAGES - 2>();
            __syncthreads();        // this tile is there for all threads, and all have read the one before
            if (tile == first_tile) {
                load_queries(last_at, q);
                __syncthreads();    // queries are read, their stage is free
            }
            if (tile + STAGES - 1 < end) ask_tile(tile + STAGES - 1, stage == 0 ? STAGES - 1 : stage - 1);
            ampere::copies_commit();
            multiply_keys(q, k_at, score);
            if constexpr (S::SPLIT_DIMS) add_parts(score);
            if (!is_seen(tile * KEYS)) hide_unseen(tile * KEYS, score);
            weigh(score);
            if (S::SPLIT_KEYS) share_weights(score);
            add_values(score, FORM == LATENT ? k_at : k_at + S::K_BYTES);
            stage = stage == STAGES - 1 ? 0 : stage + 1;
        }
    }

    // ---- results ----
    __device__ void finish_sums() {
        for (int i = 0; i < 2; i++) sum[i] = sum_of_quad(sum[i]);
        if constexpr (S::SPLIT_KEYS) {
            for (int i = 0; i < 2; i++)
                if (lane % 4 == 0) tops[n * S::QUERIES + query(i)] = sum[i];
            meet();         // sums of all parts are there; tops have been read
            for (int i = 0; i < 2; i++) {
                sum[i] = 0;
                for (int w = 0; w < WN; w++) sum[i] += tops[w * S::QUERIES + query(i)];
            }
        }
    }

    __device__ void write_result() const {
        for (int i = 0; i < 2; i++) {
            if (query(i) >= u.n_queries) continue;
            const int32_t head = u.head(query(i));
            float total = sum[i], share = 1;
            if (x.layer.sinks) {
                const float sink = x.layer.sinks[head] * LOG2_E, own = top[i] * x.scale, most = fmaxf(sink, own);
                share = exp2_of(own - most);
                total = total * share + exp2_of(sink - most);
            }
            share /= total;
            bf16 *to = (bf16 *)x.layer.out + ((int64_t)u.row(query(i)) * x.n_heads + head) * VD + OWN_DIMS * n + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < OWN_DIMS / 8; j++)
                *reinterpret_cast<uint32_t *>(to + 8 * j) = pack_two(out[j][2 * i] * share, out[j][2 * i + 1] * share);
        }
    }

    __device__ void write_partial() const {
        for (int i = 0; i < 2; i++) {
            if (query(i) >= u.n_queries) continue;
            const int64_t at = (int64_t)(u.w.partial + u.w.split) * x.n_heads + u.head(query(i));
            float *to = x.partial_out + at * VD + OWN_DIMS * n + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < OWN_DIMS / 8; j++) *reinterpret_cast<float2 *>(to + 8 * j) = make_float2(out[j][2 * i], out[j][2 * i + 1]);
            if (n == 0 && lane % 4 == 0) x.partial_sum[at] = make_float2(top[i] * x.scale, sum[i]);
        }
    }
};

}  // namespace attention
#endif
