/* Latent attention by made keys and values (compute/cuda/attention*): a step of decode rows, a prompt that goes on, prompts that begin, and padding. What
 * begins is checked against doubles made of the device's turned queries and the keys and values it was given, what it appends against what the absorbed
 * form appends, and all of it against the same rows in less company, bit by bit. Without a GPU it says "skipped". */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "compute/compute.h"
#include "compute/cuda/attention.h"
#include "compute/rope.h"
#include "cuda/device.h"

/* Sequences in the order of their rows: two decode rows, a prompt that goes on, those that begin. */
enum { SEQUENCES = 8, DECODING = 2, BEGUN = 3, PADDING = 3, PAGES_MAX = 32, ROWS_MAX = 700 };
static const int32_t first_position[SEQUENCES] = {40, 300, 70}, n_rows_of[SEQUENCES] = {1, 1, 30, 128, 1, 200, 33, 65};

typedef struct config { const char *name; int32_t n_heads, rank, rope, own, value_dim; } config;

static int n_failed;

static void claim(bool holds, const char *what, const config *c) {
    printf("%s %s: %s, %d heads of %d + %d and %d, latents of %d\n", holds ? "ok    " : "FAILED", what, c->name, c->n_heads, c->own, c->rope, c->value_dim,
           c->rank);
    n_failed += !holds;
}

/* ---- the step on the host; rows behind n_other belong to prompts that begin ---- */
typedef struct world {
    const config *c;
    grace_rope rope;
    gr_rope_table table;
    int32_t n, n_other, n_pages, row_of[SEQUENCES + 1];
    int32_t sequence[ROWS_MAX], position[ROWS_MAX], decode[ROWS_MAX], page_table[SEQUENCES * PAGES_MAX];
    int32_t latent_width, key_width, k_step;            /* of a row: all heads' queries in the latent, all heads' made keys, the latent and what follows it */
    uint16_t *q, *k, *made_q, *made_k, *made_v, *pages;
    float *k_norm;
    gr_cuda_attention *a;
} world;

static uint16_t *random_rows(uint64_t seed, int64_t n) {
    uint16_t *x = malloc((size_t)n * sizeof *x);
    fill_bf16(seed, x, (size_t)n, 1.0f);
    return x;
}

static int64_t cell_of(const world *w, int32_t sequence, int32_t position) {
    return (int64_t)w->page_table[sequence * PAGES_MAX + position / GR_KV_PAGE] * GR_KV_PAGE + position % GR_KV_PAGE;
}

static void list_rows(world *w) {
    for (int32_t s = 0; s < SEQUENCES; s++) {
        w->row_of[s] = w->n;
        if (s == BEGUN) w->n_other = w->n;
        for (int32_t i = 0; i < n_rows_of[s]; i++, w->n++)
            w->sequence[w->n] = s, w->position[w->n] = first_position[s] + i, w->decode[w->n] = s < DECODING;
    }
    w->row_of[SEQUENCES] = w->n;
    for (int32_t i = 0; i < PADDING; i++, w->n++) w->sequence[w->n] = -1, w->position[w->n] = 0, w->decode[w->n] = 1;
}

/* Pages in a random order; -1 where a sequence has none, never to be followed. */
static void deal_pages(world *w) {
    int32_t order[SEQUENCES * PAGES_MAX];
    gr_rng rng = gr_rng_seed(9);
    for (int32_t s = 0; s < SEQUENCES; s++) w->n_pages += (first_position[s] + n_rows_of[s] + GR_KV_PAGE - 1) / GR_KV_PAGE;
    for (int32_t i = 0; i < w->n_pages; i++) {
        const int32_t j = (int32_t)gr_rng_below(&rng, (uint32_t)i + 1);
        order[i] = order[j], order[j] = i;
    }
    for (int32_t s = 0, at = 0; s < SEQUENCES; s++)
        for (int32_t i = 0; i < PAGES_MAX; i++)
            w->page_table[s * PAGES_MAX + i] = i * GR_KV_PAGE < first_position[s] + n_rows_of[s] ? order[at++] : -1;
}

