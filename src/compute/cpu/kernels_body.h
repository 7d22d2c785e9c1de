/* The kernels themselves. The including file defines the vector `v16` with its operations, TILE_ROWS, PARTS and LEVEL, and `reg`, one
 * register of REG_LANES of a v16's lanes.
 *
 * v16_fold(a, n) sums 16 vectors at once in the canonical order: lane 4q + t of the result is the folded a[q][t]; only rows q < n
 * matter. n is a constant wherever it is called, so that accumulators stay in registers. */
#include <math.h>
#include <string.h>

/* Registers want every small loop unrolled and every step inlined; plain C (and its sanitizers) are better off without. */
#if !defined(PLAIN_LOOPS)
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#else
#define INLINE static inline
#define UNROLL
#endif

INLINE int64_t dtype_size(grace_dtype dtype) { return dtype == GRACE_F32 ? 4 : 2; }

INLINE v16 load_weights(grace_dtype dtype, const void *p) {
    return dtype == GRACE_F32 ? v16_load(p) : dtype == GRACE_BF16 ? v16_load_bf16(p) : v16_load_f16(p);
}

/* The first n < 16; the other lanes are zero. */
INLINE v16 load_weights_n(grace_dtype dtype, const void *p, int32_t n) {
    if (dtype == GRACE_F32) return v16_load_n(p, n);
    uint16_t whole[16] = {0};
    memcpy(whole, p, (size_t)n * 2);
    return dtype == GRACE_BF16 ? v16_load_bf16(whole) : v16_load_f16(whole);
}

/* The canonical fold of one vector. */
INLINE float fold_one(v16 v) {
    float p[16];
    v16_store(p, v);
    for (int j = 0; j < 8; j++) p[j] += p[j + 8];
    for (int j = 0; j < 4; j++) p[j] += p[j + 4];
    p[0] += p[2];
    p[1] += p[3];
    return p[0] + p[1];
}

INLINE v16 fold_vectors(v16 p[16]) {
    UNROLL for (int j = 0; j < 8; j++) p[j] = v16_add(p[j], p[j + 8]);
    UNROLL for (int j = 0; j < 4; j++) p[j] = v16_add(p[j], p[j + 4]);
    return v16_add(v16_add(p[0], p[2]), v16_add(p[1], p[3]));
}

/* ---- products: TILE_ROWS x 4 accumulators of one register each live in registers while k runs once. Where a v16 is two registers
 * (AVX2), the tile runs over k twice, for lanes 0-7 and for lanes 8-15; the second time the data are in the first-level cache. ---- */
INLINE reg load_weight_lanes(grace_dtype dtype, const void *p) {
    return dtype == GRACE_F32 ? reg_load(p) : dtype == GRACE_BF16 ? reg_load_bf16(p) : reg_load_f16(p);
}

/* Products of k = i + lane ..., REG_LANES of them. */
INLINE void add_products(int rows, int cols, grace_dtype dtype, const gr_tile *t, const uint8_t *w, int64_t i, reg sum[TILE_ROWS][4]) {
    reg x[TILE_ROWS];
    UNROLL for (int r = 0; r < rows; r++) x[r] = reg_load(t->x[r] + i);
    UNROLL for (int c = 0; c < cols; c++) {
        const uint8_t *p = w + c * t->w_stride + i * dtype_size(dtype);
        if (dtype != GRACE_F32) __builtin_prefetch(p + t->prefetch);
        const reg weights = load_weight_lanes(dtype, p);
        UNROLL for (int r = 0; r < rows; r++) sum[r][c] = reg_fma(x[r], weights, sum[r][c]);
    }
}

