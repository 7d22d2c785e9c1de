/* Filters of texts and sequences, as Jinja defines them. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "text/template_value.h"

/* ---- text: what is not a string is turned into one first ---- */

static grace_status as_text(const gr_tv_call *call, gr_tv_call *out) {
    *out = *call;
    return gr_tv_str(call->heap, call->self, &out->self);
}

static grace_status recase(const gr_tv_call *call, gr_tv_case how, gr_tv *out) {
    gr_tv_call c;
    grace_status st = as_text(call, &c);
    return st ? st : gr_tv_recase(c.heap, c.self, how, out);
}

static grace_status upper(const gr_tv_call *c, gr_tv *out) { return recase(c, GR_TV_UPPER, out); }
static grace_status lower(const gr_tv_call *c, gr_tv *out) { return recase(c, GR_TV_LOWER, out); }
static grace_status title(const gr_tv_call *c, gr_tv *out) { return recase(c, GR_TV_TITLE_FILTER, out); }
static grace_status capitalize(const gr_tv_call *c, gr_tv *out) { return recase(c, GR_TV_CAPITALIZE, out); }
static grace_status string(const gr_tv_call *c, gr_tv *out) { return gr_tv_str(c->heap, c->self, out); }

static grace_status trim(const gr_tv_call *call, gr_tv *out) {
    gr_tv_call c;
    grace_status st = as_text(call, &c);
    return st ? st : gr_tv_strip(c.heap, c.self, c.arg[0], true, true, out);
}

static grace_status replace(const gr_tv_call *call, gr_tv *out) {
    gr_tv_call c;
    grace_status st = as_text(call, &c);
    if (!st) st = gr_tv_str(c.heap, c.arg[0], &c.arg[0]);
    if (!st) st = gr_tv_str(c.heap, c.arg[1], &c.arg[1]);
    return st ? st : gr_tv_replace(c.heap, c.self, c.arg[0], c.arg[1], c.arg[2], out);
}

/* Lines behind the first are indented, the first if asked, blank ones if asked. */
static grace_status indent(const gr_tv_call *call, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv_call c;
    gr_tv lines, by = gr_tv_word("    ");
    bool first = gr_tv_truth(call->arg[1]), blank = gr_tv_truth(call->arg[2]);
    size_t mark = call->heap->out->n;
    GR_TRY(as_text(call, &c));
    if (c.arg[0].kind == GR_TV_STRING) by = c.arg[0];
    else if (gr_tv_is_whole(c.arg[0])) {
        for (int64_t i = 0; i < c.arg[0].integer; i++) GR_TRY(gr_tv_put(c.heap, " ", 1));
        GR_TRY(gr_tv_take(c.heap, mark, &by));
    }
    GR_TRY(gr_tv_put(c.heap, c.self.text, c.self.n));       /* with a newline more, so that a last empty line counts */
    GR_TRY(gr_tv_put(c.heap, "\n", 1));
    GR_TRY(gr_tv_take(c.heap, mark, &c.self));
    GR_TRY(gr_tv_split_lines(c.heap, c.self, &lines));
    for (size_t i = 0; i < lines.list->n; i++) {
        gr_tv line = lines.list->items[i];
        if (i) GR_TRY(gr_tv_put(c.heap, "\n", 1));
        if (i ? blank || line.n > 0 : first) GR_TRY(gr_tv_put(c.heap, by.text, by.n));
        GR_TRY(gr_tv_put(c.heap, line.text, line.n));
    }
    GR_TRY(gr_tv_take(c.heap, mark, out));
done:
    return st;
}

/* ---- JSON ---- */

static grace_status separator(gr_tv pair, size_t index, const char *usual, gr_tv *out) {
    *out = gr_tv_word(usual);
    if (pair.kind == GR_TV_ABSENT || pair.kind == GR_TV_NONE) return GRACE_OK;
    bool good = gr_tv_is_list(pair) && pair.list->n == 2 && pair.list->items[index].kind == GR_TV_STRING;
    if (!good) return gr_fail(GRACE_ERR_FORMAT, "tojson: separators: expected two str, found a %s", gr_tv_kind_name(pair));
    *out = pair.list->items[index];
    return GRACE_OK;
}

