/* Attention and, inside it, rotary positions (compute/rope.c) against doubles. */
#include "compute/fixture.h"

enum { SEQUENCES = 3, PAGES_MAX = 12 };

/* What one layer's attention may be. latent: keys hold the values, their norm covers only these. */
typedef struct shape {
    int32_t heads, kv_heads, dim, value_dim, turned, norm_heads;    /* norm_heads: 0 none, 1 per head, 2 over the whole projection */
    int32_t window;
    bool neighbours, sinks, latent;
    float clip;
    int32_t length[SEQUENCES];
} shape;

/* Some sequences with the projections of all their positions; run in any cut into calls. */
typedef struct world {
    shape is;
    grace_rope rope;
    int32_t n_q, n_k, n_v, n_out;                           /* floats of a row */
    int32_t length[SEQUENCES], first[SEQUENCES + 1];        /* first row of a sequence in q, k, v */
    float *q, *k, *v;
    matrix q_norm, k_norm, sinks;
    int32_t pages[SEQUENCES * PAGES_MAX];
} world;

static grace_rope build_rope(const shape *is) {
    grace_rope rope = {.dim = is->turned, .neighbours = is->neighbours, .magnitude = is->neighbours ? 1.25f : 1};
    for (int32_t i = 0; i < is->turned / 2; i++) rope.frequency[i] = 1.0f / powf(10000, (float)(2 * i) / (float)is->turned);
    return rope;
}

static world build_world(gr_rng *rng, const shape *is) {
    const int32_t k_norm = is->norm_heads == 2 ? is->kv_heads * is->dim : is->latent ? is->value_dim : is->dim;
    world w = {.is = *is, .rope = build_rope(is), .n_q = is->heads * is->dim, .n_k = is->kv_heads * is->dim, .n_v = is->kv_heads * is->value_dim,
               .n_out = is->heads * is->value_dim};
    for (int32_t s = 0; s < SEQUENCES; s++) {
        w.length[s] = is->length[s];
        w.first[s + 1] = w.first[s] + is->length[s];
    }
    w.q = random_floats(rng, (int64_t)w.first[SEQUENCES] * w.n_q);
    w.k = random_floats(rng, (int64_t)w.first[SEQUENCES] * w.n_k);
    w.v = random_floats(rng, (int64_t)w.first[SEQUENCES] * w.n_v);
    w.q_norm = random_matrix(rng, 1, is->norm_heads == 2 ? w.n_q : is->dim, GRACE_BF16);
    w.k_norm = random_matrix(rng, 1, k_norm, GRACE_BF16);
    w.sinks = random_matrix(rng, 1, is->heads, GRACE_F32);
    for (int32_t i = 0; i < SEQUENCES * PAGES_MAX; i++) w.pages[i] = i;
    return w;
}

static void free_world(world *w) {
    free(w->q), free(w->k), free(w->v);
    free_matrix(&w->q_norm), free_matrix(&w->k_norm), free_matrix(&w->sinks);
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
    const size_t n_max = (size_t)w->first[SEQUENCES];
    call c = {0, calloc(n_max, 4), calloc(n_max, 4), calloc(n_max * (size_t)w->n_q, 4), calloc(n_max * (size_t)w->n_k, 4),
              calloc(n_max * (size_t)w->n_v, 4), calloc(n_max * (size_t)w->n_out, 4)};
    for (int32_t s = 0; s < SEQUENCES; s++)
        for (int32_t p = done[s]; p < w->length[s] && p < done[s] + chunk; p++, c.n++) {
            const int64_t row = w->first[s] + p;
            c.sequence[c.n] = s;
            c.position[c.n] = p;
            memcpy(c.q + c.n * w->n_q, w->q + row * w->n_q, (size_t)w->n_q * 4);
            memcpy(c.k + c.n * w->n_k, w->k + row * w->n_k, (size_t)w->n_k * 4);
            memcpy(c.v + c.n * w->n_v, w->v + row * w->n_v, (size_t)w->n_v * 4);
        }
    return c;
}

