/* Expressions of a template, the scopes their names live in, and calls of functions and macros. */
#include "text/template_run.h"

enum { DEPTH_MAX = 1000 };           /* of nodes being evaluated: nesting, and macros that call one another */

/* ---- scopes ---- */

static bool same(gr_tv a, gr_tv b) { return a.n == b.n && memcmp(a.text, b.text, a.n) == 0; }

/* *out is NULL when there is none. */
static grace_status find_in(gr_tr *r, const gr_tr_scope *s, gr_tv name, gr_tr_variable **out) {
    size_t n = 0, n_bytes = 0;
    gr_tr_variable *v = s->first;
    for (; v; v = v->next, n++) {
        if (v->name.n == name.n) n_bytes += name.n;
        if (same(v->name, name)) break;
    }
    *out = v;
    return gr_tv_spend(&r->heap, n / 8 + n_bytes / 64);
}

grace_status gr_tr_open_scope(gr_tr *r, gr_tr_scope *parent, gr_tr_scope **saved) {
    gr_tr_scope *fresh;
    grace_status st = gr_tv_alloc(&r->heap, 1, sizeof *fresh, &fresh);
    if (st) return st;
    fresh->parent = parent;
    *saved = r->here;
    r->here = fresh;
    return GRACE_OK;
}

grace_status gr_tr_assign(gr_tr *r, gr_tv name, gr_tv value) {
    grace_status st = GRACE_OK;
    gr_tr_variable *v;
    GR_TRY(find_in(r, r->here, name, &v));
    if (!v) {
        GR_TRY(gr_tv_alloc(&r->heap, 1, sizeof *v, &v));
        v->name = name;
        v->next = r->here->first;
        r->here->first = v;
    }
    v->value = value;
done:
    return st;
}

static grace_status look_up(gr_tr *r, gr_tv name, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tr_variable *v = NULL;
    for (const gr_tr_scope *s = r->here; s && !v; s = s->parent) GR_TRY(find_in(r, s, name, &v));
    if (v) return *out = v->value, GRACE_OK;
    const gr_tv_builtin *builtin = gr_tv_global(name.text, name.n);
    if (!builtin) return gr_tv_undefined(&r->heap, out, "'%.*s' is undefined", (int)name.n, name.text);
    *out = (gr_tv){.kind = GR_TV_BUILTIN, .builtin = builtin};
done:
    return st;
}

/* ---- expressions ---- */

size_t gr_tr_count(const gr_tn *list) {
    size_t n = 0;
    for (; list; list = list->next) n++;
    return n;
}

static grace_status eval_elements(gr_tr *r, const gr_tn *node, gr_tv *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tv_new_list(&r->heap, node->kind == GR_TN_LIST ? GR_TV_LIST : GR_TV_TUPLE, gr_tr_count(node->a), out));
    gr_tv *item = out->list->items;
    for (const gr_tn *child = node->a; child; child = child->next) GR_TRY(gr_tr_eval(r, child, item++));
    GR_TRY(gr_tv_close(out));
done:
    return st;
}

static grace_status eval_dict(gr_tr *r, const gr_tn *node, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv key, value;
    GR_TRY(gr_tv_new_dict(&r->heap, GR_TV_DICT, gr_tr_count(node->a), out));
    for (const gr_tn *pair = node->a; pair; pair = pair->next) {
        GR_TRY(gr_tr_eval(r, pair->a, &key));
        GR_TRY(gr_tr_eval(r, pair->b, &value));
        GR_TRY(gr_tv_set(&r->heap, out->dict, key, value));
    }
    GR_TRY(gr_tv_close(out));
done:
    return st;
}

static grace_status eval_part(gr_tr *r, const gr_tn *node, gr_tv *out) {
    if (node) return gr_tr_eval(r, node, out);
    *out = (gr_tv){0};
    return GRACE_OK;
}

static grace_status eval_slice(gr_tr *r, const gr_tn *node, gr_tv value, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv start, stop, step;
    GR_TRY(eval_part(r, node->b, &start));
    GR_TRY(eval_part(r, node->c, &stop));
    GR_TRY(eval_part(r, node->d, &step));
    GR_TRY(gr_tv_slice(&r->heap, value, start, stop, step, out));
done:
    return st;
}