static grace_status tojson(const gr_tv_call *call, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv ascii = call->arg[0], indent_by = call->arg[1];
    gr_tv_json style = {.indent = -1, .ascii = gr_tv_truth(ascii), .sort_keys = gr_tv_truth(call->arg[3])};
    size_t mark = call->heap->out->n;
    if (gr_tv_is_whole(indent_by)) style.indent = indent_by.integer < 0 ? 0 : indent_by.integer > 1000 ? 1000 : (int)indent_by.integer;
    GR_CHECK(gr_tv_is_whole(indent_by) || !gr_tv_truth(indent_by), GRACE_ERR_UNSUPPORTED,
             "tojson: indent: expected an int, found a %s", gr_tv_kind_name(indent_by));
    GR_TRY(separator(call->arg[2], 0, style.indent < 0 ? ", " : ",", &style.item));
    GR_TRY(separator(call->arg[2], 1, ": ", &style.key));
    GR_TRY(gr_tv_put_json(call->heap, call->self, &style));
    GR_TRY(gr_tv_take(call->heap, mark, out));
done:
    return st;
}

/* ---- numbers and defaults ---- */

static grace_status fallback(const gr_tv_call *call, gr_tv *out) {
    bool use = call->self.kind == GR_TV_UNDEFINED || (gr_tv_truth(call->arg[1]) && !gr_tv_truth(call->self));
    *out = !use ? call->self : call->arg[0].kind ? call->arg[0] : gr_tv_word("");
    return GRACE_OK;
}

static bool read_real(gr_tv text, double *out) {
    char digits[64], *end;
    if (text.n == 0 || text.n >= sizeof digits) return false;
    memcpy(digits, text.text, text.n);
    digits[text.n] = 0;
    *out = strtod(digits, &end);
    while (*end == ' ' || (*end >= '\t' && *end <= '\r')) end++;
    return end != digits && *end == 0 && !memchr(digits, 'x', text.n) && !memchr(digits, 'X', text.n);
}

static grace_status to_int(const gr_tv_call *call, gr_tv *out) {
    gr_tv v = call->self;
    double real = 0;
    char digits[24], *end;
    grace_status st = gr_tv_check_defined(v);
    if (st) return st;
    *out = call->arg[0].kind ? call->arg[0] : gr_tv_int(0);
    if (gr_tv_is_whole(v)) *out = gr_tv_int(v.integer);
    if (v.kind == GR_TV_STRING && v.n > 0 && v.n < sizeof digits) {         /* whole numbers beyond 2^53 keep their digits */
        memcpy(digits, v.text, v.n);
        digits[v.n] = 0;
        errno = 0;
        long long whole = strtoll(digits, &end, 10);
        if (*end == 0 && errno == 0) return *out = gr_tv_int(whole), GRACE_OK;
    }
    bool is_real = v.kind == GR_TV_REAL || (v.kind == GR_TV_STRING && read_real(v, &real));
    if (v.kind == GR_TV_REAL) real = v.real;
    if (is_real && fabs(real) < 9e18) *out = gr_tv_int((int64_t)real);
    return GRACE_OK;
}

static grace_status to_float(const gr_tv_call *call, gr_tv *out) {
    double real;
    grace_status st = gr_tv_check_defined(call->self);
    if (st) return st;
    *out = call->arg[0].kind ? call->arg[0] : gr_tv_real(0);
    if (gr_tv_is_number(call->self)) *out = gr_tv_real(gr_tv_as_real(call->self));
    else if (call->self.kind == GR_TV_STRING && read_real(call->self, &real)) *out = gr_tv_real(real);
    return GRACE_OK;
}

static grace_status absolute(const gr_tv_call *call, gr_tv *out) {
    gr_tv v = call->self;
    *out = v;
    if (v.kind == GR_TV_REAL) *out = gr_tv_real(fabs(v.real));
    else if (!gr_tv_is_whole(v) || v.integer == INT64_MIN) return gr_fail(GRACE_ERR_FORMAT, "abs takes a number, found a %s", gr_tv_kind_name(v));
    else *out = gr_tv_int(v.integer < 0 ? -v.integer : v.integer);
    return GRACE_OK;
}

/* ---- sequences ---- */

static grace_status length(const gr_tv_call *call, gr_tv *out) {
    size_t n = 0;
    grace_status st = gr_tv_length(call->self, &n);
    *out = gr_tv_int((int64_t)n);
    return st ? st : gr_tv_spend(call->heap, call->self.kind == GR_TV_STRING ? call->self.n / 64 : 0);
}

static grace_status list(const gr_tv_call *call, gr_tv *out) {
    const gr_tv_list *items;
    grace_status st = gr_tv_iterate(call->heap, call->self, &items);
    return st ? st : gr_tv_copy_list(call->heap, items, out);
}