static void free_call(call *c) { free(c->sequence), free(c->position), free(c->q), free(c->k), free(c->v), free(c->out); }

/* out [all rows, n_out] of every position, computed `chunk` positions a call. */
static float *run_world(gr_compute *c, const world *w, int32_t chunk) {
    const size_t cache = (size_t)(SEQUENCES * PAGES_MAX * GR_KV_PAGE * (w->n_k > w->n_v ? w->n_k : w->n_v));
    gr_weight *q_norm = open_weight(c, &w->q_norm), *k_norm = open_weight(c, &w->k_norm), *sinks = open_weight(c, &w->sinks);
    float *k_pages = malloc(cache * 4), *v_pages = malloc(cache * 4), *out = malloc((size_t)(w->first[SEQUENCES] * w->n_out) * 4);
    for (size_t i = 0; i < cache; i++) k_pages[i] = v_pages[i] = NAN;       /* what was never written must not matter */
    int32_t done[SEQUENCES] = {0};
    for (;;) {
        call now = build_call(w, done, chunk);
        const gr_attention a = {.n_rows = now.n, .sequence_of_row = now.sequence, .position_of_row = now.position, .page_table = w->pages,
            .pages_max = PAGES_MAX, .k_pages = k_pages, .v_pages = w->is.latent ? NULL : v_pages, .n_heads = w->is.heads,
            .n_kv_heads = w->is.kv_heads, .key_dim = w->is.dim, .value_dim = w->is.value_dim, .scale = 1 / sqrtf((float)w->is.dim),
            .window = w->is.window, .rope = &w->rope, .sinks = w->is.sinks ? sinks : NULL,
            .q_norm = w->is.norm_heads && !w->is.latent ? q_norm : NULL, .k_norm = w->is.norm_heads ? k_norm : NULL, .norm_eps = 1e-5f,
            .clip_qkv = w->is.clip, .q = now.q, .k = now.k, .v = w->is.latent ? NULL : now.v, .out = now.out};
        assert_int_equal(c->ops->attention(c, &a), GRACE_OK);
        for (int32_t i = 0; i < now.n; i++)
            memcpy(out + (int64_t)(w->first[now.sequence[i]] + now.position[i]) * w->n_out, now.out + (int64_t)i * w->n_out, (size_t)w->n_out * 4);
        const bool finished = now.n == 0;
        free_call(&now);
        if (finished) break;
        for (int32_t s = 0; s < SEQUENCES; s++) done[s] += chunk;
    }
    free(k_pages), free(v_pages);
    c->ops->weight_close(c, q_norm), c->ops->weight_close(c, k_norm), c->ops->weight_close(c, sinks);
    return out;
}

/* ---- the definition in double ---- */
static void turn(const world *w, double *head, int32_t position) {
    const int32_t half = w->rope.dim / 2;
    double *last = head + w->is.dim - w->rope.dim, magnitude = (double)w->rope.magnitude;
    for (int32_t i = 0; i < half; i++) {
        const int32_t one = w->rope.neighbours ? 2 * i : i, other = w->rope.neighbours ? 2 * i + 1 : i + half;
        const float angle = (float)position * w->rope.frequency[i];
        const double a = last[one] * magnitude, b = last[other] * magnitude;
        last[one] = a * cos((double)angle) - b * sin((double)angle);
        last[other] = b * cos((double)angle) + a * sin((double)angle);
    }
}

/* Norm (NULL: none) over spans of its size, the first in every head or in the projection; clip; rope where turned. */
static void prepare(const world *w, const float *x, int32_t n_heads, int32_t dim, const matrix *norm, int32_t position, bool turned, double *out) {
    const int32_t n = n_heads * dim, span = norm ? (int32_t)norm->t.cols : 0, step = span > dim ? span : dim;
    for (int32_t i = 0; i < n; i++) out[i] = (double)x[i];
    for (int32_t at = 0; norm && at < n; at += step) {
        double sum = 0;
        for (int32_t j = 0; j < span; j++) sum += out[at + j] * out[at + j];
        for (int32_t j = 0; j < span; j++) out[at + j] = out[at + j] / sqrt(sum / span + 1e-5) * norm->value[j];
    }
    for (int32_t i = 0; w->is.clip > 0 && i < n; i++) out[i] = fmin(fmax(out[i], -(double)w->is.clip), (double)w->is.clip);
    for (int32_t h = 0; turned && h < n_heads; h++) turn(w, out + h * dim, position);
}

