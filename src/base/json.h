/* JSON: parse, look things up with clear errors, build, write. jansson behind it; nobody else includes jansson.h. */
#ifndef GR_BASE_JSON_H
#define GR_BASE_JSON_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct json_t gr_json;      /* a value; what gr_json_parse/load/object/array return is owned, the rest is borrowed from its parent */

/* ---- reading. where names the text in messages ("config.json"). Duplicate keys are refused, nesting is bounded, integers beyond 64 bits
 * are read as reals. ---- */
grace_status gr_json_parse(const char *where, const char *text, size_t n, gr_json **out);
grace_status gr_json_load(const char *path, gr_json **out);
void gr_json_free(gr_json *value);                              /* accepts NULL */

typedef enum gr_json_kind { GR_JSON_NULL, GR_JSON_BOOL, GR_JSON_INT, GR_JSON_REAL, GR_JSON_STRING, GR_JSON_ARRAY, GR_JSON_OBJECT } gr_json_kind;
gr_json_kind gr_json_kind_of(const gr_json *value);
const char *gr_json_kind_name(const gr_json *value);

/* Members. The plain ones fail with FORMAT when the key is missing or of another kind; the _or ones take the fallback when the key is
 * missing or null, and still fail on another kind. Messages read "WHERE: 'key': expected an integer, found a string". */
grace_status gr_json_int(const gr_json *object, const char *where, const char *key, int64_t min, int64_t max, int64_t *out);
grace_status gr_json_int_or(const gr_json *object, const char *where, const char *key, int64_t min, int64_t max, int64_t fallback, int64_t *out);
grace_status gr_json_real(const gr_json *object, const char *where, const char *key, double *out);      /* integers count as reals */
grace_status gr_json_real_or(const gr_json *object, const char *where, const char *key, double fallback, double *out);
grace_status gr_json_bool_or(const gr_json *object, const char *where, const char *key, bool fallback, bool *out);
grace_status gr_json_string(const gr_json *object, const char *where, const char *key, const char **out);
grace_status gr_json_string_or(const gr_json *object, const char *where, const char *key, const char *fallback, const char **out);
grace_status gr_json_array(const gr_json *object, const char *where, const char *key, const gr_json **out);
grace_status gr_json_object_in(const gr_json *object, const char *where, const char *key, const gr_json **out);
const gr_json *gr_json_get(const gr_json *object, const char *key);     /* NULL when missing or not an object */

/* Arrays: wrong kinds give 0 / NULL / fail. */
size_t gr_json_length(const gr_json *array);                            /* 0 for anything but arrays and objects */
const gr_json *gr_json_at(const gr_json *array, size_t index);          /* NULL when outside */
grace_status gr_json_int_at(const gr_json *array, const char *where, size_t index, int64_t min, int64_t max, int64_t *out);
grace_status gr_json_real_at(const gr_json *array, const char *where, size_t index, double *out);
bool gr_json_is_int(const gr_json *value, int64_t *out);
bool gr_json_is_real(const gr_json *value, double *out);                /* integers too */
bool gr_json_is_string(const gr_json *value, const char **out, size_t *n);  /* n may be NULL; may contain zero bytes only if \u0000 was allowed: it is not */
bool gr_json_is_bool(const gr_json *value, bool *out);

/* Members in file order: for (const gr_json_member *m = gr_json_first(o); m; m = gr_json_next(o, m)) */
typedef struct gr_json_member gr_json_member;
const gr_json_member *gr_json_first(const gr_json *object);
const gr_json_member *gr_json_next(const gr_json *object, const gr_json_member *member);
const char *gr_json_key(const gr_json_member *member);
const gr_json *gr_json_value(const gr_json_member *member);

/* ---- building: a failed allocation anywhere makes gr_json_write fail, so calls need no checks ---- */
gr_json *gr_json_new_object(void);
gr_json *gr_json_share(const gr_json *value);                           /* another owner of the same value, for gr_json_set() */
gr_json *gr_json_new_array(void);
void gr_json_set(gr_json *object, const char *key, gr_json *value);     /* takes ownership of value */
void gr_json_set_int(gr_json *object, const char *key, int64_t value);
void gr_json_set_real(gr_json *object, const char *key, double value);  /* NaN and infinity become null */
void gr_json_set_bool(gr_json *object, const char *key, bool value);
void gr_json_set_string(gr_json *object, const char *key, const char *value);   /* NULL becomes null; of invalid UTF-8 the ASCII stays, with '?' */
void gr_json_set_null(gr_json *object, const char *key);
void gr_json_set_hex(gr_json *object, const char *key, uint64_t value); /* "0123456789abcdef" */
void gr_json_set_ints(gr_json *object, const char *key, const int32_t *values, size_t n);
void gr_json_set_reals(gr_json *object, const char *key, const double *values, size_t n);
void gr_json_push(gr_json *array, gr_json *value);                      /* takes ownership of value */
void gr_json_push_int(gr_json *array, int64_t value);
void gr_json_push_real(gr_json *array, double value);
void gr_json_push_string(gr_json *array, const char *value);

/* Text of a value: indent 0 gives one line. *text is malloc'ed, zero-terminated. Fails with MEMORY. */
grace_status gr_json_write(const gr_json *value, int indent, char **text, size_t *n);
grace_status gr_json_save(const gr_json *value, const char *path);      /* gr_file_replace() of the text */

#endif
