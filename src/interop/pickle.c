#include "interop/pickle.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "interop/bytes.h"

/* Opcodes of protocol 2, as Python's pickletools names them. */
enum {
    OP_MARK = '(', OP_STOP = '.', OP_NONE = 'N', OP_NEWTRUE = 0x88, OP_NEWFALSE = 0x89,
    OP_BININT = 'J', OP_BININT1 = 'K', OP_BININT2 = 'M', OP_LONG1 = 0x8a, OP_BINFLOAT = 'G', OP_BINUNICODE = 'X',
    OP_EMPTY_TUPLE = ')', OP_TUPLE = 't', OP_TUPLE1 = 0x85, OP_TUPLE2 = 0x86, OP_TUPLE3 = 0x87,
    OP_EMPTY_LIST = ']', OP_APPEND = 'a', OP_APPENDS = 'e', OP_EMPTY_DICT = '}', OP_SETITEM = 's', OP_SETITEMS = 'u',
    OP_BINPUT = 'q', OP_LONG_BINPUT = 'r', OP_BINGET = 'h', OP_LONG_BINGET = 'j',
    OP_PROTO = 0x80, OP_GLOBAL = 'c', OP_REDUCE = 'R', OP_BINPERSID = 'Q',
};

enum { REBUILD_TENSOR = 100, ORDERED_DICT = 101 };      /* values of globals beside the dtypes of storages */

static const struct { const char *module, *name; int value; } known_globals[] = {
    {"torch._utils", "_rebuild_tensor_v2", REBUILD_TENSOR}, {"collections", "OrderedDict", ORDERED_DICT},
    {"torch", "ByteStorage", GR_U8}, {"torch", "CharStorage", GR_I8}, {"torch", "ShortStorage", GR_I16}, {"torch", "IntStorage", GR_I32},
    {"torch", "LongStorage", GR_I64}, {"torch", "BoolStorage", GR_BOOL}, {"torch", "FloatStorage", GR_F32}, {"torch", "DoubleStorage", GR_F64},
};

typedef struct machine {
    const char *where;
    const unsigned char *bytes, *at, *end;
    gr_pickle *out;
    gr_pickle_value *stack, *memo;
    size_t *marks;                      /* heights of the stack */
    size_t n_stack, n_memo, n_marks, stack_capacity, memo_capacity, marks_capacity;
    bool stopped;
} machine;

/* ---- growing: an opcode adds at most one element to any of the arrays, so their sizes are bounded by the input's ---- */

#define PUSH(array, n, capacity, value)                                       \
    do {                                                                      \
        GR_RESERVE(array, (n) + 1, capacity);                                 \
        (array)[(n)++] = (value);                                             \
    } while (0)

static grace_status damaged(const machine *m, const char *what) {
    return gr_fail(GRACE_ERR_FORMAT, "%s: byte %td: %s", m->where, m->at - m->bytes, what);
}

static grace_status push(machine *m, gr_pickle_value value) {
    grace_status st = GRACE_OK;
    PUSH(m->stack, m->n_stack, m->stack_capacity, value);
done:
    return st;
}

static gr_pickle_value integer_value(int64_t v) { return (gr_pickle_value){.kind = GR_PICKLE_INT, .integer = v}; }

/* ---- reading the input ---- */

static grace_status take(machine *m, size_t n, const unsigned char **out) {
    if (n > (size_t)(m->end - m->at)) return damaged(m, "the pickle is cut short");
    *out = m->at;
    m->at += n;
    return GRACE_OK;
}

static grace_status take_number(machine *m, int n_bytes, uint64_t *out) {
    const unsigned char *p;
    grace_status st = take(m, (size_t)n_bytes, &p);
    if (!st) *out = gr_le(p, n_bytes);
    return st;
}

static grace_status take_line(machine *m, const char **out, size_t *n) {
    const unsigned char *newline = memchr(m->at, '\n', (size_t)(m->end - m->at));
    if (!newline) return damaged(m, "the pickle is cut short");
    *out = (const char *)m->at;
    *n = (size_t)(newline - m->at);
    m->at = newline + 1;
    return GRACE_OK;
}

/* ---- the stack ---- */

