/* Attention and, inside it, rotary positions (compute/cpu/rope.c) against doubles. */
#include "compute/fixture.h"

enum { SEQUENCES = 3, PAGES_MAX = 12 };

/* Some sequences with the projections of all their positions; run in any cut into calls. */
typedef struct world {
    int32_t n_heads, n_kv_heads, head_dim, norm_heads;      /* norm_heads: 0 none, 1 per head, 2 over the whole projection */
    float clip, theta;
    int32_t length[SEQUENCES], first[SEQUENCES + 1];        /* first row of a sequence in q, k, v */
    float *q, *k, *v;
    matrix q_norm, k_norm;
    int32_t pages[SEQUENCES * PAGES_MAX];
} world;

static world build_world(gr_rng *rng, int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, int32_t norm_heads, float clip, const int32_t *length) {
    world w = {.n_heads = n_heads, .n_kv_heads = n_kv_heads, .head_dim = head_dim, .norm_heads = norm_heads, .clip = clip, .theta = 10000};
    for (int32_t s = 0; s < SEQUENCES; s++) {
        w.length[s] = length[s];
        w.first[s + 1] = w.first[s] + length[s];
    }
    w.q = random_floats(rng, (int64_t)w.first[SEQUENCES] * n_heads * head_dim);
    w.k = random_floats(rng, (int64_t)w.first[SEQUENCES] * n_kv_heads * head_dim);
    w.v = random_floats(rng, (int64_t)w.first[SEQUENCES] * n_kv_heads * head_dim);
    w.q_norm = random_matrix(rng, 1, norm_heads == 2 ? n_heads * head_dim : head_dim, GRACE_BF16);
    w.k_norm = random_matrix(rng, 1, norm_heads == 2 ? n_kv_heads * head_dim : head_dim, GRACE_BF16);
    for (int32_t i = 0; i < SEQUENCES * PAGES_MAX; i++) w.pages[i] = i;
    return w;
}

static void free_world(world *w) {
    free(w->q), free(w->k), free(w->v);
    free_matrix(&w->q_norm), free_matrix(&w->k_norm);
}

static void scatter_pages(gr_rng *rng, world *w) {
    for (uint32_t i = SEQUENCES * PAGES_MAX - 1; i > 0; i--) {
        const uint32_t j = gr_rng_below(rng, i + 1);
        const int32_t t = w->pages[i];
        w->pages[i] = w->pages[j];
        w->pages[j] = t;
    }
}

/* ---- running: each call takes up to `chunk` further positions of every sequence ---- */
typedef struct call { int32_t n, *sequence, *position; float *q, *k, *v, *out; } call;

static call build_call(const world *w, const int32_t *done, int32_t chunk) {
    const int32_t n_max = w->first[SEQUENCES], n_q = w->n_heads * w->head_dim, n_kv = w->n_kv_heads * w->head_dim;
    call c = {0, calloc((size_t)n_max, 4), calloc((size_t)n_max, 4), calloc((size_t)(n_max * n_q), 4), calloc((size_t)(n_max * n_kv), 4),
              calloc((size_t)(n_max * n_kv), 4), calloc((size_t)(n_max * n_q), 4)};
    for (int32_t s = 0; s < SEQUENCES; s++)
        for (int32_t p = done[s]; p < w->length[s] && p < done[s] + chunk; p++, c.n++) {
            const int64_t row = w->first[s] + p;
            c.sequence[c.n] = s;
            c.position[c.n] = p;
            memcpy(c.q + c.n * n_q, w->q + row * n_q, (size_t)n_q * 4);
            memcpy(c.k + c.n * n_kv, w->k + row * n_kv, (size_t)n_kv * 4);
            memcpy(c.v + c.n * n_kv, w->v + row * n_kv, (size_t)n_kv * 4);
        }
    return c;
}

static void free_call(call *c) { free(c->sequence), free(c->position), free(c->q), free(c->k), free(c->v), free(c->out); }

