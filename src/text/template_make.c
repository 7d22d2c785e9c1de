/* Making values, within the bounds of a rendering; also from JSON. */
#include "text/template_value.h"

#include <stdarg.h>
#include <stdio.h>

gr_template_limits gr_template_limits_default(void) { return (gr_template_limits){10 * 1000 * 1000, (size_t)256 << 20, (size_t)64 << 20}; }

/* ---- bounds ---- */

grace_status gr_tv_spend(gr_tv_heap *heap, size_t n) {
    heap->n_steps += (int64_t)n;
    if (heap->n_steps <= heap->limits.n_steps) return GRACE_OK;
    return gr_fail(GRACE_ERR_LIMIT, "the template takes more than %lld steps", (long long)heap->limits.n_steps);
}

grace_status gr_tv_alloc(gr_tv_heap *heap, size_t n, size_t size, void *out) {
    enum { SMALLEST = 64 };         /* what the arena spends on anything */
    if (size && n > (SIZE_MAX / 4) / size) return gr_fail(GRACE_ERR_LIMIT, "the template asks for %zu x %zu bytes", n, size);
    heap->n_bytes += n * size > SMALLEST ? n * size : SMALLEST;
    if (heap->n_bytes > heap->limits.n_bytes) return gr_fail(GRACE_ERR_LIMIT, "the template makes more than %zu bytes of values", heap->limits.n_bytes);
    void *memory = gr_arena_alloc(heap->arena, n, size);
    if (!memory) return gr_fail(GRACE_ERR_MEMORY, "no memory for %zu x %zu bytes of a template", n, size);
    *(void **)out = memory;
    return GRACE_OK;
}

/* ---- making ---- */

grace_status gr_tv_undefined(gr_tv_heap *heap, gr_tv *out, const char *format, ...) {
    grace_status st = GRACE_OK;
    char text[160], *copy;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    GR_TRY(gr_tv_alloc(heap, strlen(text) + 1, 1, &copy));
    memcpy(copy, text, strlen(text));
    *out = (gr_tv){.kind = GR_TV_UNDEFINED, .text = copy, .n = strlen(text)};
done:
    return st;
}

grace_status gr_tv_new_list(gr_tv_heap *heap, gr_tv_kind kind, size_t n, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv_list *list;
    GR_TRY(gr_tv_spend(heap, n / 8));
    GR_TRY(gr_tv_alloc(heap, 1, sizeof *list, &list));
    GR_TRY(gr_tv_alloc(heap, n, sizeof *list->items, &list->items));
    list->n = n;
    list->depth = 1;
    *out = (gr_tv){.kind = kind, .list = list};
done:
    return st;
}

grace_status gr_tv_new_dict(gr_tv_heap *heap, gr_tv_kind kind, size_t capacity, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv_dict *dict;
    GR_TRY(gr_tv_alloc(heap, 1, sizeof *dict, &dict));
    GR_TRY(gr_tv_alloc(heap, capacity, sizeof *dict->keys, &dict->keys));
    GR_TRY(gr_tv_alloc(heap, capacity, sizeof *dict->values, &dict->values));
    dict->capacity = capacity;
    dict->depth = 1;
    *out = (gr_tv){.kind = kind, .dict = dict};
done:
    return st;
}

static grace_status grow(gr_tv_heap *heap, gr_tv_dict *dict) {
    grace_status st = GRACE_OK;
    size_t capacity = 2 * dict->capacity + 4;
    gr_tv *keys, *values;
    GR_TRY(gr_tv_alloc(heap, capacity, sizeof *keys, &keys));
    GR_TRY(gr_tv_alloc(heap, capacity, sizeof *values, &values));
    if (dict->n) memcpy(keys, dict->keys, dict->n * sizeof *keys), memcpy(values, dict->values, dict->n * sizeof *values);
    dict->keys = keys;
    dict->values = values;
    dict->capacity = capacity;
done:
    return st;
}