static grace_status pop(machine *m, gr_pickle_value *out) {
    if (m->n_stack == (m->n_marks ? m->marks[m->n_marks - 1] : 0)) return damaged(m, "the pickle takes a value from an empty stack");
    *out = m->stack[--m->n_stack];
    return GRACE_OK;
}

static grace_status pop_mark(machine *m, size_t *height) {
    if (m->n_marks == 0) return damaged(m, "the pickle takes values up to a mark it never set");
    *height = m->marks[--m->n_marks];
    return GRACE_OK;
}

/* The list that the top n values are to be added to lies below them. */
static grace_status list_below(machine *m, size_t n, gr_pickle_kind kind, gr_pickle_list **out) {
    if (m->n_stack <= n || (m->n_marks && m->n_stack - n <= m->marks[m->n_marks - 1]) || m->stack[m->n_stack - n - 1].kind != kind)
        return damaged(m, kind == GR_PICKLE_DICT ? "expected a dict to add to" : "expected a list to add to");
    *out = &m->out->lists[m->stack[m->n_stack - n - 1].index];
    return GRACE_OK;
}

/* The top n values are added to the list and leave the stack. */
static grace_status move_top(machine *m, size_t n, gr_pickle_list *list) {
    grace_status st = GRACE_OK;
    if (n == 0) return st;
    GR_RESERVE(list->items, list->n + n, list->capacity);
    m->n_stack -= n;
    memcpy(list->items + list->n, m->stack + m->n_stack, n * sizeof *list->items);
    list->n += n;
done:
    return st;
}

/* The same, with the list or dict below them. */
static grace_status add_top(machine *m, size_t n, gr_pickle_kind kind) {
    grace_status st = GRACE_OK;
    gr_pickle_list *list;
    GR_TRY(list_below(m, n, kind, &list));
    if (kind == GR_PICKLE_DICT && n % 2) GR_TRY(damaged(m, "a dict gets a key without a value"));
    GR_TRY(move_top(m, n, list));
done:
    return st;
}

/* A new tuple, list or dict of the top n values. */
static grace_status build(machine *m, gr_pickle_kind kind, size_t n) {
    grace_status st = GRACE_OK;
    gr_pickle *p = m->out;
    size_t floor = m->n_marks ? m->marks[m->n_marks - 1] : 0;
    if (m->n_stack - floor < n) GR_TRY(damaged(m, "the pickle takes a value from an empty stack"));
    PUSH(p->lists, p->n_lists, p->lists_capacity, ((gr_pickle_list){0}));
    GR_TRY(move_top(m, n, &p->lists[p->n_lists - 1]));
    GR_TRY(push(m, (gr_pickle_value){.kind = kind, .index = p->n_lists - 1}));
done:
    return st;
}

/* ---- tensors ---- */

int gr_dtype_bytes(gr_dtype dtype) {
    static const int bytes[] = {1, 1, 2, 4, 8, 1, 4, 8};
    return bytes[dtype];
}

static bool is_count(const gr_pickle_value *v) { return v->kind == GR_PICKLE_INT && v->integer >= 0; }

/* ("storage", class, key, device, elements) */
static grace_status build_storage(machine *m) {
    grace_status st = GRACE_OK;
    gr_pickle *p = m->out;
    gr_pickle_value id;
    GR_TRY(pop(m, &id));
    const gr_pickle_list *list = gr_pickle_items(p, &id);
    const gr_pickle_value *v = list->items;
    bool right = list->n == 5 && gr_pickle_is_text(&v[0], "storage") && v[1].kind == GR_PICKLE_GLOBAL && v[1].integer < REBUILD_TENSOR &&
                 v[2].kind == GR_PICKLE_TEXT && v[3].kind == GR_PICKLE_TEXT && is_count(&v[4]);
    if (!right) GR_TRY(damaged(m, "expected ('storage', class, key, device, elements)"));
    PUSH(p->storages, p->n_storages, p->storages_capacity, ((gr_pickle_storage){(gr_dtype)v[1].integer, v[2], v[4].integer}));
    GR_TRY(push(m, (gr_pickle_value){.kind = GR_PICKLE_STORAGE, .index = p->n_storages - 1}));
done:
    return st;
}