typedef struct prepared { double *q, *k, *v; } prepared;

static prepared prepare_all(const world *w) {
    const size_t n = (size_t)w->first[SEQUENCES];
    const shape *is = &w->is;
    prepared p = {calloc(n * (size_t)w->n_q, 8), calloc(n * (size_t)w->n_k, 8), calloc(n * (size_t)w->n_v, 8)};
    for (int32_t s = 0; s < SEQUENCES; s++)
        for (int32_t at = 0; at < w->length[s]; at++) {
            const int64_t row = w->first[s] + at;
            double *k = p.k + row * w->n_k, *v = p.v + row * w->n_v;
            prepare(w, w->q + row * w->n_q, is->heads, is->dim, is->norm_heads && !is->latent ? &w->q_norm : NULL, at, true, p.q + row * w->n_q);
            prepare(w, w->k + row * w->n_k, is->kv_heads, is->dim, is->norm_heads ? &w->k_norm : NULL, at, true, k);
            prepare(w, w->v + row * w->n_v, is->kv_heads, is->value_dim, NULL, at, false, v);
            for (int32_t i = 0; is->latent && i < is->value_dim; i++) v[i] = k[i];
        }
    return p;
}

/* One head of one row against out. A score is off by (d/16 + 5) roundings of its sum and 2 * (norm: n/32 + 8, rope: 4) of its factors, all
 * relative to |q||k| <= norm of q times norm of k; twice that, as a factor, is a probability's error; exp, the two sums and the division
 * add (n/16 + 5) * 2 + 6 roundings. */
static void check_head(const world *w, const prepared *p, int32_t first, int32_t position, int32_t head, const float *out) {
    const int32_t d = w->is.dim, n_values = w->is.value_dim, kv = head / (w->is.heads / w->is.kv_heads);
    const int32_t from = w->is.window > 0 && position >= w->is.window ? position + 1 - w->is.window : 0;
    const double *q = p->q + (int64_t)(first + position) * w->n_q + head * d, eps = (double)EPS_F32;
    double weight[PAGES_MAX * GR_KV_PAGE], total = w->is.sinks ? exp(w->sinks.value[head]) : 0, q_size = 0, k_size = 0;
    for (int32_t i = 0; i < d; i++) q_size += q[i] * q[i];
    for (int32_t j = from; j <= position; j++) {
        const double *k = p->k + (int64_t)(first + j) * w->n_k + kv * d;
        double score = 0, size = 0;
        for (int32_t i = 0; i < d; i++) score += q[i] * k[i], size += k[i] * k[i];
        k_size = fmax(k_size, size);
        total += weight[j] = exp(score / sqrt(d));
    }
    const double score_error = eps * (d / 16 + 5 + 2 * ((double)w->q_norm.t.cols / 32 + 12)) * sqrt(q_size * k_size / d);
    for (int32_t i = 0; i < n_values; i++) {
        double sum = 0, size = 0;
        for (int32_t j = from; j <= position; j++) {
            const double v = weight[j] / total * p->v[(int64_t)(first + j) * w->n_v + kv * n_values + i];
            sum += v;
            size += fabs(v);
        }
        assert_close((double)out[i], sum, size * (2 * score_error + eps * (2 * (position / 16.0 + 5) + 7)), "attention", i);
    }
}

static void check_world(const world *w, const float *out) {
    prepared p = prepare_all(w);
    for (int32_t s = 0; s < SEQUENCES; s++)
        for (int32_t at = 0; at < w->length[s]; at++)
            for (int32_t h = 0; h < w->is.heads; h++)
                check_head(w, &p, w->first[s], at, h, out + ((int64_t)(w->first[s] + at) * w->is.heads + h) * w->is.value_dim);
    free(p.q), free(p.k), free(p.v);
}