grace_status gr_tv_set(gr_tv_heap *heap, gr_tv_dict *dict, gr_tv key, gr_tv value) {
    grace_status st = GRACE_OK;
    const gr_tv *old;
    GR_CHECK(key.kind == GR_TV_NONE || key.kind == GR_TV_STRING || gr_tv_is_number(key), GRACE_ERR_FORMAT, "a %s cannot be a key", gr_tv_kind_name(key));
    GR_TRY(gr_tv_get(heap, dict, key, &old));
    if (!old && dict->n == dict->capacity) GR_TRY(grow(heap, dict));
    size_t at = old ? (size_t)(old - dict->values) : dict->n++;
    if (!old) dict->keys[at] = key;
    dict->values[at] = value;
done:
    return st;
}

static int depth_of(gr_tv value) { return gr_tv_is_list(value) ? value.list->depth : value.kind == GR_TV_DICT ? value.dict->depth : 0; }

grace_status gr_tv_close(gr_tv *container) {
    const gr_tv *values = gr_tv_is_list(*container) ? container->list->items : container->dict->values;
    size_t n = gr_tv_is_list(*container) ? container->list->n : container->dict->n;
    int depth = 0;
    for (size_t i = 0; i < n; i++) depth = depth_of(values[i]) > depth ? depth_of(values[i]) : depth;
    if (depth >= GR_TV_DEPTH_MAX) return gr_fail(GRACE_ERR_LIMIT, "a value is nested deeper than %d levels", GR_TV_DEPTH_MAX);
    if (gr_tv_is_list(*container)) container->list->depth = depth + 1;
    else container->dict->depth = depth + 1;
    return GRACE_OK;
}

static grace_status from_json_at(gr_tv_heap *heap, const gr_json *json, int depth, gr_tv *out);

static grace_status list_from_json(gr_tv_heap *heap, const gr_json *json, int depth, gr_tv *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tv_new_list(heap, GR_TV_LIST, gr_json_length(json), out));
    for (size_t i = 0; i < out->list->n; i++) GR_TRY(from_json_at(heap, gr_json_at(json, i), depth + 1, &out->list->items[i]));
    GR_TRY(gr_tv_close(out));
done:
    return st;
}

/* The parser refused duplicate keys, so members are appended without looking for them. */
static grace_status dict_from_json(gr_tv_heap *heap, const gr_json *json, int depth, gr_tv *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tv_new_dict(heap, GR_TV_DICT, gr_json_length(json), out));
    for (const gr_json_member *m = gr_json_first(json); m; m = gr_json_next(json, m)) {
        out->dict->keys[out->dict->n] = gr_tv_word(gr_json_key(m));
        GR_TRY(from_json_at(heap, gr_json_value(m), depth + 1, &out->dict->values[out->dict->n]));
        out->dict->n++;
    }
    GR_TRY(gr_tv_close(out));
done:
    return st;
}

/* Strings stay in the JSON tree, which outlives the rendering. */
static grace_status from_json_at(gr_tv_heap *heap, const gr_json *json, int depth, gr_tv *out) {
    bool truth = false;
    int64_t integer = 0;
    double real = 0;
    const char *text = NULL;
    size_t n = 0;
    if (depth > GR_TV_DEPTH_MAX) return gr_fail(GRACE_ERR_LIMIT, "a value is nested deeper than %d levels", GR_TV_DEPTH_MAX);
    switch (gr_json_kind_of(json)) {
    case GR_JSON_NULL: *out = gr_tv_none(); break;
    case GR_JSON_BOOL: gr_json_is_bool(json, &truth), *out = gr_tv_bool(truth); break;
    case GR_JSON_INT: gr_json_is_int(json, &integer), *out = gr_tv_int(integer); break;
    case GR_JSON_REAL: gr_json_is_real(json, &real), *out = gr_tv_real(real); break;
    case GR_JSON_STRING: gr_json_is_string(json, &text, &n), *out = gr_tv_text(text, n); break;
    case GR_JSON_ARRAY: return list_from_json(heap, json, depth, out);
    case GR_JSON_OBJECT: return dict_from_json(heap, json, depth, out);
    }
    return GRACE_OK;
}

grace_status gr_tv_from_json(gr_tv_heap *heap, const gr_json *json, gr_tv *out) { return from_json_at(heap, json, 0, out); }