/* The last n < 16 products of every sum, missing ones zero. */
INLINE void add_last_products(int rows, int cols, int lane, grace_dtype dtype, const gr_tile *t, const uint8_t *w, int32_t n, reg sum[TILE_ROWS][4]) {
    float wide[16];
    const int64_t i = t->k - n;
    UNROLL for (int c = 0; c < cols; c++) {
        v16_store(wide, load_weights_n(dtype, w + c * t->w_stride + i * dtype_size(dtype), n));
        const reg weights = reg_load(wide + lane);
        UNROLL for (int r = 0; r < rows; r++) {
            v16_store(wide, v16_load_n(t->x[r] + i, n));
            sum[r][c] = reg_fma(reg_load(wide + lane), weights, sum[r][c]);
        }
    }
}

/* The 16 partial sums of rows x cols outputs. */
INLINE void multiply(int rows, int cols, grace_dtype dtype, const gr_tile *t, const uint8_t *w, v16 partial[8][4]) {
    UNROLL for (int lane = 0; lane < 16; lane += REG_LANES) {
        reg sum[TILE_ROWS][4];
        UNROLL for (int r = 0; r < rows; r++) {
            UNROLL for (int c = 0; c < cols; c++) sum[r][c] = reg_zero();
        }
        int64_t i = lane;
        for (; i + 16 <= t->k + lane; i += 16) add_products(rows, cols, dtype, t, w, i, sum);
        if (t->k % 16) add_last_products(rows, cols, lane, dtype, t, w, t->k % 16, sum);
        UNROLL for (int r = 0; r < rows; r++) {
            UNROLL for (int c = 0; c < cols; c++) v16_put(&partial[r][c], lane, sum[r][c]);
        }
    }
}

/* Four outputs of every row. */
INLINE void tile_four(int rows, grace_dtype dtype, const gr_tile *t, int32_t o) {
    v16 partial[8][4];
    multiply(rows, 4, dtype, t, (const uint8_t *)t->w + o * t->w_stride, partial);
    UNROLL for (int r = 0; r < rows; r += 4) {
        const int n = rows - r < 4 ? rows - r : 4;
        float folded[16];
        v16_store(folded, v16_fold((const v16(*)[4])(partial + r), n));
        UNROLL for (int q = 0; q < n; q++) memcpy(t->out[r + q] + o, folded + 4 * q, 4 * sizeof(float));
    }
}

INLINE void tile_one(int rows, grace_dtype dtype, const gr_tile *t, int32_t o) {
    v16 partial[8][4];
    multiply(rows, 1, dtype, t, (const uint8_t *)t->w + o * t->w_stride, partial);
    UNROLL for (int r = 0; r < rows; r++) t->out[r][o] = fold_one(partial[r][0]);
}

INLINE void tile_of(int rows, grace_dtype dtype, const gr_tile *t) {
    int32_t o = 0;
    for (; o + 4 <= t->n_outs; o += 4) tile_four(rows, dtype, t, o);
    for (; o < t->n_outs; o++) tile_one(rows, dtype, t, o);
}

INLINE void tile_any(grace_dtype dtype, const gr_tile *t) {
    switch (t->n_rows) {
    case 1: tile_of(1, dtype, t); break;
    case 2: tile_of(2, dtype, t); break;
#if TILE_ROWS > 2
    case 3: tile_of(3, dtype, t); break;
#endif
#if TILE_ROWS > 3
    case 4: tile_of(4, dtype, t); break;
    case 5: tile_of(5, dtype, t); break;
    case 6: tile_of(6, dtype, t); break;
#endif
    default: break;
    }
}

static void tile_f32(const gr_tile *t) { tile_any(GRACE_F32, t); }
static void tile_bf16(const gr_tile *t) { tile_any(GRACE_BF16, t); }
static void tile_f16(const gr_tile *t) { tile_any(GRACE_F16, t); }

static void tile(const gr_tile *t) {
    if (t->dtype == GRACE_F32) tile_f32(t);
    else if (t->dtype == GRACE_BF16) tile_bf16(t);
    else tile_f16(t);
}

INLINE void widen_as(grace_dtype dtype, const uint8_t *from, int64_t n, float *to) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __builtin_prefetch(from + i * dtype_size(dtype) + GR_PREFETCH_BYTES);
        v16_store(to + i, load_weights(dtype, from + i * dtype_size(dtype)));
    }
    if (i < n) v16_store_n(to + i, load_weights_n(dtype, from + i * dtype_size(dtype), (int32_t)(n - i)), (int32_t)(n - i));
}