static grace_status eval_compare(gr_tr *r, const gr_tn *node, gr_tv left, gr_tv *out) {
    grace_status st = GRACE_OK;
    bool truth = true;
    for (const gr_tn *operand = node->b; operand && truth; operand = operand->next) {
        gr_tv right;
        GR_TRY(gr_tr_eval(r, operand->a, &right));
        GR_TRY(gr_tv_compare(&r->heap, operand->op, left, right, &truth));
        left = right;
    }
    *out = gr_tv_bool(truth);
done:
    return st;
}

/* ---- calls ---- */

grace_status gr_tr_eval_arguments(gr_tr *r, const gr_tn *node, gr_tv_args *args) {
    grace_status st = GRACE_OK;
    gr_tv *items, *names, *named;
    size_t n = gr_tr_count(node);
    *args = (gr_tv_args){0};
    if (n == 0) return st;
    GR_TRY(gr_tv_alloc(&r->heap, 3 * n, sizeof *items, &items));
    names = items + n;
    named = names + n;
    *args = (gr_tv_args){.items = items, .names = names, .named = named};
    for (; node; node = node->next) {
        bool keyword = node->kind == GR_TN_KEYWORD;
        GR_TRY(gr_tr_eval(r, keyword ? node->a : node, keyword ? &named[args->n_named] : &items[args->n]));
        if (keyword) names[args->n_named++] = node->value;
        else args->n++;
    }
done:
    return st;
}

static const gr_tv *named_argument(const gr_tv_args *args, gr_tv name) {
    for (size_t i = 0; i < args->n_named; i++)
        if (same(args->names[i], name)) return &args->named[i];
    return NULL;
}

/* Parameters by position, by name, by default; what is left over is an error, what is missing undefined. */
static grace_status bind_parameters(gr_tr *r, const gr_tv_macro *macro, const gr_tv_args *args) {
    grace_status st = GRACE_OK;
    size_t position = 0, n_used = 0;
    for (const gr_tn *p = macro->node->b; p; p = p->next, position++) {
        const gr_tv *named = named_argument(args, p->value);
        gr_tv value;
        GR_TRY(gr_tv_spend(&r->heap, args->n_named / 8));
        if (position < args->n) value = args->items[position];
        else if (named) value = *named, n_used++;
        else if (p->a) GR_TRY(gr_tr_eval(r, p->a, &value));
        else GR_TRY(gr_tv_undefined(&r->heap, &value, "parameter '%.*s' was not provided", (int)p->value.n, p->value.text));
        GR_TRY(gr_tr_assign(r, p->value, value));
    }
    gr_tv name = macro->node->value;
    GR_CHECK(args->n <= position, GRACE_ERR_FORMAT, "macro '%.*s' takes %zu arguments, found %zu", (int)name.n, name.text, position, args->n);
    GR_CHECK(n_used == args->n_named, GRACE_ERR_FORMAT, "macro '%.*s' got a named argument it does not take", (int)name.n, name.text);
done:
    return st;
}

grace_status gr_tr_capture(gr_tr *r, const gr_tn *body, gr_tv *out) {
    size_t mark = r->heap.out->n;
    grace_status st = gr_tr_exec_body(r, body);
    return st ? st : gr_tv_take(&r->heap, mark, out);
}

grace_status gr_tr_call_macro(gr_tr *r, const gr_tv_macro *macro, const gr_tv_args *args, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tr_scope *saved = NULL;
    GR_TRY(gr_tr_open_scope(r, macro->where, &saved));
    if (macro->caller.kind) GR_TRY(gr_tr_assign(r, gr_tv_word("caller"), macro->caller));
    GR_TRY(bind_parameters(r, macro, args));
    GR_TRY(gr_tr_capture(r, macro->node->body, out));
    r->here = saved;
done:
    return st;
}

static grace_status call(gr_tr *r, gr_tv callee, const gr_tv_args *args, gr_tv *out) {
    gr_tv nothing = {0};
    switch (callee.kind) {
    case GR_TV_MACRO: return gr_tr_call_macro(r, callee.macro, args, out);
    case GR_TV_BUILTIN: return gr_tv_run(&r->heap, callee.builtin, nothing, args, out);
    case GR_TV_METHOD: return gr_tv_run(&r->heap, callee.method->builtin, callee.method->self, args, out);
    case GR_TV_UNDEFINED: return gr_tv_check_defined(callee);
    default: return gr_fail(GRACE_ERR_FORMAT, "a %s cannot be called", gr_tv_kind_name(callee));
    }
}