/* Is every element inside a storage of n, and are there at most n of them? Counts what there is to count. */
static bool fits(gr_pickle_tensor *t, int64_t n_storage) {
    int64_t last = t->offset;
    t->n = 1;
    for (int32_t d = 0; d < t->n_dims; d++) {
        if (t->size[d] < 0 || t->stride[d] < 0) return false;
        if (__builtin_mul_overflow(t->n, t->size[d], &t->n)) return false;
    }
    if (t->n == 0) return true;
    for (int32_t d = 0; d < t->n_dims; d++) {
        int64_t reach;
        if (__builtin_mul_overflow(t->size[d] - 1, t->stride[d], &reach) || __builtin_add_overflow(last, reach, &last)) return false;
    }
    return t->offset >= 0 && last < n_storage && t->n <= n_storage;
}

/* (storage, offset, size, stride, requires_grad, hooks, ...) */
static grace_status build_tensor(machine *m, const gr_pickle_list *args) {
    grace_status st = GRACE_OK;
    gr_pickle *p = m->out;
    const gr_pickle_value *v = args->items;
    if (args->n < 4 || v[0].kind != GR_PICKLE_STORAGE || !is_count(&v[1])) GR_TRY(damaged(m, "expected (storage, offset, size, stride) of a tensor"));
    const gr_pickle_list *size = gr_pickle_items(p, &v[2]), *stride = gr_pickle_items(p, &v[3]);
    if (size->n != stride->n || size->n > GR_TENSOR_DIMS_MAX) GR_TRY(damaged(m, "expected as many strides as sizes, at most 8"));
    gr_pickle_tensor t = {.storage = v[0].index, .offset = v[1].integer, .n_dims = (int32_t)size->n};
    for (size_t d = 0; d < size->n; d++) {
        if (!is_count(&size->items[d]) || !is_count(&stride->items[d])) GR_TRY(damaged(m, "expected sizes and strides of 0 or more"));
        t.size[d] = size->items[d].integer;
        t.stride[d] = stride->items[d].integer;
    }
    if (!fits(&t, p->storages[t.storage].n)) GR_TRY(damaged(m, "a tensor reaches outside its storage, or has more elements than it"));
    PUSH(p->tensors, p->n_tensors, p->tensors_capacity, t);
    GR_TRY(push(m, (gr_pickle_value){.kind = GR_PICKLE_TENSOR, .index = p->n_tensors - 1}));
done:
    return st;
}

/* ---- globals ---- */

static bool same(const char *text, size_t n, const char *known) { return strlen(known) == n && memcmp(text, known, n) == 0; }

static grace_status push_global(machine *m) {
    grace_status st = GRACE_OK;
    const char *module = NULL, *name = NULL;
    size_t module_n = 0, name_n = 0;
    GR_TRY(take_line(m, &module, &module_n));
    GR_TRY(take_line(m, &name, &name_n));
    for (size_t i = 0; i < sizeof known_globals / sizeof *known_globals; i++)
        if (same(module, module_n, known_globals[i].module) && same(name, name_n, known_globals[i].name))
            return push(m, (gr_pickle_value){.kind = GR_PICKLE_GLOBAL, .integer = known_globals[i].value});
    st = gr_fail(GRACE_ERR_UNSUPPORTED, "%s: byte %td: the pickle asks for %.*s.%.*s, which no recording needs; nothing was run", m->where,
                 m->at - m->bytes, module_n < 60 ? (int)module_n : 60, module, name_n < 60 ? (int)name_n : 60, name);
done:
    return st;
}

static grace_status reduce(machine *m) {
    grace_status st = GRACE_OK;
    gr_pickle_value args, callee;
    GR_TRY(pop(m, &args));
    GR_TRY(pop(m, &callee));
    if (args.kind != GR_PICKLE_TUPLE || callee.kind != GR_PICKLE_GLOBAL) GR_TRY(damaged(m, "expected a known function and its arguments"));
    const gr_pickle_list *list = gr_pickle_items(m->out, &args);
    if (callee.integer == REBUILD_TENSOR) GR_TRY(build_tensor(m, list));
    else if (callee.integer == ORDERED_DICT && list->n == 0) GR_TRY(build(m, GR_PICKLE_DICT, 0));
    else GR_TRY(damaged(m, "only an empty OrderedDict and tensors are made by calls"));
done:
    return st;
}