/* ---- claims ---- */
static const shape cases[] = {
    {.heads = 4, .kv_heads = 4, .dim = 24, .value_dim = 24, .turned = 24, .norm_heads = 2, .length = {37, 5, 16}},      /* as OLMoE */
    {.heads = 8, .kv_heads = 2, .dim = 32, .value_dim = 32, .turned = 32, .norm_heads = 1, .length = {50, 33, 1}},      /* as Qwen3 */
    {.heads = 2, .kv_heads = 1, .dim = 6, .value_dim = 6, .turned = 6, .clip = 0.4f, .length = {17, 0, 100}},           /* an empty sequence */
    {.heads = 3, .kv_heads = 3, .dim = 128, .value_dim = 128, .turned = 128, .norm_heads = 2, .clip = 0.5f, .length = {20, 3, 48}},
    {.heads = 5, .kv_heads = 1, .dim = 42, .value_dim = 34, .turned = 8, .norm_heads = 1, .neighbours = true, .latent = true,
     .length = {19, 60, 2}},                                                                                            /* as DeepSeek */
    {.heads = 40, .kv_heads = 1, .dim = 24, .value_dim = 16, .turned = 8, .neighbours = true, .latent = true, .length = {1, 35, 7}},
    {.heads = 6, .kv_heads = 2, .dim = 16, .value_dim = 16, .turned = 16, .window = 8, .sinks = true, .length = {90, 8, 9}},    /* as gpt-oss */
    {.heads = 4, .kv_heads = 2, .dim = 8, .value_dim = 8, .turned = 8, .window = 37, .length = {100, 37, 38}},
    {.heads = 4, .kv_heads = 4, .dim = 8, .value_dim = 8, .turned = 8, .window = 1, .sinks = true, .length = {3, 40, 17}},
};
enum { CASES = sizeof cases / sizeof *cases };

static void outputs_agree_with_double_and_all_backends_with_each_other(void **state) {
    (void)state;
    gr_rng rng = seeded(61);
    many all = open_all();
    for (int i = 0; i < CASES; i++) {
        world w = build_world(&rng, &cases[i]);
        float *wanted = run_world(all.c[0], &w, 1000);
        check_world(&w, wanted);
        FOR_EACH_BACKEND(c, all) {
            float *out = run_world(c, &w, 1000);
            assert_same_bits(out, wanted, (int64_t)w.first[SEQUENCES] * w.n_out, gr_compute_cpu_simd(c));
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
        world w = build_world(&rng, &cases[i]);
        const int64_t n = (int64_t)w.first[SEQUENCES] * w.n_out;
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
    world w = build_world(&rng, &cases[1]), one = w;
    float *batch = run_world(c, &w, 1000);
    const int32_t skipped = w.first[1];
    one.length[0] = one.length[2] = 0;
    one.first[1] = 0;
    one.first[2] = one.first[3] = w.length[1];
    one.q += (int64_t)skipped * w.n_q, one.k += (int64_t)skipped * w.n_k, one.v += (int64_t)skipped * w.n_v;
    float *alone = run_world(c, &one, 1000);
    assert_same_bits(alone, batch + (int64_t)skipped * w.n_out, (int64_t)w.length[1] * w.n_out, "sequence alone");
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
    const grace_rope eight = {.dim = 8}, seven = {.dim = 7};
    float pages[16];
    const gr_attention good = {.n_rows = 1, .n_heads = 4, .n_kv_heads = 2, .key_dim = 8, .value_dim = 8, .v_pages = pages, .rope = &eight};
    gr_attention odd = good, uneven = good, norm = good, long_values = good, short_keys = good, none = {0};
    odd.rope = &seven, uneven.n_kv_heads = 3, norm.q_norm = w, long_values.value_dim = 9, long_values.v_pages = NULL, short_keys.key_dim = 6;
    assert_int_equal(c->ops->attention(c, &long_values), GRACE_ERR_ARG);
    assert_int_equal(c->ops->attention(c, &short_keys), GRACE_ERR_ARG);
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