static world world_open(const config *c) {
    world w = {.c = c, .latent_width = c->n_heads * (c->rank + c->rope), .key_width = c->n_heads * (c->own + c->rope), .k_step = c->rank + c->rope + 8};
    w.rope = (grace_rope){.dim = c->rope, .neighbours = true, .magnitude = 1.1f};
    for (int32_t i = 0; i < c->rope / 2; i++) w.rope.frequency[i] = powf(10000.0f, -2.0f * (float)i / (float)c->rope);
    must(!gr_rope_reserve(&w.table, &w.rope, PAGES_MAX * GR_KV_PAGE), "rope");
    list_rows(&w);
    deal_pages(&w);
    const int64_t n = w.n, cells = (int64_t)w.n_pages * GR_KV_PAGE;
    w.q = random_rows(1, n * w.latent_width), w.k = random_rows(2, n * w.k_step), w.made_q = random_rows(3, n * w.key_width);
    w.made_k = random_rows(4, n * c->n_heads * c->own), w.made_v = random_rows(5, n * c->n_heads * c->value_dim);
    w.pages = random_rows(6, cells * (c->rank + c->rope));
    float *norm = malloc((size_t)c->rank * sizeof *norm);
    for (int32_t i = 0; i < c->rank; i++) norm[i] = 0.7f + 0.01f * (float)(i % 100);
    w.k_norm = to_device(norm, (size_t)c->rank * sizeof *norm);
    free(norm);
    const gr_cuda_attention_sizes sizes = {.n_heads = c->n_heads, .n_kv_heads = 1, .key_dim = c->rank + c->rope, .value_dim = c->rank, .latent = true,
                                           .made_key_dim = c->own + c->rope, .made_value_dim = c->value_dim, .n_rows_max = ROWS_MAX, .kv_tokens = cells,
                                           .n_positions = PAGES_MAX * GR_KV_PAGE, .rope = &w.rope};
    must(!gr_cuda_attention_open(&sizes, &w.a), "attention_open");
    return w;
}

static void world_close(world *w) {
    free(w->q), free(w->k), free(w->made_q), free(w->made_k), free(w->made_v), free(w->pages);
    cudaFree(w->k_norm);
    gr_cuda_attention_close(w->a);
    gr_rope_free(&w->table);
}

/* ---- running rows first to first + n - 1, of which the last n_made by made keys; everything is given anew, and fetched ---- */
typedef struct result { int32_t first, first_made; uint16_t *pages, *k, *out, *made_q, *made_out; } result;

/* A part of an array of rows on the device; NULL: poison. */
static void *rows_there(const uint16_t *all, int64_t first, int64_t n, int64_t width) {
    void *there = to_device(all ? all + first * width : NULL, (size_t)(n * width) * 2);
    must(all || cudaMemset(there, 0x7F, (size_t)(n * width) * 2) == cudaSuccess, "poison");
    return there;
}

static uint16_t *rows_back(void *there, int64_t n, int64_t width) {
    uint16_t *here = malloc((size_t)(n * width) * 2 + 1);
    to_host(here, there, (size_t)(n * width) * 2);
    cudaFree(there);
    return here;
}

static void launch(const world *w, int32_t first, int32_t n, int32_t n_made, gr_cuda_attention_layer *layer) {
    int32_t *sequence = to_device(w->sequence + first, (size_t)n * 4), *position = to_device(w->position + first, (size_t)n * 4);
    int32_t *decode = to_device(w->decode + first, (size_t)n * 4), *table = to_device(w->page_table, sizeof w->page_table);
    gr_cuda_attention_step step = {.n_rows = n, .kv_sequence = sequence, .position = position, .decode = decode, .page_table = table,
                                   .pages_max = PAGES_MAX, .n_made = n_made};
    for (int32_t i = first; i < first + n - n_made; i++) {
        step.has_prompt = step.has_prompt || (w->sequence[i] >= 0 && !w->decode[i]);
        step.has_decode = step.has_decode || (w->sequence[i] >= 0 && w->decode[i]);
    }
    must(!gr_cuda_attention_lists(w->a, &step, NULL), "lists");
    must(!gr_cuda_attention_prepare(w->a, &step, layer, NULL), "prepare");
    must(!gr_cuda_attention_run(w->a, &step, layer, NULL), "run");
    must(cudaDeviceSynchronize() == cudaSuccess, "kernels");
    cudaFree(sequence), cudaFree(position), cudaFree(decode), cudaFree(table);
}