/* out [all rows, n_heads * head_dim] of every position, computed `chunk` positions a call. */
static float *run_world(gr_compute *c, const world *w, int32_t chunk) {
    const int32_t n_q = w->n_heads * w->head_dim, n_kv = w->n_kv_heads * w->head_dim;
    const size_t cache = (size_t)(SEQUENCES * PAGES_MAX * GR_KV_PAGE * n_kv);
    gr_weight *q_norm = open_weight(c, &w->q_norm), *k_norm = open_weight(c, &w->k_norm);
    float *k_pages = malloc(cache * 4), *v_pages = malloc(cache * 4), *out = malloc((size_t)(w->first[SEQUENCES] * n_q) * 4);
    for (size_t i = 0; i < cache; i++) k_pages[i] = v_pages[i] = NAN;       /* what was never written must not matter */
    int32_t done[SEQUENCES] = {0};
    for (;;) {
        call now = build_call(w, done, chunk);
        const gr_attention a = {.n_rows = now.n, .sequence_of_row = now.sequence, .position_of_row = now.position, .page_table = w->pages,
            .pages_max = PAGES_MAX, .k_pages = k_pages, .v_pages = v_pages, .n_heads = w->n_heads, .n_kv_heads = w->n_kv_heads, .head_dim = w->head_dim,
            .q_norm = w->norm_heads ? q_norm : NULL, .k_norm = w->norm_heads ? k_norm : NULL, .norm_eps = 1e-5f, .rope_theta = w->theta, .clip_qkv = w->clip,
            .q = now.q, .k = now.k, .v = now.v, .out = now.out};
        assert_int_equal(c->ops->attention(c, &a), GRACE_OK);
        for (int32_t i = 0; i < now.n; i++)
            memcpy(out + (int64_t)(w->first[now.sequence[i]] + now.position[i]) * n_q, now.out + (int64_t)i * n_q, (size_t)n_q * 4);
        const bool finished = now.n == 0;
        free_call(&now);
        if (finished) break;
        for (int32_t s = 0; s < SEQUENCES; s++) done[s] += chunk;
    }
    free(k_pages), free(v_pages);
    c->ops->weight_close(c, q_norm), c->ops->weight_close(c, k_norm);
    return out;
}

/* ---- the definition in double ---- */
static void prepare(const world *w, const float *x, int32_t n_heads, const matrix *norm, int32_t position, bool turn, double *out) {
    const int32_t n = n_heads * w->head_dim, span = (int32_t)norm->t.cols, half = w->head_dim / 2;
    for (int32_t i = 0; i < n; i++) {
        double sum = 0;
        for (int32_t j = i / span * span; j < i / span * span + span; j++) sum += (double)x[j] * (double)x[j];
        out[i] = turn && w->norm_heads ? (double)x[i] / sqrt(sum / span + 1e-5) * norm->value[i % span] : (double)x[i];
        if (w->clip > 0) out[i] = fmin(fmax(out[i], -(double)w->clip), (double)w->clip);
    }
    for (int32_t i = 0; turn && i < n; i++) {
        if (i % w->head_dim >= half) continue;
        const float frequency = 1.0f / powf(w->theta, (float)(2 * (i % w->head_dim)) / (float)w->head_dim), angle = (float)position * frequency;
        const double a = out[i], b = out[i + half];
        out[i] = a * cos((double)angle) - b * sin((double)angle);
        out[i + half] = b * cos((double)angle) + a * sin((double)angle);
    }
}

typedef struct prepared { double *q, *k, *v; } prepared;