static grace_status end_of(const gr_tv_call *call, bool last, gr_tv *out) {
    const gr_tv_list *items;
    grace_status st = gr_tv_iterate(call->heap, call->self, &items);
    if (st) return st;
    if (items->n == 0) return gr_tv_undefined(call->heap, out, "the sequence is empty: it has no %s item", last ? "last" : "first");
    *out = items->items[last ? items->n - 1 : 0];
    return GRACE_OK;
}

static grace_status first(const gr_tv_call *call, gr_tv *out) { return end_of(call, false, out); }
static grace_status last(const gr_tv_call *call, gr_tv *out) { return end_of(call, true, out); }

static grace_status reverse(const gr_tv_call *call, gr_tv *out) {
    gr_tv none = {0};
    if (call->self.kind == GR_TV_STRING) return gr_tv_slice(call->heap, call->self, none, none, gr_tv_int(-1), out);
    grace_status st = list(call, out);
    for (size_t i = 0; !st && i < out->list->n / 2; i++) {
        gr_tv *a = &out->list->items[i], *b = &out->list->items[out->list->n - 1 - i], kept = *a;
        *a = *b;
        *b = kept;
    }
    return st;
}

static grace_status pairs(const gr_tv_call *call, gr_tv *out) {
    if (call->self.kind == GR_TV_UNDEFINED) return gr_tv_new_list(call->heap, GR_TV_LIST, 0, out);
    if (call->self.kind == GR_TV_DICT) return gr_tv_pairs(call->heap, call->self.dict, out);
    return gr_fail(GRACE_ERR_FORMAT, "items takes a dict, found a %s", gr_tv_kind_name(call->self));
}

static bool is_index(gr_tv text, int64_t *out) {
    *out = 0;
    for (size_t i = 0; i < text.n; i++) {
        if (text.n > 9 || text.text[i] < '0' || text.text[i] > '9') return false;
        *out = 10 * *out + (text.text[i] - '0');
    }
    return text.n > 0;
}

/* value.a.b, or value[0] for a whole number; without a name the value itself. */
static grace_status path(gr_tv_heap *heap, gr_tv value, gr_tv name, gr_tv *out) {
    grace_status st = GRACE_OK;
    *out = value;
    if (gr_tv_is_whole(name)) return gr_tv_item(heap, value, name, out);
    if (name.kind != GR_TV_STRING) return GRACE_OK;
    for (size_t at = 0, stop; at <= name.n; at = stop + 1) {
        for (stop = at; stop < name.n && name.text[stop] != '.';) stop++;
        gr_tv key = gr_tv_text(name.text + at, stop - at);
        int64_t index;
        GR_TRY(gr_tv_item(heap, *out, is_index(key, &index) ? gr_tv_int(index) : key, out));
    }
done:
    return st;
}

static grace_status join(const gr_tv_call *call, gr_tv *out) {
    grace_status st = GRACE_OK;
    const gr_tv_list *items;
    gr_tv picked;
    GR_TRY(gr_tv_iterate(call->heap, call->self, &items));
    GR_TRY(gr_tv_copy_list(call->heap, items, &picked));
    for (size_t i = 0; i < items->n; i++) GR_TRY(path(call->heap, items->items[i], call->arg[1], &picked.list->items[i]));
    GR_TRY(gr_tv_join(call->heap, picked.list, call->arg[0].kind ? call->arg[0] : gr_tv_word(""), false, out));
done:
    return st;
}

/* ---- order: a stable merge of (key, item) ---- */

typedef struct keyed { gr_tv key, item; } keyed;

static grace_status key_of(gr_tv_heap *heap, gr_tv value, gr_tv name, bool case_sensitive, gr_tv *out) {
    grace_status st = path(heap, value, name, out);
    if (st || case_sensitive || out->kind != GR_TV_STRING) return st;
    return gr_tv_recase(heap, *out, GR_TV_LOWER, out);
}

static grace_status merge(gr_tv_heap *heap, const keyed *from, size_t n, size_t run, bool descending, keyed *to) {
    grace_status st = GRACE_OK;
    for (size_t start = 0; start < n; start += 2 * run) {
        size_t a = start, a_end = start + run < n ? start + run : n, b = a_end, b_end = a_end + run < n ? a_end + run : n;
        for (size_t at = start; at < b_end; at++) {
            int sign = a == a_end ? 1 : -1;
            if (a < a_end && b < b_end) {
                GR_TRY(gr_tv_order(heap, from[a].key, from[b].key, &sign));
                if (descending) sign = -sign;
            }
            to[at] = sign <= 0 ? from[a++] : from[b++];
        }
    }
done:
    return st;
}