static void widen(grace_dtype dtype, const void *from, int64_t n, float *to) {
    if (dtype == GRACE_F32) memcpy(to, from, (size_t)n * sizeof *to);
    else if (dtype == GRACE_BF16) widen_as(GRACE_BF16, from, n, to);
    else widen_as(GRACE_F16, from, n, to);
}

/* ---- exp: 2^n * e^r, n = round(x / ln 2), |r| <= ln 2 / 2, e^r by its series to r^7 (5e-9 relative). Under 1.5 ulp where the result
 * is normal; results that would be subnormal are 0; NaN stays NaN. ---- */
INLINE v16 v16_exp(v16 x) {
    const v16 lowest = v16_set(-87.33654f), highest = v16_set(88.72284f), one = v16_set(1.0f);
    const v16 magic = v16_set(0x1.8p23f);       /* adding it rounds to an integer */
    v16 y = v16_min(highest, v16_max(lowest, x));
    v16 n = v16_sub(v16_fma(y, v16_set(0x1.715476p0f), magic), magic);
    v16 r = v16_fma(n, v16_set(0x1.05c61p-29f), v16_fma(n, v16_set(-0x1.62e43p-1f), y));    /* ln 2 in two pieces */
    v16 p = v16_set(1.0f / 5040);
    p = v16_fma(p, r, v16_set(1.0f / 720));
    p = v16_fma(p, r, v16_set(1.0f / 120));
    p = v16_fma(p, r, v16_set(1.0f / 24));
    p = v16_fma(p, r, v16_set(1.0f / 6));
    p = v16_fma(p, r, v16_set(0.5f));
    p = v16_fma(p, r, one);
    p = v16_fma(p, r, one);
    return v16_zero_below(v16_ldexp(p, n), x, lowest);
}

static void exp_row(float *x, int32_t n) {
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) v16_store(x + i, v16_exp(v16_load(x + i)));
    if (i < n) v16_store_n(x + i, v16_exp(v16_load_n(x + i, n - i)), n - i);
}

static float largest(const float *x, int32_t n) {
    v16 top = v16_set(x[0]);
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) top = v16_max(v16_load(x + i), top);
    if (i < n) top = v16_max(v16_first_n(v16_load_n(x + i, n - i), top, n - i), top);
    float lane[16];
    v16_store(lane, top);
    for (int j = 1; j < 16; j++) lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
    return lane[0];
}

static float softmax(float *x, int32_t n, float scale, const float *sink) {
    float most = scale * largest(x, n);
    if (sink && *sink > most) most = *sink;
    const v16 by = v16_set(scale), top = v16_set(most);
    v16 sum = v16_zero();
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 e = v16_exp(v16_sub(v16_mul(v16_load(x + i), by), top));
        v16_store(x + i, e);
        sum = v16_add(sum, e);
    }
    if (i < n) {
        v16 e = v16_exp(v16_sub(v16_mul(v16_load_n(x + i, n - i), by), top));
        v16_store_n(x + i, e, n - i);
        sum = v16_add(sum, v16_first_n(e, v16_zero(), n - i));
    }
    if (!sink) return fold_one(sum);
    float share[16];
    v16_store(share, v16_exp(v16_sub(v16_set(*sink), top)));
    return fold_one(sum) + share[0];
}

INLINE v16 silu_times(v16 gate, v16 up) {
    const v16 one = v16_set(1.0f);
    return v16_mul(v16_div(gate, v16_add(one, v16_exp(v16_sub(v16_zero(), gate)))), up);
}

static void silu_mul(float *gate, const float *up, int32_t n) {
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) v16_store(gate + i, silu_times(v16_load(gate + i), v16_load(up + i)));
    if (i < n) v16_store_n(gate + i, silu_times(v16_load_n(gate + i, n - i), v16_load_n(up + i, n - i)), n - i);
}

