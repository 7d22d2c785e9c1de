#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "grace/sim.h"

/* Published dimensions. heads x dim multiply queries with keys (qk) and weights with values (v); kv: values a token and layer keeps.
 * attention, shared, first: parameters of one layer's attention, of its shared experts, of one of the dense layers at the start. */
typedef struct dims {
    const char *name;
    int32_t hidden, n_layers, n_dense, n_experts, top_k, width, vocab, heads, qk, v, kv;
    double weight_bytes, attention, shared, first;
} dims;

#define GQA(h, heads, kv_heads, dim) ((double)(h) * (dim) * (2.0 * (heads) + 2.0 * (kv_heads)))
#define MLA(h, heads, rank, rope, nope, v) \
    ((double)(h) * (heads) * ((nope) + (rope)) + (double)(h) * ((rank) + (rope)) + (double)(rank) * (heads) * ((nope) + (v)) + (double)(heads) * (v) * (h))
#define SWIGLU(h, width) (3.0 * (h) * (width))
static const dims models[] = {
    {"olmoe-1b-7b", 2048, 16, 0, 64, 8, 1024, 50304, 16, 128, 128, 4096, 2, GQA(2048, 16, 16, 128), 0, 0},
    {"deepseek-v2-lite", 2048, 27, 1, 64, 6, 1408, 102400, 16, 192, 128, 576, 2, MLA(2048, 16, 512, 64, 128, 128), SWIGLU(2048, 2816), SWIGLU(2048, 10944)},
    {"qwen3-30b-a3b", 2048, 48, 0, 128, 8, 768, 151936, 32, 128, 128, 1024, 2, GQA(2048, 32, 4, 128), 0, 0},
    {"gpt-oss-20b", 2880, 24, 0, 32, 4, 2880, 201088, 64, 64, 64, 1024, 2, GQA(2880, 64, 8, 64), 0, 0},
    {"deepseek-v3", 7168, 61, 3, 256, 8, 2048, 129280, 128, 192, 128, 576, 1,
     7168.0 * 1536 + 1536.0 * 128 * 192 + 7168.0 * 576 + 512.0 * 128 * 256 + 128.0 * 128 * 7168, SWIGLU(7168, 2048), SWIGLU(7168, 18432)},
};
enum { N_MODELS = sizeof models / sizeof *models };

const char *grace_shape_preset(int32_t index) { return index >= 0 && index < N_MODELS ? models[index].name : NULL; }

static grace_shape shape_of_dims(const dims *d) {
    int32_t n_moe = d->n_layers - d->n_dense;
    grace_shape s = {.hidden = d->hidden, .expert_width = d->width, .n_layers = d->n_layers, .n_moe_layers = n_moe, .n_experts = d->n_experts,
                     .top_k = d->top_k, .weight_bytes = d->weight_bytes, .head_params = (double)d->vocab * d->hidden,
                     .attention_values = (double)d->n_layers * d->heads * (d->qk + d->v), .kv_values = (double)d->n_layers * d->kv};
    s.dense_params = d->n_layers * d->attention + d->n_dense * d->first + n_moe * (d->shared + (double)d->hidden * d->n_experts);
    snprintf(s.name, sizeof s.name, "%s", d->name);
    return s;
}

grace_shape grace_shape_assumed(int32_t n_layers, int32_t n_experts, int32_t top_k) {
    for (int32_t i = 0; i < N_MODELS; i++)
        if (models[i].n_layers - models[i].n_dense == n_layers && models[i].n_experts == n_experts && models[i].top_k == top_k)
            return shape_of_dims(&models[i]);
    grace_shape s = shape_of_dims(&models[0]);
    double per_layer = (double)n_layers / s.n_layers;
    s.dense_params *= per_layer, s.attention_values *= per_layer, s.kv_values *= per_layer;
    s.n_layers = s.n_moe_layers = n_layers, s.n_experts = n_experts, s.top_k = top_k;
    snprintf(s.name, sizeof s.name, "assumed: widths of %s", models[0].name);
    return s;
}

/* ---- "hidden=2048,width=1024,..." ---- */

typedef struct field { const char *name; int32_t *count; double *value; } field;

