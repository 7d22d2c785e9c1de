#include "base/json.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

/* ---- reading ---- */

static size_t skip_string(const char *text, size_t n, size_t at) {
    for (at++; at < n && text[at] != '"'; at++)
        if (text[at] == '\\') at++;
    return at < n ? at + 1 : n;
}

static size_t skip_number(const char *text, size_t n, size_t at) {
    while (at < n && strchr("0123456789+-.eE", text[at]) && text[at]) at++;
    return at;
}

static bool is_too_big(const char *number, size_t n) {
    static const char max[] = "9223372036854775807";
    size_t n_max = sizeof max - 1;
    if (n > 0 && *number == '-') number++, n--;
    for (size_t i = 0; i < n; i++)
        if (number[i] < '0' || number[i] > '9') return false;
    return n > n_max || (n == n_max && memcmp(number, max, n_max) > 0);
}

/* Tokenizer configurations write 10^30 for "no limit". An integer beyond 64 bits is read as a real: "1000" becomes "1000e0". */
static json_t *load_big_integers(const char *text, size_t n, json_error_t *error) {
    gr_buf copy = {0};
    bool ok = true;
    for (size_t at = 0, end; ok && at < n; at = end) {
        bool string = text[at] == '"', number = text[at] == '-' || (text[at] >= '0' && text[at] <= '9');
        end = string ? skip_string(text, n, at) : number ? skip_number(text, n, at) : at + 1;
        ok = !gr_buf_append(&copy, text + at, end - at);
        if (ok && number && is_too_big(text + at, end - at)) ok = !gr_buf_append(&copy, "e0", 2);
    }
    json_t *value = ok ? json_loadb(copy.data, copy.n, JSON_REJECT_DUPLICATES, error) : NULL;
    gr_buf_free(&copy);
    return value;
}

grace_status gr_json_parse(const char *where, const char *text, size_t n, gr_json **out) {
    json_error_t error;
    json_t *value = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    if (!value && json_error_code(&error) == json_error_numeric_overflow) value = load_big_integers(text, n, &error);
    if (!value) return gr_fail(GRACE_ERR_FORMAT, "%s: no valid JSON: line %d, column %d: %s", where, error.line, error.column, error.text);
    *out = value;
    return GRACE_OK;
}

grace_status gr_json_load(const char *path, gr_json **out) {
    gr_file file;
    grace_status st = gr_file_map(path, &file);
    if (st) return st;
    st = gr_json_parse(path, file.data, file.n, out);
    gr_file_unmap(&file);
    return st;
}

void gr_json_free(gr_json *value) { json_decref(value); }

gr_json_kind gr_json_kind_of(const gr_json *value) {
    if (!value) return GR_JSON_NULL;
    switch (json_typeof(value)) {
    case JSON_TRUE:
    case JSON_FALSE: return GR_JSON_BOOL;
    case JSON_INTEGER: return GR_JSON_INT;
    case JSON_REAL: return GR_JSON_REAL;
    case JSON_STRING: return GR_JSON_STRING;
    case JSON_ARRAY: return GR_JSON_ARRAY;
    case JSON_OBJECT: return GR_JSON_OBJECT;
    default: return GR_JSON_NULL;
    }
}

const char *gr_json_kind_name(const gr_json *value) {
    static const char *const names[] = {"null", "a boolean", "an integer", "a number", "a string", "an array", "an object"};
    return value ? names[gr_json_kind_of(value)] : "nothing";
}

static grace_status wrong_kind(const char *where, const char *key, const char *expected, const gr_json *found) {
    return gr_fail(GRACE_ERR_FORMAT, "%s: '%s': expected %s, found %s", where, key, expected, gr_json_kind_name(found));
}

static grace_status check_range(const char *where, const char *key, int64_t value, int64_t min, int64_t max, int64_t *out) {
    if (value < min || value > max)
        return gr_fail(GRACE_ERR_FORMAT, "%s: '%s': expected %" PRId64 " to %" PRId64 ", found %" PRId64, where, key, min, max, value);
    *out = value;
    return GRACE_OK;
}