INLINE v16 v16_sigmoid(v16 x) { return v16_div(v16_set(1.0f), v16_add(v16_set(1.0f), v16_exp(v16_sub(v16_zero(), x)))); }

static void sigmoid(float *x, int32_t n) {
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) v16_store(x + i, v16_sigmoid(v16_load(x + i)));
    if (i < n) v16_store_n(x + i, v16_sigmoid(v16_load_n(x + i, n - i)), n - i);
}

INLINE v16 clamped_times(v16 gate, v16 up, v16 limit) {
    const v16 g = v16_min(gate, limit), u = v16_max(v16_sub(v16_zero(), limit), v16_min(up, limit));
    return v16_mul(v16_mul(g, v16_sigmoid(v16_mul(g, v16_set(1.702f)))), v16_add(u, v16_set(1.0f)));
}

static void silu_clamped(float *gate, const float *up, int32_t n, float limit) {
    const v16 most = v16_set(limit);
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) v16_store(gate + i, clamped_times(v16_load(gate + i), v16_load(up + i), most));
    if (i < n) v16_store_n(gate + i, clamped_times(v16_load_n(gate + i, n - i), v16_load_n(up + i, n - i), most), n - i);
}

static void norm(const float *x, const float *w, int32_t n, float eps, float *out) {
    v16 sum = v16_zero();
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) sum = v16_fma(v16_load(x + i), v16_load(x + i), sum);
    if (i < n) sum = v16_fma(v16_load_n(x + i, n - i), v16_load_n(x + i, n - i), sum);
    const float scale = 1.0f / sqrtf(fold_one(sum) / (float)n + eps);
    for (i = 0; i < n; i++) out[i] = x[i] * scale * w[i];
}

static void pack(const float *from, int64_t stride, int32_t n, int32_t m, float *to) {
    if (m == 16)
        for (int32_t j = 0; j < n; j++) v16_store(to + 16 * j, v16_load(from + j * stride));
    else
        for (int32_t j = 0; j < n; j++) v16_store(to + 16 * j, v16_load_n(from + j * stride, m));
}

/* ---- attention's second product: 16 partials over positions for 16 elements of the head, some of them at a time: PARTS for one query, PARTS / 2
 * for several, which share the loads of the values. Queries may see different numbers of positions; beyond the fewest each goes on alone. ---- */
INLINE void weigh_parts(const gr_weigh *g, int queries, int parts, int first, int32_t n_all, v16 partial[GR_WEIGH_QUERIES][16]) {
    v16 sum[GR_WEIGH_QUERIES][PARTS];
    UNROLL for (int q = 0; q < queries; q++) {
        UNROLL for (int j = 0; j < parts; j++) sum[q][j] = v16_zero();
    }
    int32_t at = first;
    for (; at + parts <= n_all; at += 16) {
        UNROLL for (int j = 0; j < parts; j++) {
            const v16 v = v16_load(g->v + 16 * (int64_t)(at + j));
            UNROLL for (int q = 0; q < queries; q++) sum[q][j] = v16_fma(v16_set(g->p[q][at + j]), v, sum[q][j]);
        }
    }
    UNROLL for (int q = 0; q < queries; q++) {
        UNROLL for (int j = 0; j < parts; j++) {
            for (int32_t rest = at + j; rest < g->n[q]; rest += 16)
                sum[q][j] = v16_fma(v16_set(g->p[q][rest]), v16_load(g->v + 16 * (int64_t)rest), sum[q][j]);
            partial[q][first + j] = sum[q][j];
        }
    }
}

INLINE void weigh_queries(const gr_weigh *g, int queries, int parts) {
    v16 partial[GR_WEIGH_QUERIES][16];
    int32_t n_all = g->n[0];
    for (int q = 1; q < queries; q++) n_all = g->n[q] < n_all ? g->n[q] : n_all;
    UNROLL for (int first = 0; first < 16; first += parts) weigh_parts(g, queries, parts, first, n_all, partial);
    for (int q = 0; q < queries; q++) v16_store_n(g->out[q], v16_div(fold_vectors(partial[q]), v16_set(g->total[q])), g->n_out);
}