/* ---- memo: its numbers are given in turn ---- */

static grace_status put_memo(machine *m, int n_bytes) {
    grace_status st = GRACE_OK;
    uint64_t index = 0;
    GR_TRY(take_number(m, n_bytes, &index));
    if (m->n_stack == 0 || index > m->n_memo) GR_TRY(damaged(m, "the pickle's memo is not numbered in turn"));
    if (index == m->n_memo) PUSH(m->memo, m->n_memo, m->memo_capacity, m->stack[m->n_stack - 1]);
    else m->memo[index] = m->stack[m->n_stack - 1];
done:
    return st;
}

static grace_status get_memo(machine *m, int n_bytes) {
    grace_status st = GRACE_OK;
    uint64_t index = 0;
    GR_TRY(take_number(m, n_bytes, &index));
    if (index >= m->n_memo) GR_TRY(damaged(m, "the pickle asks for a memo it never made"));
    GR_TRY(push(m, m->memo[index]));
done:
    return st;
}

/* ---- scalars ---- */

static grace_status push_text(machine *m) {
    grace_status st = GRACE_OK;
    uint64_t n = 0;
    const unsigned char *p = NULL;
    GR_TRY(take_number(m, 4, &n));
    GR_TRY(take(m, (size_t)n, &p));
    GR_TRY(push(m, (gr_pickle_value){.kind = GR_PICKLE_TEXT, .n = (uint32_t)n, .text = (const char *)p}));
done:
    return st;
}

/* Two's complement of up to 8 bytes: larger integers mean nothing to us. */
static grace_status push_long(machine *m) {
    grace_status st = GRACE_OK;
    uint64_t n = 0, v = 0;
    GR_TRY(take_number(m, 1, &n));
    if (n > 8) GR_TRY(damaged(m, "an integer of more than 64 bits"));
    GR_TRY(take_number(m, (int)n, &v));
    if (n > 0 && n < 8 && v >> (8 * n - 1)) v |= UINT64_MAX << 8 * n;
    GR_TRY(push(m, integer_value((int64_t)v)));
done:
    return st;
}

static grace_status push_number(machine *m, int n_bytes) {
    uint64_t v = 0;
    grace_status st = take_number(m, n_bytes, &v);
    return st ? st : push(m, integer_value(n_bytes == 4 ? (int32_t)v : (int64_t)v));
}

static grace_status push_real(machine *m) {
    grace_status st = GRACE_OK;
    const unsigned char *p = NULL;
    uint64_t bits = 0;
    gr_pickle_value v = {.kind = GR_PICKLE_REAL};
    GR_TRY(take(m, 8, &p));
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
    memcpy(&v.real, &bits, sizeof bits);
    GR_TRY(push(m, v));
done:
    return st;
}

/* ---- the machine ---- */

static grace_status close_mark(machine *m, unsigned char op) {
    size_t height = 0;
    grace_status st = pop_mark(m, &height);
    if (st) return st;
    size_t n = m->n_stack - height;
    return op == OP_TUPLE ? build(m, GR_PICKLE_TUPLE, n) : add_top(m, n, op == OP_APPENDS ? GR_PICKLE_LIST : GR_PICKLE_DICT);
}

static grace_status set_mark(machine *m) {
    grace_status st = GRACE_OK;
    PUSH(m->marks, m->n_marks, m->marks_capacity, m->n_stack);
done:
    return st;
}

static grace_status check_protocol(machine *m) {
    uint64_t version = 0;
    grace_status st = take_number(m, 1, &version);
    if (st || version == 2) return st;
    return gr_fail(GRACE_ERR_UNSUPPORTED, "%s: pickle protocol %" PRIu64 ", expected 2 as torch.save writes it", m->where, version);
}

static grace_status stop(machine *m) {
    grace_status st = pop(m, &m->out->root);
    if (!st && (m->n_stack || m->n_marks)) st = damaged(m, "the pickle ends with values left over");
    m->stopped = true;
    return st;
}