static prepared prepare_all(const world *w) {
    const int32_t n_q = w->n_heads * w->head_dim, n_kv = w->n_kv_heads * w->head_dim, n = w->first[SEQUENCES];
    prepared p = {calloc((size_t)(n * n_q), 8), calloc((size_t)(n * n_kv), 8), calloc((size_t)(n * n_kv), 8)};
    for (int32_t s = 0; s < SEQUENCES; s++)
        for (int32_t at = 0; at < w->length[s]; at++) {
            const int64_t row = w->first[s] + at;
            prepare(w, w->q + row * n_q, w->n_heads, &w->q_norm, at, true, p.q + row * n_q);
            prepare(w, w->k + row * n_kv, w->n_kv_heads, &w->k_norm, at, true, p.k + row * n_kv);
            prepare(w, w->v + row * n_kv, w->n_kv_heads, &w->k_norm, at, false, p.v + row * n_kv);
        }
    return p;
}

/* One head of one row against out. A score is off by (d/16 + 5) roundings of its sum and 2 * (norm: n/32 + 8, rope: 4) of its factors, all
 * relative to |q||k| <= norm of q times norm of k; twice that, as a factor, is a probability's error; exp, the two sums and the division
 * add (n/16 + 5) * 2 + 6 roundings. */
static void check_head(const world *w, const prepared *p, int32_t first, int32_t position, int32_t head, const float *out) {
    const int32_t d = w->head_dim, kv = head / (w->n_heads / w->n_kv_heads), n_q = w->n_heads * d, n_kv = w->n_kv_heads * d;
    const double *q = p->q + (int64_t)(first + position) * n_q + head * d, eps = (double)EPS_F32;
    double weight[PAGES_MAX * GR_KV_PAGE], total = 0, q_size = 0, k_size = 0;
    for (int32_t i = 0; i < d; i++) q_size += q[i] * q[i];
    for (int32_t j = 0; j <= position; j++) {
        const double *k = p->k + (int64_t)(first + j) * n_kv + kv * d;
        double score = 0, size = 0;
        for (int32_t i = 0; i < d; i++) score += q[i] * k[i], size += k[i] * k[i];
        k_size = fmax(k_size, size);
        total += weight[j] = exp(score / sqrt(d));
    }
    const double score_error = eps * (d / 16 + 5 + 2 * ((double)w->q_norm.t.cols / 32 + 12)) * sqrt(q_size * k_size / d);
    for (int32_t i = 0; i < d; i++) {
        double sum = 0, size = 0;
        for (int32_t j = 0; j <= position; j++) {
            const double v = weight[j] / total * p->v[(int64_t)(first + j) * n_kv + kv * d + i];
            sum += v;
            size += fabs(v);
        }
        assert_close((double)out[i], sum, size * (2 * score_error + eps * (2 * (position / 16.0 + 5) + 6)), "attention", i);
    }
}

static void check_world(const world *w, const float *out) {
    prepared p = prepare_all(w);
    for (int32_t s = 0; s < SEQUENCES; s++)
        for (int32_t at = 0; at < w->length[s]; at++)
            for (int32_t h = 0; h < w->n_heads; h++)
                check_head(w, &p, w->first[s], at, h, out + ((int64_t)(w->first[s] + at) * w->n_heads + h) * w->head_dim);
    free(p.q), free(p.k), free(p.v);
}

/* ---- claims ---- */
static const struct { int32_t heads, kv_heads, dim, norm; float clip; int32_t length[SEQUENCES]; } cases[] = {
    {4, 4, 24, 2, 0, {37, 5, 16}},          /* as OLMoE: norm over the projection */
    {8, 2, 32, 1, 0, {50, 33, 1}},          /* as Qwen3: shared kv heads, norm per head */
    {2, 1, 6, 0, 0.4f, {17, 0, 100}},       /* small heads, clip, an empty sequence */
    {3, 3, 128, 2, 0.5f, {20, 3, 48}},
};
enum { CASES = sizeof cases / sizeof *cases };

static world build_case(gr_rng *rng, int i) {
    return build_world(rng, cases[i].heads, cases[i].kv_heads, cases[i].dim, cases[i].norm, cases[i].clip, cases[i].length);
}