const gr_json *gr_json_get(const gr_json *object, const char *key) { return json_object_get(object, key); }

static bool absent(const gr_json *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return !value || json_is_null(value);
}

grace_status gr_json_int(const gr_json *object, const char *where, const char *key, int64_t min, int64_t max, int64_t *out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) return wrong_kind(where, key, "an integer", value);
    return check_range(where, key, json_integer_value(value), min, max, out);
}

grace_status gr_json_int_or(const gr_json *object, const char *where, const char *key, int64_t min, int64_t max, int64_t fallback, int64_t *out) {
    if (!absent(object, key)) return gr_json_int(object, where, key, min, max, out);
    *out = fallback;
    return GRACE_OK;
}

grace_status gr_json_real(const gr_json *object, const char *where, const char *key, double *out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) return wrong_kind(where, key, "a number", value);
    *out = json_number_value(value);
    return GRACE_OK;
}

grace_status gr_json_real_or(const gr_json *object, const char *where, const char *key, double fallback, double *out) {
    if (!absent(object, key)) return gr_json_real(object, where, key, out);
    *out = fallback;
    return GRACE_OK;
}

grace_status gr_json_bool_or(const gr_json *object, const char *where, const char *key, bool fallback, bool *out) {
    const json_t *value = json_object_get(object, key);
    if (!absent(object, key) && !json_is_boolean(value)) return wrong_kind(where, key, "a boolean", value);
    *out = absent(object, key) ? fallback : json_boolean_value(value);
    return GRACE_OK;
}

grace_status gr_json_string(const gr_json *object, const char *where, const char *key, const char **out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value)) return wrong_kind(where, key, "a string", value);
    *out = json_string_value(value);
    return GRACE_OK;
}

grace_status gr_json_string_or(const gr_json *object, const char *where, const char *key, const char *fallback, const char **out) {
    if (!absent(object, key)) return gr_json_string(object, where, key, out);
    *out = fallback;
    return GRACE_OK;
}

grace_status gr_json_array(const gr_json *object, const char *where, const char *key, const gr_json **out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_array(value)) return wrong_kind(where, key, "an array", value);
    *out = value;
    return GRACE_OK;
}

grace_status gr_json_object_in(const gr_json *object, const char *where, const char *key, const gr_json **out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_object(value)) return wrong_kind(where, key, "an object", value);
    *out = value;
    return GRACE_OK;
}

size_t gr_json_length(const gr_json *array) { return json_is_object(array) ? json_object_size(array) : json_array_size(array); }

const gr_json *gr_json_at(const gr_json *array, size_t index) { return json_array_get(array, index); }

grace_status gr_json_int_at(const gr_json *array, const char *where, size_t index, int64_t min, int64_t max, int64_t *out) {
    const json_t *value = json_array_get(array, index);
    char key[32];
    snprintf(key, sizeof key, "[%zu]", index);
    if (!json_is_integer(value)) return wrong_kind(where, key, "an integer", value);
    return check_range(where, key, json_integer_value(value), min, max, out);
}

grace_status gr_json_real_at(const gr_json *array, const char *where, size_t index, double *out) {
    const json_t *value = json_array_get(array, index);
    char key[32];
    snprintf(key, sizeof key, "[%zu]", index);
    if (!json_is_number(value)) return wrong_kind(where, key, "a number", value);
    *out = json_number_value(value);
    return GRACE_OK;
}

bool gr_json_is_int(const gr_json *value, int64_t *out) {
    if (!json_is_integer(value)) return false;
    *out = json_integer_value(value);
    return true;
}

bool gr_json_is_real(const gr_json *value, double *out) {
    if (!json_is_number(value)) return false;
    *out = json_number_value(value);
    return true;
}

bool gr_json_is_string(const gr_json *value, const char **out, size_t *n) {
    if (!json_is_string(value)) return false;
    *out = json_string_value(value);
    if (n) *n = json_string_length(value);
    return true;
}

bool gr_json_is_bool(const gr_json *value, bool *out) {
    if (!json_is_boolean(value)) return false;
    *out = json_boolean_value(value);
    return true;
}