static void weigh(const gr_weigh *g) {
    if (g->n_queries == 1) weigh_queries(g, 1, PARTS);
    else if (g->n_queries == 2) weigh_queries(g, 2, PARTS / 2);
    else weigh_queries(g, 3, PARTS / 2);
}

/* ---- element by element: the compiler's vectors round like plain C ---- */
static void rope(float *restrict x, const float *restrict cosine, const float *restrict sine, int32_t half) {
    for (int32_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

static void rope_neighbours(float *restrict x, const float *restrict cosine, const float *restrict sine, int32_t half) {
    for (int32_t i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosine[i] - b * sine[i];
        x[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
}

static void clip(float *x, int32_t n, float limit) {
    for (int32_t i = 0; i < n; i++) x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
}

static void add(float *x, const float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

INLINE void sum_sixteen(const gr_sum_row *s, int32_t i, int32_t m) {
    v16 sum = v16_zero();
    for (int32_t j = 0; j < s->n; j++) {
        const float *row = s->in + (int64_t)s->index[j] * s->width + i;
        v16 x = m == 16 ? v16_load(row) : v16_load_n(row, m);
        sum = v16_add(sum, s->weight ? v16_mul(v16_set(s->weight[j]), x) : x);
    }
    if (s->accumulate) sum = v16_add(m == 16 ? v16_load(s->out + i) : v16_load_n(s->out + i, m), sum);
    v16_store_n(s->out + i, sum, m);
}

static void sum_row(const gr_sum_row *s) {
    int32_t i = 0;
    for (; i + 16 <= s->width; i += 16) sum_sixteen(s, i, 16);
    if (i < s->width) sum_sixteen(s, i, s->width - i);
}

/* ---- the machine's limits ---- */
static double burn(int64_t n, float seed) {
    enum { CHAINS = 12 * REG_LANES / 16 };      /* 12 registers */
    float start[16 * CHAINS];       /* no two lanes alike: the compiler would compute equal halves of a v16 once */
    v16 sum[CHAINS], a = v16_set(seed), b = v16_set(1.0f - seed);
    for (int i = 0; i < 16 * CHAINS; i++) start[i] = seed * (float)(i + 1);
    UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = v16_load(start + 16 * j);
    for (int64_t i = 0; i < n; i++) {
        UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = v16_fma(sum[j], b, a);
    }
    v16 all = v16_zero();
    UNROLL for (int j = 0; j < CHAINS; j++) all = v16_add(all, sum[j]);
    return (double)n * CHAINS * 32 + (fold_one(all) == 1234.5f ? 1 : 0);
}

static float read_all(const float *x, int64_t n) {
    v16 sum[8];
    UNROLL for (int j = 0; j < 8; j++) sum[j] = v16_zero();
    for (int64_t i = 0; i + 128 <= n; i += 128) {
        UNROLL for (int j = 0; j < 8; j++) {
            __builtin_prefetch(x + i + 16 * j + GR_PREFETCH_BYTES / sizeof *x);
            sum[j] = v16_add(sum[j], v16_load(x + i + 16 * j));
        }
    }
    UNROLL for (int j = 1; j < 8; j++) sum[0] = v16_add(sum[0], sum[j]);
    return fold_one(sum[0]);
}

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
const gr_kernels JOIN(gr_kernels_, LEVEL) = {
    .name = TEXT(LEVEL), .tile_rows = TILE_ROWS, .tile = tile, .widen = widen, .norm = norm, .softmax = softmax, .exp = exp_row,
    .pack = pack, .weigh = weigh, .silu_mul = silu_mul, .silu_clamped = silu_clamped, .sigmoid = sigmoid,
    .rope = rope, .rope_neighbours = rope_neighbours, .clip = clip, .add = add, .sum_row = sum_row, .burn = burn, .read = read_all,
};
