/* Asking values: truth, equality, order, membership, attributes, items, slices. */
#include "text/template_value.h"

#include "text/unicode.h"

const char *gr_tv_kind_name(gr_tv value) {
    static const char *const names[] = {"nothing", "undefined", "None", "bool", "int", "float", "str", "list", "tuple", "dict",
                                        "namespace", "loop", "macro", "function", "method"};
    return names[value.kind];
}

bool gr_tv_truth(gr_tv value) {
    switch (value.kind) {
    case GR_TV_ABSENT:
    case GR_TV_UNDEFINED:
    case GR_TV_NONE: return false;
    case GR_TV_BOOL:
    case GR_TV_INT: return value.integer != 0;
    case GR_TV_REAL: return value.real != 0;
    case GR_TV_STRING: return value.n > 0;
    case GR_TV_LIST:
    case GR_TV_TUPLE: return value.list->n > 0;
    case GR_TV_DICT: return value.dict->n > 0;
    default: return true;
    }
}

grace_status gr_tv_check_defined(gr_tv value) {
    if (value.kind != GR_TV_UNDEFINED) return GRACE_OK;
    return gr_fail(GRACE_ERR_FORMAT, "%.*s", (int)value.n, value.text);
}

static bool same_text(gr_tv a, gr_tv b) { return a.n == b.n && (a.n == 0 || memcmp(a.text, b.text, a.n) == 0); }

static grace_status equal_lists(gr_tv_heap *heap, const gr_tv_list *a, const gr_tv_list *b, bool *out) {
    grace_status st = GRACE_OK;
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) GR_TRY(gr_tv_equal(heap, a->items[i], b->items[i], out));
done:
    return st;
}

static grace_status equal_dicts(gr_tv_heap *heap, const gr_tv_dict *a, const gr_tv_dict *b, bool *out) {
    grace_status st = GRACE_OK;
    const gr_tv *other;
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) {
        GR_TRY(gr_tv_get(heap, b, a->keys[i], &other));
        if (!other) *out = false;
        else GR_TRY(gr_tv_equal(heap, a->values[i], *other, out));
    }
done:
    return st;
}

grace_status gr_tv_equal(gr_tv_heap *heap, gr_tv a, gr_tv b, bool *out) {
    grace_status st = gr_tv_spend(heap, 1 + (a.kind == GR_TV_STRING ? a.n / 64 : 0));
    if (st) return st;
    if (gr_tv_is_number(a) && gr_tv_is_number(b)) {
        *out = gr_tv_is_whole(a) && gr_tv_is_whole(b) ? a.integer == b.integer : gr_tv_as_real(a) == gr_tv_as_real(b);
        return GRACE_OK;
    }
    *out = a.kind == b.kind;
    if (!*out) return GRACE_OK;
    switch (a.kind) {
    case GR_TV_STRING: *out = same_text(a, b); break;
    case GR_TV_LIST:
    case GR_TV_TUPLE: return equal_lists(heap, a.list, b.list, out);
    case GR_TV_DICT: return equal_dicts(heap, a.dict, b.dict, out);
    case GR_TV_UNDEFINED:
    case GR_TV_NONE: break;
    default: *out = a.dict == b.dict;       /* the others are equal to themselves only */
    }
    return GRACE_OK;
}

static grace_status order_lists(gr_tv_heap *heap, const gr_tv_list *a, const gr_tv_list *b, int *out) {
    grace_status st = GRACE_OK;
    bool equal = true;
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        GR_TRY(gr_tv_equal(heap, a->items[i], b->items[i], &equal));
        if (!equal) return gr_tv_order(heap, a->items[i], b->items[i], out);
    }
    *out = (a->n > b->n) - (a->n < b->n);
done:
    return st;
}

