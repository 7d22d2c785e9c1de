/* Operators with Python's meaning. Integers have 64 bits; leaving them is an error, not a wrong number. */
#include <math.h>

#include "text/template_tree.h"

static const char *const op_names[] = {"+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};

static grace_status no_meaning(gr_op op, gr_tv a, gr_tv b) {
    return gr_fail(GRACE_ERR_FORMAT, "'%s' has no meaning between a %s and a %s", op_names[op], gr_tv_kind_name(a), gr_tv_kind_name(b));
}

/* ---- numbers ---- */

static int64_t floor_div(int64_t a, int64_t b) { return a / b - ((a % b != 0) && ((a < 0) != (b < 0))); }

static bool power_overflows(int64_t base, int64_t exponent, int64_t *out) {
    *out = 1;
    if (base == 0 || base == 1 || base == -1) exponent = exponent > 2 ? 2 + exponent % 2 : exponent;
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(*out, base, out)) return true;
    return false;
}

static grace_status operate_whole(gr_op op, int64_t a, int64_t b, gr_tv *out) {
    int64_t result = 0;
    bool over = false;
    switch (op) {
    case GR_OP_ADD: over = __builtin_add_overflow(a, b, &result); break;
    case GR_OP_SUB: over = __builtin_sub_overflow(a, b, &result); break;
    case GR_OP_MUL: over = __builtin_mul_overflow(a, b, &result); break;
    case GR_OP_FLOOR_DIV: over = a == INT64_MIN && b == -1; result = over ? 0 : floor_div(a, b); break;
    case GR_OP_MOD: result = b == -1 ? 0 : a - b * floor_div(a, b); break;
    default: over = power_overflows(a, b, &result); break;
    }
    if (over) return gr_fail(GRACE_ERR_LIMIT, "an integer outside 64 bits");
    *out = gr_tv_int(result);
    return GRACE_OK;
}

static double operate_real(gr_op op, double a, double b) {
    switch (op) {
    case GR_OP_ADD: return a + b;
    case GR_OP_SUB: return a - b;
    case GR_OP_MUL: return a * b;
    case GR_OP_DIV: return a / b;
    case GR_OP_FLOOR_DIV: return floor(a / b);
    case GR_OP_MOD: return a - b * floor(a / b);
    default: return pow(a, b);
    }
}

static grace_status operate_numbers(gr_op op, gr_tv a, gr_tv b, gr_tv *out) {
    bool whole = gr_tv_is_whole(a) && gr_tv_is_whole(b) && op != GR_OP_DIV && !(op == GR_OP_POW && b.integer < 0);
    bool divides = op == GR_OP_DIV || op == GR_OP_FLOOR_DIV || op == GR_OP_MOD;
    if (divides && gr_tv_as_real(b) == 0) return gr_fail(GRACE_ERR_FORMAT, "division by zero");
    if (whole) return operate_whole(op, a.integer, b.integer, out);
    *out = gr_tv_real(operate_real(op, gr_tv_as_real(a), gr_tv_as_real(b)));
    return GRACE_OK;
}

/* ---- sequences ---- */

static grace_status join(gr_tv_heap *heap, gr_tv a, gr_tv b, gr_tv *out) {
    grace_status st = GRACE_OK;
    size_t mark = heap->out->n;
    if (a.kind == GR_TV_STRING) {
        GR_TRY(gr_tv_put(heap, a.text, a.n));
        GR_TRY(gr_tv_put(heap, b.text, b.n));
        GR_TRY(gr_tv_take(heap, mark, out));
    } else {
        GR_TRY(gr_tv_new_list(heap, a.kind, a.list->n + b.list->n, out));
        if (a.list->n) memcpy(out->list->items, a.list->items, a.list->n * sizeof *a.list->items);
        if (b.list->n) memcpy(out->list->items + a.list->n, b.list->items, b.list->n * sizeof *b.list->items);
        GR_TRY(gr_tv_close(out));
    }
done:
    return st;
}

static grace_status repeat(gr_tv_heap *heap, gr_tv a, int64_t times, gr_tv *out) {
    grace_status st = GRACE_OK;
    size_t mark = heap->out->n;
    if (a.kind == GR_TV_STRING) {
        for (int64_t i = 0; i < times; i++) {
            GR_TRY(gr_tv_spend(heap, 1));
            GR_TRY(gr_tv_put(heap, a.text, a.n));
        }
        GR_TRY(gr_tv_take(heap, mark, out));
    } else {
        size_t n = a.list->n, copies = times > 0 ? (size_t)times : 0;
        GR_CHECK(n == 0 || copies < SIZE_MAX / 8 / n, GRACE_ERR_LIMIT, "a list of %zu x %zu items", copies, n);
        GR_TRY(gr_tv_new_list(heap, a.kind, n * copies, out));
        for (size_t i = 0; i < n * copies; i++) out->list->items[i] = a.list->items[i % n];
        GR_TRY(gr_tv_close(out));
    }
done:
    return st;
}

static bool is_sequence(gr_tv v) { return v.kind == GR_TV_STRING || gr_tv_is_list(v); }

grace_status gr_tv_operate(gr_tv_heap *heap, gr_op op, gr_tv a, gr_tv b, gr_tv *out) {
    grace_status st = GRACE_OK;
    if (op == GR_OP_CONCAT) {
        GR_TRY(gr_tv_str(heap, a, &a));
        GR_TRY(gr_tv_str(heap, b, &b));
        return join(heap, a, b, out);
    }
    GR_TRY(gr_tv_check_defined(a));
    GR_TRY(gr_tv_check_defined(b));
    if (gr_tv_is_number(a) && gr_tv_is_number(b)) return operate_numbers(op, a, b, out);
    if (op == GR_OP_ADD && a.kind == b.kind && is_sequence(a)) return join(heap, a, b, out);
    if (op == GR_OP_MUL && is_sequence(a) && gr_tv_is_whole(b)) return repeat(heap, a, b.integer, out);
    if (op == GR_OP_MUL && is_sequence(b) && gr_tv_is_whole(a)) return repeat(heap, b, a.integer, out);
    st = no_meaning(op, a, b);
done:
    return st;
}

grace_status gr_tv_compare(gr_tv_heap *heap, gr_op op, gr_tv a, gr_tv b, bool *out) {
    grace_status st = GRACE_OK;
    int sign = 0;
    if (op == GR_OP_EQ || op == GR_OP_NE) {
        GR_TRY(gr_tv_equal(heap, a, b, out));
        *out ^= op == GR_OP_NE;
    } else if (op == GR_OP_IN || op == GR_OP_NOT_IN) {
        GR_TRY(gr_tv_contains(heap, b, a, out));
        *out ^= op == GR_OP_NOT_IN;
    } else {
        GR_TRY(gr_tv_order(heap, a, b, &sign));
        *out = op == GR_OP_LT ? sign < 0 : op == GR_OP_LE ? sign <= 0 : op == GR_OP_GT ? sign > 0 : sign >= 0;
    }
done:
    return st;
}

grace_status gr_tv_negate(gr_tv value, gr_tv *out) {
    grace_status st = gr_tv_check_defined(value);
    if (st) return st;
    if (!gr_tv_is_number(value)) return gr_fail(GRACE_ERR_FORMAT, "a %s has no negative", gr_tv_kind_name(value));
    if (value.kind == GR_TV_REAL) *out = gr_tv_real(-value.real);
    else if (value.integer == INT64_MIN) return gr_fail(GRACE_ERR_LIMIT, "an integer outside 64 bits");
    else *out = gr_tv_int(-value.integer);
    return GRACE_OK;
}