static result run(const world *w, int32_t first, int32_t n, int32_t n_made) {
    const config *c = w->c;
    const int64_t cells = (int64_t)w->n_pages * GR_KV_PAGE, made = first + n - n_made, key = c->rank + c->rope;
    gr_cuda_attention_layer layer = {.k_norm = w->k_norm, .k_norm_size = c->rank, .norm_eps = 1e-5f, .scale = 1.5f / sqrtf((float)(c->own + c->rope))};
    layer.k_pages = rows_there(w->pages, 0, cells, key);
    layer.q = rows_there(w->q, first, n, w->latent_width), layer.q_step = w->latent_width;
    layer.k = rows_there(w->k, first, n, w->k_step), layer.k_step = w->k_step;
    layer.out = rows_there(NULL, 0, n, c->n_heads * c->rank);
    layer.made.q = rows_there(w->made_q, made, n_made, w->key_width), layer.made.out = rows_there(NULL, 0, n_made, c->n_heads * c->value_dim);
    layer.made.k = rows_there(w->made_k, made, n_made, c->n_heads * c->own), layer.made.v = rows_there(w->made_v, made, n_made, c->n_heads * c->value_dim);
    launch(w, first, n, n_made, &layer);
    cudaFree(layer.q), cudaFree((void *)layer.made.k), cudaFree((void *)layer.made.v);
    return (result){.first = first, .first_made = (int32_t)made, .pages = rows_back(layer.k_pages, cells, key), .k = rows_back(layer.k, n, w->k_step),
                    .out = rows_back(layer.out, n, c->n_heads * c->rank), .made_q = rows_back(layer.made.q, n_made, w->key_width),
                    .made_out = rows_back(layer.made.out, n_made, c->n_heads * c->value_dim)};
}

static void result_close(result *r) { free(r->pages), free(r->k), free(r->out), free(r->made_q), free(r->made_out); }

/* ---- the reference ---- */
/* A row's query as it should enter attention, error / bound at worst. */
static double check_query(const world *w, int32_t row, const uint16_t *found) {
    const config *c = w->c;
    const uint16_t *from = w->made_q + (int64_t)row * w->key_width;
    const int32_t dim = c->own + c->rope, half = c->rope / 2;
    double worst = 0;
    for (int32_t at = 0; at < w->key_width; at += 2) {
        const int32_t turning = at % dim - c->own;
        const double a = from_bf16(from[at]), b = from_bf16(from[at + 1]), most = fmax(fabs(a), fabs(b));
        const double cosine = turning < 0 ? 1 : w->table.cosine[(int64_t)w->position[row] * half + turning / 2];
        const double sine = turning < 0 ? 0 : w->table.sine[(int64_t)w->position[row] * half + turning / 2];
        const double x[2] = {a * cosine - b * sine, b * cosine + a * sine};
        for (int i = 0; i < 2; i++) {
            const double error = fabs(from_bf16(found[at + i]) - x[i]) / (0x1p-8 * fabs(x[i]) + 0x1p-18 * most + 1e-30);
            if (!(error <= 1) && worst <= 1) printf("       row %d, element %d: query %g expected, found %g\n", row, at + i, x[i], from_bf16(found[at + i]));
            worst = isnan(error) ? INFINITY : fmax(worst, error);
        }
    }
    return worst;
}

static double score_of(const world *w, const result *r, int32_t row, int32_t key_row, int32_t head) {
    const config *c = w->c;
    const uint16_t *q = r->made_q + (int64_t)(row - r->first_made) * w->key_width + head * (c->own + c->rope);
    const uint16_t *own = w->made_k + ((int64_t)key_row * c->n_heads + head) * c->own;
    const uint16_t *turned = r->pages + cell_of(w, w->sequence[key_row], w->position[key_row]) * (c->rank + c->rope) + c->rank;
    double sum = 0;
    for (int32_t d = 0; d < c->own; d++) sum += (double)from_bf16(q[d]) * from_bf16(own[d]);
    for (int32_t d = 0; d < c->rope; d++) sum += (double)from_bf16(q[c->own + d]) * from_bf16(turned[d]);
    return sum * 1.5 / sqrt(c->own + c->rope);
}

/* One head of one row. Roundings: of every weight (2^-8 of it at most, each its own: four times their root mean square), of the result, and fp32 scores, a
 * part in 2^16 of all. */
static double check_head(const world *w, const result *r, int32_t row, int32_t head) {
    const config *c = w->c;
    const int32_t n = w->position[row] + 1, first = row - w->position[row];
    double p[ROWS_MAX], most = -INFINITY, total = 0, worst = 0;
    for (int32_t i = 0; i < n; i++) most = fmax(most, p[i] = score_of(w, r, row, first + i, head));
    for (int32_t i = 0; i < n; i++) total += p[i] = exp(p[i] - most);
    for (int32_t d = 0; d < c->value_dim; d++) {
        double sum = 0, squares = 0, all = 0;
        for (int32_t i = 0; i < n; i++) {
            const double v = p[i] / total * from_bf16(w->made_v[((int64_t)(first + i) * c->n_heads + head) * c->value_dim + d]);
            sum += v, squares += v * v, all += fabs(v);
        }
        const float found = from_bf16(r->made_out[((int64_t)(row - r->first_made) * c->n_heads + head) * c->value_dim + d]);
        const double error = fabs(found - sum) / (0x1p-8 * (fabs(sum) + 4 * sqrt(squares)) + 0x1p-16 * all + 1e-30);
        if (!(error <= 1) && worst <= 1)
            printf("       sequence %d, position %d, head %d, element %d: expected %g, found %g\n", w->sequence[row], w->position[row], head, d, sum, found);
        worst = isnan(error) ? INFINITY : fmax(worst, error);
    }
    return worst;
}