static grace_status sort_items(gr_tv_heap *heap, gr_tv_list *items, gr_tv name, bool case_sensitive, bool descending) {
    grace_status st = GRACE_OK;
    keyed *from, *to, *kept;
    GR_TRY(gr_tv_alloc(heap, 2 * items->n, sizeof *from, &from));
    to = from + items->n;
    for (size_t i = 0; i < items->n; i++) {
        from[i].item = items->items[i];
        GR_TRY(key_of(heap, items->items[i], name, case_sensitive, &from[i].key));
    }
    for (size_t run = 1; run < items->n; run *= 2) {
        GR_TRY(merge(heap, from, items->n, run, descending, to));
        kept = from, from = to, to = kept;
    }
    for (size_t i = 0; i < items->n; i++) items->items[i] = from[i].item;
done:
    return st;
}

static grace_status sort(const gr_tv_call *call, gr_tv *out) {
    grace_status st = list(call, out);
    return st ? st : sort_items(call->heap, out->list, call->arg[2], gr_tv_truth(call->arg[1]), gr_tv_truth(call->arg[0]));
}

static grace_status dictsort(const gr_tv_call *call, gr_tv *out) {
    gr_tv by = call->arg[1];
    bool value = by.kind == GR_TV_STRING && by.n == 5 && memcmp(by.text, "value", 5) == 0;
    if (call->self.kind != GR_TV_DICT) return gr_fail(GRACE_ERR_FORMAT, "dictsort takes a dict, found a %s", gr_tv_kind_name(call->self));
    grace_status st = gr_tv_pairs(call->heap, call->self.dict, out);
    return st ? st : sort_items(call->heap, out->list, gr_tv_int(value), gr_tv_truth(call->arg[0]), gr_tv_truth(call->arg[2]));
}

static grace_status unique(const gr_tv_call *call, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv seen, key;
    bool found;
    size_t n = 0;
    GR_TRY(list(call, out));
    GR_TRY(gr_tv_new_list(call->heap, GR_TV_LIST, out->list->n, &seen));
    size_t n_all = out->list->n;
    for (size_t i = 0; i < n_all; i++) {
        GR_TRY(key_of(call->heap, out->list->items[i], call->arg[1], gr_tv_truth(call->arg[0]), &key));
        seen.list->n = n;
        GR_TRY(gr_tv_contains(call->heap, seen, key, &found));
        if (found) continue;
        seen.list->items[n] = key;
        out->list->items[n++] = out->list->items[i];
    }
    out->list->n = n;
done:
    return st;
}

static grace_status extreme(const gr_tv_call *call, int wanted, gr_tv *out) {
    grace_status st = GRACE_OK;
    const gr_tv_list *items;
    gr_tv best, key;
    int sign;
    GR_TRY(gr_tv_iterate(call->heap, call->self, &items));
    if (items->n == 0) return gr_tv_undefined(call->heap, out, "the sequence is empty: it has no item");
    *out = items->items[0];
    GR_TRY(key_of(call->heap, *out, call->arg[1], gr_tv_truth(call->arg[0]), &best));
    for (size_t i = 1; i < items->n; i++) {
        GR_TRY(key_of(call->heap, items->items[i], call->arg[1], gr_tv_truth(call->arg[0]), &key));
        GR_TRY(gr_tv_order(call->heap, key, best, &sign));
        if (sign * wanted > 0) *out = items->items[i], best = key;
    }
done:
    return st;
}

static grace_status minimum(const gr_tv_call *call, gr_tv *out) { return extreme(call, -1, out); }
static grace_status maximum(const gr_tv_call *call, gr_tv *out) { return extreme(call, 1, out); }

/* ---- map and its relatives: arguments name another filter or test ---- */

static bool is_named(const gr_tv_args *args, size_t i, const char *name) {
    return args->names[i].n == strlen(name) && memcmp(args->names[i].text, name, args->names[i].n) == 0;
}

static grace_status name_at(const gr_tv_args *args, size_t index, gr_tv *out) {
    if (index >= args->n || args->items[index].kind != GR_TV_STRING) return gr_fail(GRACE_ERR_FORMAT, "expected a name as argument %zu", index + 1);
    *out = args->items[index];
    return GRACE_OK;
}