grace_status gr_tv_order(gr_tv_heap *heap, gr_tv a, gr_tv b, int *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tv_spend(heap, 1 + (a.kind == GR_TV_STRING ? a.n / 64 : 0)));
    GR_TRY(gr_tv_check_defined(a));
    GR_TRY(gr_tv_check_defined(b));
    if (gr_tv_is_whole(a) && gr_tv_is_whole(b)) {
        *out = (a.integer > b.integer) - (a.integer < b.integer);
    } else if (gr_tv_is_number(a) && gr_tv_is_number(b)) {
        *out = (gr_tv_as_real(a) > gr_tv_as_real(b)) - (gr_tv_as_real(a) < gr_tv_as_real(b));
    } else if (a.kind == GR_TV_STRING && b.kind == GR_TV_STRING) {
        size_t n = a.n < b.n ? a.n : b.n;
        int sign = n ? memcmp(a.text, b.text, n) : 0;       /* the order of UTF-8 bytes is that of code points */
        *out = sign ? sign : (a.n > b.n) - (a.n < b.n);
    } else {
        GR_CHECK(gr_tv_is_list(a) && a.kind == b.kind, GRACE_ERR_FORMAT, "a %s and a %s have no order", gr_tv_kind_name(a), gr_tv_kind_name(b));
        GR_TRY(order_lists(heap, a.list, b.list, out));
    }
done:
    return st;
}

grace_status gr_tv_get(gr_tv_heap *heap, const gr_tv_dict *dict, gr_tv key, const gr_tv **out) {
    grace_status st = GRACE_OK;
    bool equal = false;
    *out = NULL;
    GR_TRY(gr_tv_spend(heap, dict->n / 8));
    for (size_t i = 0; i < dict->n; i++) {
        const gr_tv *have = &dict->keys[i];
        if (key.kind == GR_TV_STRING) {
            if (have->n == key.n) GR_TRY(gr_tv_spend(heap, key.n / 64));
            equal = have->kind == GR_TV_STRING && same_text(*have, key);
        } else GR_TRY(gr_tv_equal(heap, *have, key, &equal));
        if (!equal) continue;
        *out = &dict->values[i];
        break;
    }
done:
    return st;
}

grace_status gr_tv_contains(gr_tv_heap *heap, gr_tv container, gr_tv item, bool *out) {
    grace_status st = GRACE_OK;
    const gr_tv *found;
    *out = false;
    if (container.kind == GR_TV_STRING) {
        GR_TRY(gr_tv_check_defined(item));
        GR_CHECK(item.kind == GR_TV_STRING, GRACE_ERR_FORMAT, "a str contains only str, asked for a %s", gr_tv_kind_name(item));
        GR_TRY(gr_tv_spend(heap, container.n / 64));
        *out = item.n == 0 || memmem(container.text, container.n, item.text, item.n);
    } else if (container.kind == GR_TV_DICT) {
        GR_TRY(gr_tv_get(heap, container.dict, item, &found));
        *out = found != NULL;
    } else if (container.kind != GR_TV_UNDEFINED) {         /* an undefined value is an empty sequence */
        GR_CHECK(gr_tv_is_list(container), GRACE_ERR_FORMAT, "a %s has no members", gr_tv_kind_name(container));
        for (size_t i = 0; i < container.list->n && !*out; i++) GR_TRY(gr_tv_equal(heap, container.list->items[i], item, out));
    }
done:
    return st;
}

/* ---- characters ---- */

bool gr_tv_is_space(uint32_t cp) { return gr_is_space(cp) || (cp >= 0x1c && cp <= 0x1f); }

size_t gr_tv_char_at(gr_tv text, size_t offset, uint32_t *cp) {
    int n = gr_utf8_step(text.text + offset, text.n - offset, cp);
    return n > 0 ? (size_t)n : 1;           /* all text is valid: templates and JSON are checked */
}

size_t gr_tv_n_chars(gr_tv text) {
    size_t n = 0;
    for (size_t i = 0; i < text.n; i++) n += ((unsigned char)text.text[i] & 0xc0) != 0x80;
    return n;
}

static size_t offset_of_char(gr_tv text, size_t character) {
    size_t offset = 0;
    uint32_t cp;
    while (character-- > 0) offset += gr_tv_char_at(text, offset, &cp);
    return offset;
}

grace_status gr_tv_length(gr_tv value, size_t *out) {
    switch (value.kind) {
    case GR_TV_UNDEFINED: *out = 0; break;
    case GR_TV_STRING: *out = gr_tv_n_chars(value); break;
    case GR_TV_LIST:
    case GR_TV_TUPLE: *out = value.list->n; break;
    case GR_TV_DICT: *out = value.dict->n; break;
    case GR_TV_LOOP: *out = value.loop->items->n; break;
    default: return gr_fail(GRACE_ERR_FORMAT, "a %s has no length", gr_tv_kind_name(value));
    }
    return GRACE_OK;
}