/* ---- claims ---- */
static void check_numbers(const world *w, const result *r) {
    const config *c = w->c;
    double query = 0, worst = 0;
    bool zero = true, kept = true;
    for (int32_t row = w->n_other; row < w->row_of[SEQUENCES]; row++) {
        query = fmax(query, check_query(w, row, r->made_q + (int64_t)(row - w->n_other) * w->key_width));
        const uint16_t *cell = r->pages + cell_of(w, w->sequence[row], w->position[row]) * (c->rank + c->rope);
        kept = kept && !memcmp(cell, r->k + (int64_t)row * w->k_step, (size_t)(c->rank + c->rope) * 2);
        for (int32_t h = 0; h < c->n_heads && worst <= 1; h++) worst = fmax(worst, check_head(w, r, row, h));
    }
    const int32_t width = c->n_heads * c->value_dim;
    for (int64_t i = (int64_t)(w->row_of[SEQUENCES] - w->n_other) * width; i < (int64_t)(w->n - w->n_other) * width; i++) zero = zero && r->made_out[i] == 0;
    claim(query <= 1, "queries are turned", c);
    claim(worst <= 1, "results are within rounding", c);
    printf("       worst error %.3f and %.3f of the bounds\n", query, worst);
    claim(kept, "latents stay in place as they are appended", c);
    claim(zero, "padding gives zeros", c);
}

static bool same(const uint16_t *a, const uint16_t *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (a[i] != b[i]) {
            printf("       element %lld: %g and %g\n", (long long)i, from_bf16(a[i]), from_bf16(b[i]));
            return false;
        }
    return true;
}

/* Of rows first to first + n - 1 and as many made ones, the same as in the whole step. */
static bool same_in_less_company(const world *w, const result *whole, int32_t first, int32_t n, int32_t n_made) {
    const config *c = w->c;
    result part = run(w, first, n, n_made);
    const int64_t made_width = c->n_heads * c->value_dim, width = c->n_heads * c->rank;
    const bool good = same(part.out, whole->out + first * width, (n - n_made) * width) &&
                      same(part.made_out, whole->made_out + (part.first_made - whole->first_made) * made_width, n_made * made_width);
    result_close(&part);
    return good;
}

static void check(const config *c) {
    world w = world_open(c);
    const int32_t n_made = w.n - w.n_other, n_real = w.row_of[SEQUENCES];
    bool alone = true;
    must(gr_cuda_attention_makes(w.a), "a kernel for these heads");
    result whole = run(&w, 0, w.n, n_made), absorbed = run(&w, 0, w.n, 0);
    check_numbers(&w, &whole);
    claim(same(whole.pages, absorbed.pages, (int64_t)w.n_pages * GR_KV_PAGE * (c->rank + c->rope)), "pages are as the absorbed form leaves them", c);
    claim(same_in_less_company(&w, &whole, 0, w.n, n_made), "the same bits again", c);
    claim(same_in_less_company(&w, &whole, 0, w.n_other, 0), "rows that go on have the bits that they have without those that begin", c);
    claim(same_in_less_company(&w, &whole, w.n_other, n_real - w.n_other, n_real - w.n_other), "rows that begin have the bits that they have alone", c);
    for (int32_t s = BEGUN; s < SEQUENCES; s++) alone = same_in_less_company(&w, &whole, w.row_of[s], n_rows_of[s], n_rows_of[s]) && alone;
    claim(alone, "so has every sequence of them", c);
    result_close(&whole), result_close(&absorbed), world_close(&w);
}

/* "small": only what a sanitizer gets through in seconds. */
int main(int argc, char **argv) {
    static const config all[] = {
        {"tiny-deepseek-v2", 8, 64, 16, 32, 32}, {"one head", 1, 64, 16, 32, 32}, {"deepseek-v2-lite", 16, 512, 64, 128, 128},
    };
    const bool few = argc > 1 && strcmp(argv[1], "small") == 0;
    if (no_gpu("attention by made keys")) return SKIPPED;
    for (size_t i = 0; i < sizeof all / sizeof *all && (i < 1 || !few); i++) check(&all[i]);
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
