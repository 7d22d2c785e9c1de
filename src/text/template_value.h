/* Values of a template: one small tagged type with Python's truth, equality, order and text. Containers never change once built (only
 * namespaces do), so values share memory, and a container knows how deep it is: what walks a value needs no bound of its own. */
#ifndef GR_TEXT_TEMPLATE_VALUE_H
#define GR_TEXT_TEMPLATE_VALUE_H
#include <stdbool.h>
#include <string.h>

#include "text/template.h"

typedef enum gr_tv_kind {
    GR_TV_ABSENT,                   /* an argument that was not given */
    GR_TV_UNDEFINED,                /* text: the sentence that tells what is missing */
    GR_TV_NONE, GR_TV_BOOL, GR_TV_INT, GR_TV_REAL, GR_TV_STRING, GR_TV_LIST, GR_TV_TUPLE, GR_TV_DICT,
    GR_TV_NAMESPACE,                /* a dict that {% set ns.x = ... %} changes */
    GR_TV_LOOP, GR_TV_MACRO, GR_TV_BUILTIN, GR_TV_METHOD
} gr_tv_kind;

typedef struct gr_tv {
    gr_tv_kind kind;
    union {
        int64_t integer;            /* INT, BOOL */
        double real;
        struct { const char *text; size_t n; };     /* STRING, UNDEFINED: UTF-8 */
        struct gr_tv_list *list;    /* LIST, TUPLE */
        struct gr_tv_dict *dict;    /* DICT, NAMESPACE */
        struct gr_tv_loop *loop;
        const struct gr_tv_macro *macro;            /* of the interpreter */
        const struct gr_tv_builtin *builtin;
        const struct gr_tv_method *method;
    };
} gr_tv;

enum { GR_TV_DEPTH_MAX = 64, GR_TV_ARGS_MAX = 5 };
typedef struct gr_tv_list { gr_tv *items; size_t n; int depth; } gr_tv_list;
typedef struct gr_tv_dict { gr_tv *keys, *values; size_t n, capacity; int depth; } gr_tv_dict;
typedef struct gr_tv_loop { const gr_tv_list *items; size_t index; } gr_tv_loop;

/* What one rendering may still use. Text is made at the end of out and taken from there, so out is also the scratch of nested captures. */
typedef struct gr_tv_heap {
    gr_arena *arena;
    gr_template_limits limits;
    int64_t n_steps;
    size_t n_bytes;
    gr_buf *out;
    size_t out_first;               /* bytes out had before */
    time_t now;
} gr_tv_heap;

/* ---- functions: filters, tests, globals and methods ---- */
typedef struct gr_tv_args { const gr_tv *items; size_t n; const gr_tv *names, *named; size_t n_named; } gr_tv_args;
typedef struct gr_tv_call { gr_tv_heap *heap; gr_tv self; gr_tv arg[GR_TV_ARGS_MAX]; const gr_tv_args *all; } gr_tv_call;
typedef grace_status gr_tv_fn(const gr_tv_call *call, gr_tv *out);
/* parameters: names with a blank between; those with '!' are required. "*": run looks at call->all itself. */
typedef struct gr_tv_builtin { const char *name, *parameters; gr_tv_fn *run; } gr_tv_builtin;
typedef struct gr_tv_method { gr_tv self; const gr_tv_builtin *builtin; } gr_tv_method;

const gr_tv_builtin *gr_tv_filter(const char *name, size_t n);                  /* NULL: there is none */
const gr_tv_builtin *gr_tv_test(const char *name, size_t n);
const gr_tv_builtin *gr_tv_global(const char *name, size_t n);
const gr_tv_builtin *gr_tv_method_of(gr_tv_kind kind, const char *name, size_t n);
grace_status gr_tv_split_lines(gr_tv_heap *heap, gr_tv text, gr_tv *out);       /* str.splitlines() */
grace_status gr_tv_strip(gr_tv_heap *heap, gr_tv text, gr_tv characters, bool left, bool right, gr_tv *out);    /* ABSENT or None: whitespace */
grace_status gr_tv_replace(gr_tv_heap *heap, gr_tv text, gr_tv old, gr_tv fresh, gr_tv n_max, gr_tv *out);
grace_status gr_tv_join(gr_tv_heap *heap, const gr_tv_list *items, gr_tv between, bool only_text, gr_tv *out);
typedef enum gr_tv_case { GR_TV_UPPER, GR_TV_LOWER, GR_TV_CAPITALIZE, GR_TV_TITLE, GR_TV_TITLE_FILTER } gr_tv_case;
grace_status gr_tv_recase(gr_tv_heap *heap, gr_tv text, gr_tv_case how, gr_tv *out);
grace_status gr_tv_pairs(gr_tv_heap *heap, const gr_tv_dict *dict, gr_tv *out); /* list of (key, value) */
grace_status gr_tv_copy_list(gr_tv_heap *heap, const gr_tv_list *items, gr_tv *out);
grace_status gr_tv_run(gr_tv_heap *heap, const gr_tv_builtin *builtin, gr_tv self, const gr_tv_args *args, gr_tv *out);