static grace_status characters(gr_tv_heap *heap, gr_tv text, gr_tv *out) {
    grace_status st = GRACE_OK;
    uint32_t cp;
    GR_TRY(gr_tv_new_list(heap, GR_TV_LIST, gr_tv_n_chars(text), out));
    for (size_t i = 0, offset = 0, n; i < out->list->n; i++, offset += n) {
        n = gr_tv_char_at(text, offset, &cp);
        out->list->items[i] = gr_tv_text(text.text + offset, n);
    }
done:
    return st;
}

grace_status gr_tv_iterate(gr_tv_heap *heap, gr_tv value, const gr_tv_list **out) {
    grace_status st = GRACE_OK;
    gr_tv items = value;
    if (value.kind == GR_TV_UNDEFINED) GR_TRY(gr_tv_new_list(heap, GR_TV_LIST, 0, &items));
    else if (value.kind == GR_TV_STRING) GR_TRY(characters(heap, value, &items));
    else if (value.kind == GR_TV_DICT) {
        GR_TRY(gr_tv_new_list(heap, GR_TV_LIST, value.dict->n, &items));
        if (value.dict->n) memcpy(items.list->items, value.dict->keys, value.dict->n * sizeof *value.dict->keys);
    } else GR_CHECK(gr_tv_is_list(value), GRACE_ERR_FORMAT, "a %s cannot be iterated over", gr_tv_kind_name(value));
    *out = items.list;
done:
    return st;
}

/* ---- attributes, items, slices ---- */

static bool is_name(gr_tv name, const char *word) { return name.n == strlen(word) && memcmp(name.text, word, name.n) == 0; }

static bool loop_field(const gr_tv_loop *loop, gr_tv name, gr_tv *out) {
    int64_t index = (int64_t)loop->index, n = (int64_t)loop->items->n;
    if (is_name(name, "index")) *out = gr_tv_int(index + 1);
    else if (is_name(name, "index0")) *out = gr_tv_int(index);
    else if (is_name(name, "revindex")) *out = gr_tv_int(n - index);
    else if (is_name(name, "revindex0")) *out = gr_tv_int(n - index - 1);
    else if (is_name(name, "first")) *out = gr_tv_bool(index == 0);
    else if (is_name(name, "last")) *out = gr_tv_bool(index == n - 1);
    else if (is_name(name, "length")) *out = gr_tv_int(n);
    else if (is_name(name, "depth")) *out = gr_tv_int(1);
    else if (is_name(name, "depth0")) *out = gr_tv_int(0);
    else if (is_name(name, "previtem") && index > 0) *out = loop->items->items[index - 1];
    else if (is_name(name, "nextitem") && index < n - 1) *out = loop->items->items[index + 1];
    else return false;
    return true;
}

/* A method of the value bound to it, or an undefined value that says there is none. */
static grace_status method_or_undefined(gr_tv_heap *heap, gr_tv value, gr_tv name, gr_tv *out) {
    grace_status st = GRACE_OK;
    const gr_tv_builtin *builtin = gr_tv_method_of(value.kind, name.text, name.n);
    gr_tv_method *method;
    if (!builtin) return gr_tv_undefined(heap, out, "'%s object' has no attribute '%.*s'", gr_tv_kind_name(value), (int)name.n, name.text);
    GR_TRY(gr_tv_alloc(heap, 1, sizeof *method, &method));
    *method = (gr_tv_method){value, builtin};
    *out = (gr_tv){.kind = GR_TV_METHOD, .method = method};
done:
    return st;
}

grace_status gr_tv_attribute(gr_tv_heap *heap, gr_tv value, gr_tv name, gr_tv *out) {
    grace_status st = GRACE_OK;
    const gr_tv *found = NULL;
    GR_TRY(gr_tv_check_defined(value));
    bool has_method = gr_tv_method_of(value.kind, name.text, name.n);       /* messages.items is the method, whatever keys there are */
    if (value.kind == GR_TV_NAMESPACE || (value.kind == GR_TV_DICT && !has_method)) GR_TRY(gr_tv_get(heap, value.dict, name, &found));
    if (found) *out = *found;
    else if (value.kind != GR_TV_LOOP || !loop_field(value.loop, name, out)) GR_TRY(method_or_undefined(heap, value, name, out));
done:
    return st;
}