static grace_status set_field(const field *fields, int n_fields, const char *at, size_t n_name, const char *text, const char **end) {
    grace_status st = GRACE_OK;
    char *stop;
    double value = strtod(text, &stop);
    GR_CHECK(stop > text && (*stop == ',' || !*stop) && value >= 0 && value <= 1e15, GRACE_ERR_ARG, "shape: '%.*s': expected a number from 0 to 1e15",
             (int)n_name, at);
    for (int i = 0; i < n_fields; i++) {
        if (strlen(fields[i].name) != n_name || strncmp(fields[i].name, at, n_name) != 0) continue;
        if (fields[i].value) *fields[i].value = value;
        GR_CHECK(!fields[i].count || (value >= 1 && value <= 1 << 24 && value == (double)(int32_t)value), GRACE_ERR_ARG,
                 "shape: '%s': expected an integer from 1 to %d, found %g", fields[i].name, 1 << 24, value);
        if (fields[i].count) *fields[i].count = (int32_t)value;
        *end = *stop ? stop + 1 : stop;
        return GRACE_OK;
    }
    st = gr_fail(GRACE_ERR_ARG, "shape: unknown '%.*s'; expected hidden, width, layers, moe-layers, experts, top-k, weight-bytes, dense-params, head-params, "
                 "attention-values or kv-values", (int)n_name, at);
done:
    return st;
}

static grace_status parse_fields(const char *text, grace_shape *s) {
    grace_status st = GRACE_OK;
    const field fields[] = {{"hidden", &s->hidden, NULL}, {"width", &s->expert_width, NULL}, {"layers", &s->n_layers, NULL},
                            {"moe-layers", &s->n_moe_layers, NULL}, {"experts", &s->n_experts, NULL}, {"top-k", &s->top_k, NULL},
                            {"weight-bytes", NULL, &s->weight_bytes}, {"dense-params", NULL, &s->dense_params}, {"head-params", NULL, &s->head_params},
                            {"attention-values", NULL, &s->attention_values}, {"kv-values", NULL, &s->kv_values}};
    for (const char *at = text; *at;) {
        const char *equals = strchr(at, '=');
        GR_CHECK(equals, GRACE_ERR_ARG, "shape '%.60s': expected NAME=NUMBER", at);
        GR_TRY(set_field(fields, sizeof fields / sizeof *fields, at, (size_t)(equals - at), equals + 1, &at));
    }
    GR_CHECK(s->hidden && s->expert_width && s->n_layers && s->n_experts && s->top_k, GRACE_ERR_ARG,
             "shape '%.60s': expected hidden and width, and layers, experts and top-k where there is no trace", text);
    if (!s->n_moe_layers) s->n_moe_layers = s->n_layers;
    GR_CHECK(s->top_k <= s->n_experts && s->n_moe_layers <= s->n_layers, GRACE_ERR_ARG, "shape: top-%d of %d experts, %d of %d layers with experts cannot be",
             s->top_k, s->n_experts, s->n_moe_layers, s->n_layers);
done:
    return st;
}

grace_status grace_shape_parse(const char *text, const grace_trace_info *like, grace_shape *out) {
    grace_status st = GRACE_OK;
    grace_shape s = {.name = "given", .weight_bytes = 2};
    for (int32_t i = 0; i < N_MODELS; i++)
        if (strcmp(text, models[i].name) == 0) {
            *out = shape_of_dims(&models[i]);
            return GRACE_OK;
        }
    GR_CHECK(strchr(text, '='), GRACE_ERR_ARG, "shape '%.60s': expected olmoe-1b-7b, deepseek-v2-lite, qwen3-30b-a3b, gpt-oss-20b, deepseek-v3 or "
             "\"hidden=N,width=N,...\"", text);
    if (like) s.n_layers = s.n_moe_layers = like->n_layers, s.n_experts = like->n_experts, s.top_k = like->top_k;
    GR_TRY(parse_fields(text, &s));
    *out = s;
done:
    return st;
}

grace_status grace_shape_check(const grace_shape *s, int32_t n_layers, int32_t n_experts, int32_t top_k) {
    grace_status st = GRACE_OK;
    GR_CHECK(s->n_moe_layers == n_layers && s->n_experts == n_experts && s->top_k == top_k, GRACE_ERR_MISMATCH,
             "the model %s has %d layers of %d experts, top-%d; the routing has %d of %d, top-%d", s->name, s->n_moe_layers, s->n_experts, s->top_k,
             n_layers, n_experts, top_k);
done:
    return st;
}