/* ---- making ---- */
grace_status gr_tv_spend(gr_tv_heap *heap, size_t n);                           /* LIMIT once the steps are used up */
grace_status gr_tv_alloc(gr_tv_heap *heap, size_t n, size_t size, void *out);   /* *(void **)out = zeroed memory of this rendering */
static inline gr_tv gr_tv_none(void) { return (gr_tv){.kind = GR_TV_NONE}; }
static inline gr_tv gr_tv_bool(bool b) { return (gr_tv){.kind = GR_TV_BOOL, .integer = b}; }
static inline gr_tv gr_tv_int(int64_t i) { return (gr_tv){.kind = GR_TV_INT, .integer = i}; }
static inline gr_tv gr_tv_real(double r) { return (gr_tv){.kind = GR_TV_REAL, .real = r}; }
static inline gr_tv gr_tv_text(const char *text, size_t n) { return (gr_tv){.kind = GR_TV_STRING, .text = text, .n = n}; }
static inline gr_tv gr_tv_word(const char *text) { return gr_tv_text(text, strlen(text)); }
grace_status gr_tv_undefined(gr_tv_heap *heap, gr_tv *out, const char *format, ...) __attribute__((format(printf, 3, 4)));
grace_status gr_tv_new_list(gr_tv_heap *heap, gr_tv_kind kind, size_t n, gr_tv *out);   /* n ABSENT items; fill, then gr_tv_close() */
grace_status gr_tv_new_dict(gr_tv_heap *heap, gr_tv_kind kind, size_t capacity, gr_tv *out);
grace_status gr_tv_set(gr_tv_heap *heap, gr_tv_dict *dict, gr_tv key, gr_tv value);
grace_status gr_tv_close(gr_tv *container);                                     /* LIMIT when nested too deep */
grace_status gr_tv_from_json(gr_tv_heap *heap, const gr_json *json, gr_tv *out);

/* ---- text ---- */
grace_status gr_tv_put(gr_tv_heap *heap, const void *bytes, size_t n);
grace_status gr_tv_take(gr_tv_heap *heap, size_t mark, gr_tv *out);             /* what out holds from mark on becomes a string */
grace_status gr_tv_put_str(gr_tv_heap *heap, gr_tv value);                      /* Python's str() */
grace_status gr_tv_str(gr_tv_heap *heap, gr_tv value, gr_tv *out);
typedef struct gr_tv_json { int indent; gr_tv item, key; bool sort_keys, ascii; } gr_tv_json;      /* separators; indent < 0: one line */
grace_status gr_tv_put_json(gr_tv_heap *heap, gr_tv value, const gr_tv_json *style);   /* Python's json.dumps() */
grace_status gr_tv_put_real(gr_tv_heap *heap, double real);

/* ---- asking ---- */
const char *gr_tv_kind_name(gr_tv value);                                       /* "str", "dict", as Python says */
static inline bool gr_tv_is_list(gr_tv v) { return v.kind == GR_TV_LIST || v.kind == GR_TV_TUPLE; }
static inline bool gr_tv_is_number(gr_tv v) { return v.kind == GR_TV_BOOL || v.kind == GR_TV_INT || v.kind == GR_TV_REAL; }
static inline bool gr_tv_is_whole(gr_tv v) { return v.kind == GR_TV_BOOL || v.kind == GR_TV_INT; }
static inline double gr_tv_as_real(gr_tv v) { return v.kind == GR_TV_REAL ? v.real : (double)v.integer; }
bool gr_tv_truth(gr_tv value);
grace_status gr_tv_equal(gr_tv_heap *heap, gr_tv a, gr_tv b, bool *out);
grace_status gr_tv_order(gr_tv_heap *heap, gr_tv a, gr_tv b, int *out);         /* <0, 0, >0; FORMAT when there is no order */
grace_status gr_tv_contains(gr_tv_heap *heap, gr_tv container, gr_tv item, bool *out);
grace_status gr_tv_get(gr_tv_heap *heap, const gr_tv_dict *dict, gr_tv key, const gr_tv **out);     /* NULL: not there */
grace_status gr_tv_length(gr_tv value, size_t *out);
grace_status gr_tv_iterate(gr_tv_heap *heap, gr_tv value, const gr_tv_list **out);      /* items; of a dict its keys, of a string its characters */
grace_status gr_tv_attribute(gr_tv_heap *heap, gr_tv value, gr_tv name, gr_tv *out);    /* value.name */
grace_status gr_tv_item(gr_tv_heap *heap, gr_tv value, gr_tv key, gr_tv *out);          /* value[key] */
grace_status gr_tv_slice(gr_tv_heap *heap, gr_tv value, gr_tv start, gr_tv stop, gr_tv step, gr_tv *out);
grace_status gr_tv_check_defined(gr_tv value);                                  /* FORMAT with the sentence of an undefined value */

/* ---- characters: positions count code points, as in Python ---- */
bool gr_tv_is_space(uint32_t cp);                                               /* what str.strip() removes */
size_t gr_tv_n_chars(gr_tv text);
size_t gr_tv_char_at(gr_tv text, size_t offset, uint32_t *cp);                  /* bytes of the character at this byte offset */

#endif