static grace_status map_attribute(const gr_tv_call *call, gr_tv *out) {
    grace_status st = GRACE_OK;
    const gr_tv_args *args = call->all;
    gr_tv name = {0}, otherwise = {0};
    for (size_t i = 0; i < args->n_named; i++) {
        bool attr = is_named(args, i, "attribute");
        GR_CHECK(attr || is_named(args, i, "default"), GRACE_ERR_FORMAT,
                 "map takes attribute and default by name, found '%.*s'", (int)args->names[i].n, args->names[i].text);
        if (attr) name = args->named[i];
        else otherwise = args->named[i];
    }
    for (size_t i = 0; i < out->list->n; i++) {
        gr_tv *item = &out->list->items[i];
        GR_TRY(path(call->heap, *item, name, item));
        if (item->kind == GR_TV_UNDEFINED && otherwise.kind) *item = otherwise;
    }
done:
    return st;
}

static grace_status map(const gr_tv_call *call, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv_args rest = *call->all;
    gr_tv name;
    GR_TRY(list(call, out));
    if (rest.n == 0 && rest.n_named > 0) {
        GR_TRY(map_attribute(call, out));
        return gr_tv_close(out);
    }
    GR_TRY(name_at(&rest, 0, &name));
    const gr_tv_builtin *filter = gr_tv_filter(name.text, name.n);
    GR_CHECK(filter, GRACE_ERR_UNSUPPORTED, "there is no filter '%.*s'", (int)name.n, name.text);
    rest.items++, rest.n--;
    for (size_t i = 0; i < out->list->n; i++) GR_TRY(gr_tv_run(call->heap, filter, out->list->items[i], &rest, &out->list->items[i]));
    GR_TRY(gr_tv_close(out));
done:
    return st;
}

/* Keeps the items (or those whose attribute) for which the named test, or plain truth, is `wanted`. */
static grace_status keep(const gr_tv_call *call, bool by_attribute, bool wanted, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv_args rest = *call->all;
    const gr_tv_builtin *test = NULL;
    gr_tv attr = {0}, name, value, truth;
    size_t n = 0;
    GR_TRY(list(call, out));
    if (by_attribute) {
        GR_TRY(name_at(&rest, 0, &attr));
        rest.items++, rest.n--;
    }
    if (rest.n > 0) {
        GR_TRY(name_at(&rest, 0, &name));
        test = gr_tv_test(name.text, name.n);
        GR_CHECK(test, GRACE_ERR_UNSUPPORTED, "there is no test '%.*s'", (int)name.n, name.text);
        rest.items++, rest.n--;
    }
    for (size_t i = 0; i < out->list->n; i++) {
        GR_TRY(path(call->heap, out->list->items[i], attr, &value));
        if (test) GR_TRY(gr_tv_run(call->heap, test, value, &rest, &truth));
        else truth = value;
        if (gr_tv_truth(truth) == wanted) out->list->items[n++] = out->list->items[i];
    }
    out->list->n = n;
done:
    return st;
}

static grace_status select_items(const gr_tv_call *call, gr_tv *out) { return keep(call, false, true, out); }
static grace_status reject(const gr_tv_call *call, gr_tv *out) { return keep(call, false, false, out); }
static grace_status selectattr(const gr_tv_call *call, gr_tv *out) { return keep(call, true, true, out); }
static grace_status rejectattr(const gr_tv_call *call, gr_tv *out) { return keep(call, true, false, out); }

static const gr_tv_builtin filters[] = {
    {"abs", "", absolute}, {"capitalize", "", capitalize}, {"count", "", length}, {"d", "default_value boolean", fallback},
    {"default", "default_value boolean", fallback}, {"dictsort", "case_sensitive by reverse", dictsort}, {"first", "", first},
    {"float", "default", to_float}, {"indent", "width first blank", indent}, {"int", "default", to_int}, {"items", "", pairs},
    {"join", "d attribute", join}, {"last", "", last}, {"length", "", length}, {"list", "", list}, {"lower", "", lower}, {"map", "*", map},
    {"max", "case_sensitive attribute", maximum}, {"min", "case_sensitive attribute", minimum}, {"reject", "*", reject}, {"rejectattr", "*", rejectattr},
    {"replace", "old! new! count", replace}, {"reverse", "", reverse}, {"safe", "", string},
    {"select", "*", select_items}, {"selectattr", "*", selectattr},
    {"sort", "reverse case_sensitive attribute", sort}, {"string", "", string}, {"title", "", title},
    {"tojson", "ensure_ascii indent separators sort_keys", tojson},
    {"trim", "chars", trim}, {"unique", "case_sensitive attribute", unique}, {"upper", "", upper}};

const gr_tv_builtin *gr_tv_filter(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (strlen(filters[i].name) == n && memcmp(filters[i].name, name, n) == 0) return &filters[i];
    return NULL;
}