const gr_json_member *gr_json_first(const gr_json *object) { return json_object_iter((json_t *)object); }

const gr_json_member *gr_json_next(const gr_json *object, const gr_json_member *member) {
    return json_object_iter_next((json_t *)object, (void *)member);
}

const char *gr_json_key(const gr_json_member *member) { return json_object_iter_key((void *)member); }

const gr_json *gr_json_value(const gr_json_member *member) { return json_object_iter_value((void *)member); }

/* ---- building: jansson's set and append functions accept NULL and fail; the next write of this thread tells ---- */

static _Thread_local bool incomplete;

gr_json *gr_json_new_object(void) { return json_object(); }
gr_json *gr_json_new_array(void) { return json_array(); }
gr_json *gr_json_share(const gr_json *value) { return json_incref((json_t *)value); }

void gr_json_set(gr_json *object, const char *key, gr_json *value) {
    if (json_object_set_new(object, key, value)) incomplete = true;
}

void gr_json_set_int(gr_json *object, const char *key, int64_t value) { gr_json_set(object, key, json_integer(value)); }
void gr_json_set_bool(gr_json *object, const char *key, bool value) { gr_json_set(object, key, json_boolean(value)); }
void gr_json_set_null(gr_json *object, const char *key) { gr_json_set(object, key, json_null()); }

static json_t *real_value(double value) { return isfinite(value) ? json_real(value) : json_null(); }

/* A file's name need not be UTF-8, and is not worth losing what is written with it. */
static json_t *ascii_of(const char *value) {
    char *copy = strdup(value);
    for (char *c = copy; c && *c; c++)
        if ((unsigned char)*c >= 0x80) *c = '?';
    json_t *text = copy ? json_string(copy) : NULL;
    free(copy);
    return text;
}

static json_t *string_value(const char *value) {
    if (!value) return json_null();
    json_t *text = json_string(value);
    return text ? text : ascii_of(value);
}

void gr_json_set_real(gr_json *object, const char *key, double value) { gr_json_set(object, key, real_value(value)); }
void gr_json_set_string(gr_json *object, const char *key, const char *value) { gr_json_set(object, key, string_value(value)); }

void gr_json_set_hex(gr_json *object, const char *key, uint64_t value) {
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, value);
    gr_json_set_string(object, key, text);
}

void gr_json_set_ints(gr_json *object, const char *key, const int32_t *values, size_t n) {
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++) gr_json_push_int(array, values[i]);
    gr_json_set(object, key, array);
}

void gr_json_set_reals(gr_json *object, const char *key, const double *values, size_t n) {
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++) gr_json_push_real(array, values[i]);
    gr_json_set(object, key, array);
}

void gr_json_push(gr_json *array, gr_json *value) {
    if (json_array_append_new(array, value)) incomplete = true;
}

void gr_json_push_int(gr_json *array, int64_t value) { gr_json_push(array, json_integer(value)); }
void gr_json_push_real(gr_json *array, double value) { gr_json_push(array, real_value(value)); }
void gr_json_push_string(gr_json *array, const char *value) { gr_json_push(array, string_value(value)); }

/* 17 digits so that a double read back is the double written. */
grace_status gr_json_write(const gr_json *value, int indent, char **text, size_t *n) {
    char *dump = incomplete ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17) | (indent > 0 ? JSON_INDENT((size_t)indent) : 0));
    incomplete = false;
    if (!dump) return gr_fail(GRACE_ERR_MEMORY, "no memory to write JSON");
    *text = dump;
    if (n) *n = strlen(dump);
    return GRACE_OK;
}

grace_status gr_json_save(const gr_json *value, const char *path) {
    gr_buf file = {0};
    char *text = NULL;
    size_t n = 0;
    grace_status st = gr_json_write(value, 1, &text, &n);
    if (!st) st = gr_buf_append(&file, text, n);
    if (!st) st = gr_buf_append(&file, "\n", 1);
    if (!st) st = gr_file_replace(path, file.data, file.n);
    gr_buf_free(&file);
    free(text);
    return st;
}