static grace_status eval_call(gr_tr *r, const gr_tn *node, gr_tv callee, gr_tv *out) {
    gr_tv_args args;
    grace_status st = gr_tr_eval_arguments(r, node->b, &args);
    return st ? st : call(r, callee, &args, out);
}

static grace_status eval_builtin(gr_tr *r, const gr_tn *node, gr_tv self, gr_tv *out) {
    gr_tv_args args;
    grace_status st = gr_tr_eval_arguments(r, node->b, &args);
    return st ? st : gr_tv_run(&r->heap, node->builtin, self, &args, out);
}

/* Nodes that first need the value of their child a. */
static grace_status eval_with(gr_tr *r, const gr_tn *node, gr_tv a, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv b;
    switch (node->kind) {
    case GR_TN_ATTRIBUTE: return gr_tv_attribute(&r->heap, a, node->value, out);
    case GR_TN_SLICE: return eval_slice(r, node, a, out);
    case GR_TN_CALL: return eval_call(r, node, a, out);
    case GR_TN_FILTER:
    case GR_TN_TEST: return eval_builtin(r, node, a, out);
    case GR_TN_NOT: *out = gr_tv_bool(!gr_tv_truth(a)); break;
    case GR_TN_NEGATE: return gr_tv_negate(a, out);
    case GR_TN_POSITIVE: return gr_tv_operate(&r->heap, GR_OP_ADD, gr_tv_int(0), a, out);
    case GR_TN_AND:
    case GR_TN_OR:
        if (gr_tv_truth(a) == (node->kind == GR_TN_AND)) return gr_tr_eval(r, node->b, out);
        *out = a;
        break;
    case GR_TN_COMPARE: return eval_compare(r, node, a, out);
    default:
        GR_TRY(gr_tr_eval(r, node->b, &b));
        GR_TRY(node->kind == GR_TN_ITEM ? gr_tv_item(&r->heap, a, b, out) : gr_tv_operate(&r->heap, node->op, a, b, out));
    }
done:
    return st;
}

static grace_status eval_ternary(gr_tr *r, const gr_tn *node, gr_tv condition, gr_tv *out) {
    if (gr_tv_truth(condition)) return gr_tr_eval(r, node->b, out);
    if (node->c) return gr_tr_eval(r, node->c, out);
    return gr_tv_undefined(&r->heap, out, "the inline if has no else and its condition is false");
}

static grace_status eval_node(gr_tr *r, const gr_tn *node, gr_tv *out) {
    gr_tv a;
    switch (node->kind) {
    case GR_TN_CONST: *out = node->value; return GRACE_OK;
    case GR_TN_NAME: return look_up(r, node->value, out);
    case GR_TN_CAPTURED: *out = r->captured; return GRACE_OK;
    case GR_TN_LIST:
    case GR_TN_TUPLE: return eval_elements(r, node, out);
    case GR_TN_DICT: return eval_dict(r, node, out);
    default: break;
    }
    grace_status st = gr_tr_eval(r, node->a, &a);
    if (st) return st;
    return node->kind == GR_TN_TERNARY ? eval_ternary(r, node, a, out) : eval_with(r, node, a, out);
}

grace_status gr_tr_enter(gr_tr *r) {
    grace_status st = gr_tv_spend(&r->heap, 1);
    if (!st && ++r->depth > DEPTH_MAX) st = gr_fail(GRACE_ERR_LIMIT, "macros or expressions are nested deeper than %d levels", DEPTH_MAX);
    return st;
}

grace_status gr_tr_leave(gr_tr *r, const gr_tn *node, grace_status st) {
    r->depth--;
    if (st && !r->located) gr_fail_in(st, "line %d", node->line);
    r->located |= st != GRACE_OK;
    return st;
}

grace_status gr_tr_eval(gr_tr *r, const gr_tn *node, gr_tv *out) {
    grace_status st = gr_tr_enter(r);
    if (!st) st = eval_node(r, node, out);
    return gr_tr_leave(r, node, st);
}