static grace_status step(machine *m) {
    const unsigned char *op = NULL;
    grace_status st = take(m, 1, &op);
    if (st) return st;
    switch (*op) {
    case OP_PROTO: return check_protocol(m);
    case OP_STOP: return stop(m);
    case OP_MARK: return set_mark(m);
    case OP_NONE: return push(m, (gr_pickle_value){.kind = GR_PICKLE_NONE});
    case OP_NEWTRUE:
    case OP_NEWFALSE: return push(m, (gr_pickle_value){.kind = GR_PICKLE_BOOL, .integer = *op == OP_NEWTRUE});
    case OP_BININT: return push_number(m, 4);
    case OP_BININT1: return push_number(m, 1);
    case OP_BININT2: return push_number(m, 2);
    case OP_LONG1: return push_long(m);
    case OP_BINFLOAT: return push_real(m);
    case OP_BINUNICODE: return push_text(m);
    case OP_EMPTY_TUPLE: return build(m, GR_PICKLE_TUPLE, 0);
    case OP_EMPTY_LIST: return build(m, GR_PICKLE_LIST, 0);
    case OP_EMPTY_DICT: return build(m, GR_PICKLE_DICT, 0);
    case OP_TUPLE1:
    case OP_TUPLE2:
    case OP_TUPLE3: return build(m, GR_PICKLE_TUPLE, (size_t)*op - OP_TUPLE1 + 1);
    case OP_TUPLE:
    case OP_APPENDS:
    case OP_SETITEMS: return close_mark(m, *op);
    case OP_APPEND: return add_top(m, 1, GR_PICKLE_LIST);
    case OP_SETITEM: return add_top(m, 2, GR_PICKLE_DICT);
    case OP_BINPUT: return put_memo(m, 1);
    case OP_LONG_BINPUT: return put_memo(m, 4);
    case OP_BINGET: return get_memo(m, 1);
    case OP_LONG_BINGET: return get_memo(m, 4);
    case OP_GLOBAL: return push_global(m);
    case OP_REDUCE: return reduce(m);
    case OP_BINPERSID: return build_storage(m);
    default: return gr_fail(GRACE_ERR_UNSUPPORTED, "%s: byte %td: pickle opcode 0x%02x, which torch.save does not write", m->where, op - m->bytes, *op);
    }
}

grace_status gr_pickle_parse(const char *where, const void *bytes, size_t n, gr_pickle *out) {
    grace_status st = GRACE_OK;
    gr_pickle pickle = {0};
    machine m = {.where = where, .bytes = bytes, .at = bytes, .end = (const unsigned char *)bytes + n, .out = &pickle};
    while (!m.stopped) GR_TRY(step(&m));
    *out = pickle;
    pickle = (gr_pickle){0};
done:
    gr_pickle_free(&pickle);
    free(m.stack), free(m.memo), free(m.marks);
    return st;
}

void gr_pickle_free(gr_pickle *pickle) {
    for (size_t i = 0; i < pickle->n_lists; i++) free(pickle->lists[i].items);
    free(pickle->lists), free(pickle->storages), free(pickle->tensors);
    *pickle = (gr_pickle){0};
}

/* ---- looking at values ---- */

const char *gr_pickle_kind_name(gr_pickle_kind kind) {
    static const char *const names[] = {"None", "a boolean", "an integer", "a number", "a string", "a tuple", "a list", "a dict",
                                        "a class", "a storage", "a tensor"};
    return names[kind];
}

bool gr_pickle_is_text(const gr_pickle_value *value, const char *text) {
    return value->kind == GR_PICKLE_TEXT && same(value->text, value->n, text);
}

const gr_pickle_value *gr_pickle_get(const gr_pickle *pickle, const gr_pickle_value *dict, const char *key) {
    if (dict->kind != GR_PICKLE_DICT) return NULL;
    const gr_pickle_list *list = &pickle->lists[dict->index];
    for (size_t i = list->n; i >= 2; i -= 2)
        if (gr_pickle_is_text(&list->items[i - 2], key)) return &list->items[i - 1];
    return NULL;
}

const gr_pickle_list *gr_pickle_items(const gr_pickle *pickle, const gr_pickle_value *list) {
    static const gr_pickle_list empty = {0};
    return list->kind == GR_PICKLE_TUPLE || list->kind == GR_PICKLE_LIST ? &pickle->lists[list->index] : &empty;
}