static void outputs_agree_with_double_and_all_backends_with_each_other(void **state) {
    (void)state;
    gr_rng rng = seeded(61);
    many all = open_all();
    for (int i = 0; i < CASES; i++) {
        world w = build_case(&rng, i);
        float *wanted = run_world(all.c[0], &w, 1000);
        check_world(&w, wanted);
        FOR_EACH_BACKEND(c, all) {
            float *out = run_world(c, &w, 1000);
            assert_same_bits(out, wanted, (int64_t)w.first[SEQUENCES] * w.n_heads * w.head_dim, gr_compute_cpu_simd(c));
            free(out);
        }
        free(wanted);
        free_world(&w);
    }
    close_all(&all);
}

static void chunks_and_scattered_pages_change_no_bit(void **state) {
    (void)state;
    static const int32_t chunks[] = {1, 7, 16, 30};
    gr_rng rng = seeded(62);
    many all = open_all();
    for (int i = 0; i < CASES; i++) {
        world w = build_case(&rng, i);
        const int64_t n = (int64_t)w.first[SEQUENCES] * w.n_heads * w.head_dim;
        float *wanted = run_world(all.c[all.n - 1], &w, 1000);
        scatter_pages(&rng, &w);
        for (int at = 0; at < 4; at++) {
            float *out = run_world(all.c[all.n - 1], &w, chunks[at]);
            assert_same_bits(out, wanted, n, "chunks");
            free(out);
        }
        float *out = run_world(all.c[0], &w, 9);
        assert_same_bits(out, wanted, n, "chunks, portable");
        free(out);
        free(wanted);
        free_world(&w);
    }
    close_all(&all);
}

static void a_sequence_alone_equals_the_sequence_in_a_batch(void **state) {
    (void)state;
    gr_rng rng = seeded(63);
    many all = open_all();
    gr_compute *c = all.c[all.n - 1];
    world w = build_case(&rng, 1), one = w;
    float *batch = run_world(c, &w, 1000);
    const int32_t n_q = w.n_heads * w.head_dim, n_kv = w.n_kv_heads * w.head_dim, skipped = w.first[1];
    one.length[0] = one.length[2] = 0;
    one.first[1] = 0;
    one.first[2] = one.first[3] = w.length[1];
    one.q += (int64_t)skipped * n_q, one.k += (int64_t)skipped * n_kv, one.v += (int64_t)skipped * n_kv;
    float *alone = run_world(c, &one, 1000);
    assert_same_bits(alone, batch + (int64_t)skipped * n_q, (int64_t)w.length[1] * n_q, "sequence alone");
    free(alone), free(batch);
    free_world(&w);
    close_all(&all);
}

static void impossible_shapes_are_refused(void **state) {
    (void)state;
    gr_rng rng = seeded(64);
    many all = open_all();
    gr_compute *c = all.c[0];
    matrix m = random_matrix(&rng, 1, 7, GRACE_F32);
    gr_weight *w = open_weight(c, &m);
    const gr_attention good = {.n_rows = 1, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8};
    gr_attention odd = good, uneven = good, norm = good, none = {0};
    odd.head_dim = 7, uneven.n_kv_heads = 3, norm.q_norm = w;
    assert_int_equal(c->ops->attention(c, &odd), GRACE_ERR_ARG);
    assert_int_equal(c->ops->attention(c, &uneven), GRACE_ERR_ARG);
    assert_int_equal(c->ops->attention(c, &norm), GRACE_ERR_ARG);
    assert_non_null(strstr(grace_last_error(), "expected 8 or 32"));
    assert_int_equal(c->ops->attention(c, &none), GRACE_OK);
    c->ops->weight_close(c, w);
    free_matrix(&m);
    close_all(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_agree_with_double_and_all_backends_with_each_other),
        cmocka_unit_test(chunks_and_scattered_pages_change_no_bit),
        cmocka_unit_test(a_sequence_alone_equals_the_sequence_in_a_batch),
        cmocka_unit_test(impossible_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