static grace_status element(gr_tv_heap *heap, gr_tv value, int64_t index, gr_tv *out) {
    size_t n = 0, offset;
    uint32_t cp;
    grace_status st = gr_tv_spend(heap, value.kind == GR_TV_STRING ? value.n / 64 : 0);
    if (!st) st = gr_tv_length(value, &n);
    if (st) return st;
    if (index < 0) index += (int64_t)n;
    if (index < 0 || index >= (int64_t)n) return gr_tv_undefined(heap, out, "%s object has no element %lld", gr_tv_kind_name(value), (long long)index);
    if (value.kind != GR_TV_STRING) {
        *out = value.list->items[index];
        return GRACE_OK;
    }
    offset = offset_of_char(value, (size_t)index);
    *out = gr_tv_text(value.text + offset, gr_tv_char_at(value, offset, &cp));
    return GRACE_OK;
}

grace_status gr_tv_item(gr_tv_heap *heap, gr_tv value, gr_tv key, gr_tv *out) {
    grace_status st = GRACE_OK;
    const gr_tv *found = NULL;
    GR_TRY(gr_tv_check_defined(value));
    if (value.kind == GR_TV_DICT) GR_TRY(gr_tv_get(heap, value.dict, key, &found));
    if (found) *out = *found;
    else if (key.kind == GR_TV_STRING) st = value.kind == GR_TV_DICT ? method_or_undefined(heap, value, key, out) : gr_tv_attribute(heap, value, key, out);
    else if (gr_tv_is_whole(key) && (value.kind == GR_TV_STRING || gr_tv_is_list(value))) st = element(heap, value, key.integer, out);
    else st = gr_tv_undefined(heap, out, "%s object has no such element", gr_tv_kind_name(value));
done:
    return st;
}

static grace_status bound(gr_tv value, int64_t fallback, int64_t *out) {
    if (value.kind == GR_TV_ABSENT || value.kind == GR_TV_NONE) *out = fallback;
    else if (gr_tv_is_whole(value)) *out = value.integer;
    else return gr_fail(GRACE_ERR_FORMAT, "a slice takes integers, found a %s", gr_tv_kind_name(value));
    return GRACE_OK;
}

static int64_t clamp(int64_t at, int64_t n, int64_t low, int64_t high) {
    if (at < 0) at = at < -n ? low - 1 : at + n;        /* low - 1 is clamped next */
    return at < low ? low : at > high ? high : at;
}

grace_status gr_tv_slice(gr_tv_heap *heap, gr_tv value, gr_tv start, gr_tv stop, gr_tv step, gr_tv *out) {
    grace_status st = GRACE_OK;
    const gr_tv_list *from;
    int64_t first, last, by;
    size_t mark = heap->out->n;
    GR_TRY(gr_tv_check_defined(value));
    GR_CHECK(value.kind == GR_TV_STRING || gr_tv_is_list(value), GRACE_ERR_FORMAT, "a %s cannot be sliced", gr_tv_kind_name(value));
    GR_TRY(bound(step, 1, &by));
    GR_CHECK(by != 0, GRACE_ERR_FORMAT, "the step of a slice is zero");
    GR_TRY(gr_tv_iterate(heap, value, &from));
    int64_t n = (int64_t)from->n, low = by > 0 ? 0 : -1, high = by > 0 ? n : n - 1, count = 0;
    GR_TRY(bound(start, by > 0 ? 0 : INT64_MAX, &first));
    GR_TRY(bound(stop, by > 0 ? INT64_MAX : INT64_MIN, &last));
    first = clamp(first, n, low, high);
    last = clamp(last, n, low, high);
    if (by > n) by = n + 1;                             /* the same result, and sums stay small */
    if (by < -n) by = -n - 1;
    for (int64_t i = first; by > 0 ? i < last : i > last; i += by) count++;
    if (value.kind == GR_TV_STRING) {
        for (int64_t i = first; by > 0 ? i < last : i > last; i += by) GR_TRY(gr_tv_put(heap, from->items[i].text, from->items[i].n));
        GR_TRY(gr_tv_take(heap, mark, out));
    } else {
        GR_TRY(gr_tv_new_list(heap, value.kind, (size_t)count, out));
        for (int64_t i = first, at = 0; at < count; i += by) out->list->items[at++] = from->items[i];
        GR_TRY(gr_tv_close(out));
    }
done:
    return st;
}
