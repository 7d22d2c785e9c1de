/* The interpreter: a tree and variables to text. */
#include "text/template_tree.h"

enum { DEPTH_MAX = 1000 };           /* of nodes being evaluated: nesting, and macros that call one another */

typedef struct variable { gr_tv name, value; struct variable *next; } variable;
typedef struct scope { struct scope *parent; variable *first; } scope;
typedef struct gr_tv_macro { const gr_tn *node; scope *where; gr_tv caller; } gr_tv_macro;
typedef enum flow { GO_ON, BREAK, CONTINUE } flow;

typedef struct run {
    gr_tv_heap heap;
    scope *here;
    gr_tv captured;                 /* what a filter chain begins with */
    flow flow;
    int depth;
    bool located;                   /* the message names its line already */
} run;

static grace_status eval(run *r, const gr_tn *node, gr_tv *out);
static grace_status exec_body(run *r, const gr_tn *body);

/* ---- scopes ---- */

static bool same(gr_tv a, gr_tv b) { return a.n == b.n && memcmp(a.text, b.text, a.n) == 0; }

static variable *find_in(const scope *s, gr_tv name) {
    for (variable *v = s->first; v; v = v->next)
        if (same(v->name, name)) return v;
    return NULL;
}

static grace_status open_scope(run *r, scope *parent, scope **saved) {
    scope *fresh;
    grace_status st = gr_tv_alloc(&r->heap, 1, sizeof *fresh, &fresh);
    if (st) return st;
    fresh->parent = parent;
    *saved = r->here;
    r->here = fresh;
    return GRACE_OK;
}

static grace_status assign(run *r, gr_tv name, gr_tv value) {
    grace_status st = GRACE_OK;
    variable *v = find_in(r->here, name);
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

static grace_status look_up(run *r, gr_tv name, gr_tv *out) {
    for (const scope *s = r->here; s; s = s->parent) {
        const variable *v = find_in(s, name);
        if (!v) continue;
        *out = v->value;
        return GRACE_OK;
    }
    const gr_tv_builtin *builtin = gr_tv_global(name.text, name.n);
    if (!builtin) return gr_tv_undefined(&r->heap, out, "'%.*s' is undefined", (int)name.n, name.text);
    *out = (gr_tv){.kind = GR_TV_BUILTIN, .builtin = builtin};
    return GRACE_OK;
}

/* ---- expressions ---- */

static size_t count(const gr_tn *list) {
    size_t n = 0;
    for (; list; list = list->next) n++;
    return n;
}

static grace_status eval_elements(run *r, const gr_tn *node, gr_tv *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tv_new_list(&r->heap, node->kind == GR_TN_LIST ? GR_TV_LIST : GR_TV_TUPLE, count(node->a), out));
    gr_tv *item = out->list->items;
    for (const gr_tn *child = node->a; child; child = child->next) GR_TRY(eval(r, child, item++));
    GR_TRY(gr_tv_close(out));
done:
    return st;
}

static grace_status eval_dict(run *r, const gr_tn *node, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv key, value;
    GR_TRY(gr_tv_new_dict(&r->heap, GR_TV_DICT, count(node->a), out));
    for (const gr_tn *pair = node->a; pair; pair = pair->next) {
        GR_TRY(eval(r, pair->a, &key));
        GR_TRY(eval(r, pair->b, &value));
        GR_TRY(gr_tv_set(&r->heap, out->dict, key, value));
    }
    GR_TRY(gr_tv_close(out));
done:
    return st;
}

static grace_status eval_part(run *r, const gr_tn *node, gr_tv *out) {
    if (node) return eval(r, node, out);
    *out = (gr_tv){0};
    return GRACE_OK;
}

static grace_status eval_slice(run *r, const gr_tn *node, gr_tv value, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv start, stop, step;
    GR_TRY(eval_part(r, node->b, &start));
    GR_TRY(eval_part(r, node->c, &stop));
    GR_TRY(eval_part(r, node->d, &step));
    GR_TRY(gr_tv_slice(&r->heap, value, start, stop, step, out));
done:
    return st;
}

static grace_status eval_compare(run *r, const gr_tn *node, gr_tv left, gr_tv *out) {
    grace_status st = GRACE_OK;
    bool truth = true;
    for (const gr_tn *operand = node->b; operand && truth; operand = operand->next) {
        gr_tv right;
        GR_TRY(eval(r, operand->a, &right));
        GR_TRY(gr_tv_compare(&r->heap, operand->op, left, right, &truth));
        left = right;
    }
    *out = gr_tv_bool(truth);
done:
    return st;
}

/* ---- calls ---- */

static grace_status eval_arguments(run *r, const gr_tn *node, gr_tv_args *args) {
    grace_status st = GRACE_OK;
    gr_tv *items, *names, *named;
    size_t n = count(node);
    *args = (gr_tv_args){0};
    if (n == 0) return st;
    GR_TRY(gr_tv_alloc(&r->heap, 3 * n, sizeof *items, &items));
    names = items + n;
    named = names + n;
    *args = (gr_tv_args){.items = items, .names = names, .named = named};
    for (; node; node = node->next) {
        bool keyword = node->kind == GR_TN_KEYWORD;
        GR_TRY(eval(r, keyword ? node->a : node, keyword ? &named[args->n_named] : &items[args->n]));
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
static grace_status bind_parameters(run *r, const gr_tv_macro *macro, const gr_tv_args *args) {
    grace_status st = GRACE_OK;
    size_t position = 0, n_used = 0;
    for (const gr_tn *p = macro->node->b; p; p = p->next, position++) {
        const gr_tv *named = named_argument(args, p->value);
        gr_tv value;
        if (position < args->n) value = args->items[position];
        else if (named) value = *named, n_used++;
        else if (p->a) GR_TRY(eval(r, p->a, &value));
        else GR_TRY(gr_tv_undefined(&r->heap, &value, "parameter '%.*s' was not provided", (int)p->value.n, p->value.text));
        GR_TRY(assign(r, p->value, value));
    }
    gr_tv name = macro->node->value;
    GR_CHECK(args->n <= position, GRACE_ERR_FORMAT, "macro '%.*s' takes %zu arguments, found %zu", (int)name.n, name.text, position, args->n);
    GR_CHECK(n_used == args->n_named, GRACE_ERR_FORMAT, "macro '%.*s' got a named argument it does not take", (int)name.n, name.text);
done:
    return st;
}

/* What a body writes, as a string. */
static grace_status capture(run *r, const gr_tn *body, gr_tv *out) {
    size_t mark = r->heap.out->n;
    grace_status st = exec_body(r, body);
    return st ? st : gr_tv_take(&r->heap, mark, out);
}

static grace_status call_macro(run *r, const gr_tv_macro *macro, const gr_tv_args *args, gr_tv *out) {
    grace_status st = GRACE_OK;
    scope *saved = NULL;
    GR_TRY(open_scope(r, macro->where, &saved));
    if (macro->caller.kind) GR_TRY(assign(r, gr_tv_word("caller"), macro->caller));
    GR_TRY(bind_parameters(r, macro, args));
    GR_TRY(capture(r, macro->node->body, out));
    r->here = saved;
done:
    return st;
}

static grace_status call(run *r, gr_tv callee, const gr_tv_args *args, gr_tv *out) {
    gr_tv nothing = {0};
    switch (callee.kind) {
    case GR_TV_MACRO: return call_macro(r, callee.macro, args, out);
    case GR_TV_BUILTIN: return gr_tv_run(&r->heap, callee.builtin, nothing, args, out);
    case GR_TV_METHOD: return gr_tv_run(&r->heap, callee.method->builtin, callee.method->self, args, out);
    case GR_TV_UNDEFINED: return gr_tv_check_defined(callee);
    default: return gr_fail(GRACE_ERR_FORMAT, "a %s cannot be called", gr_tv_kind_name(callee));
    }
}

static grace_status eval_call(run *r, const gr_tn *node, gr_tv callee, gr_tv *out) {
    gr_tv_args args;
    grace_status st = eval_arguments(r, node->b, &args);
    return st ? st : call(r, callee, &args, out);
}

static grace_status eval_builtin(run *r, const gr_tn *node, gr_tv self, gr_tv *out) {
    gr_tv_args args;
    grace_status st = eval_arguments(r, node->b, &args);
    return st ? st : gr_tv_run(&r->heap, node->builtin, self, &args, out);
}

/* Nodes that first need the value of their child a. */
static grace_status eval_with(run *r, const gr_tn *node, gr_tv a, gr_tv *out) {
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
        if (gr_tv_truth(a) == (node->kind == GR_TN_AND)) return eval(r, node->b, out);
        *out = a;
        break;
    case GR_TN_COMPARE: return eval_compare(r, node, a, out);
    default:
        GR_TRY(eval(r, node->b, &b));
        GR_TRY(node->kind == GR_TN_ITEM ? gr_tv_item(&r->heap, a, b, out) : gr_tv_operate(&r->heap, node->op, a, b, out));
    }
done:
    return st;
}

static grace_status eval_ternary(run *r, const gr_tn *node, gr_tv condition, gr_tv *out) {
    if (gr_tv_truth(condition)) return eval(r, node->b, out);
    if (node->c) return eval(r, node->c, out);
    return gr_tv_undefined(&r->heap, out, "the inline if has no else and its condition is false");
}

static grace_status eval_node(run *r, const gr_tn *node, gr_tv *out) {
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
    grace_status st = eval(r, node->a, &a);
    if (st) return st;
    return node->kind == GR_TN_TERNARY ? eval_ternary(r, node, a, out) : eval_with(r, node, a, out);
}

/* Every node pays a step; the innermost that fails puts its line before the message. */
static grace_status enter(run *r) {
    grace_status st = gr_tv_spend(&r->heap, 1);
    if (!st && ++r->depth > DEPTH_MAX) st = gr_fail(GRACE_ERR_LIMIT, "macros or expressions are nested deeper than %d levels", DEPTH_MAX);
    return st;
}

static grace_status leave(run *r, const gr_tn *node, grace_status st) {
    r->depth--;
    if (st && !r->located) gr_fail_in(st, "line %d", node->line);
    r->located |= st != GRACE_OK;
    return st;
}

static grace_status eval(run *r, const gr_tn *node, gr_tv *out) {
    grace_status st = enter(r);
    if (!st) st = eval_node(r, node, out);
    return leave(r, node, st);
}

/* ---- statements ---- */

static grace_status assign_target(run *r, const gr_tn *target, gr_tv value) {
    grace_status st = GRACE_OK;
    const gr_tv_list *items;
    gr_tv space;
    if (target->kind == GR_TN_NAME) return assign(r, target->value, value);
    if (target->kind == GR_TN_ATTRIBUTE) {
        GR_TRY(eval(r, target->a, &space));
        GR_CHECK(space.kind == GR_TV_NAMESPACE, GRACE_ERR_FORMAT, "only attributes of a namespace can be set, not of a %s", gr_tv_kind_name(space));
        return gr_tv_set(&r->heap, space.dict, target->value, value);
    }
    GR_TRY(gr_tv_check_defined(value));
    GR_TRY(gr_tv_iterate(&r->heap, value, &items));
    GR_CHECK(items->n == count(target->a), GRACE_ERR_FORMAT, "%zu names for %zu values", count(target->a), items->n);
    const gr_tv *item = items->items;
    for (const gr_tn *name = target->a; name; name = name->next) GR_TRY(assign(r, name->value, *item++));
done:
    return st;
}

static grace_status run_chain(run *r, const gr_tn *chain, gr_tv text, gr_tv *out) {
    *out = text;
    if (!chain) return GRACE_OK;
    gr_tv saved = r->captured;
    r->captured = text;
    grace_status st = eval(r, chain, out);
    r->captured = saved;
    return st;
}

/* A body in a scope of its own: what it sets ends with it. */
static grace_status capture_scoped(run *r, const gr_tn *body, gr_tv *out) {
    grace_status st = GRACE_OK;
    scope *saved;
    GR_TRY(open_scope(r, r->here, &saved));
    GR_TRY(capture(r, body, out));
    r->here = saved;
done:
    return st;
}

static grace_status exec_set_block(run *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv text, value;
    GR_TRY(capture_scoped(r, node->body, &text));
    GR_TRY(run_chain(r, node->b, text, &value));
    GR_TRY(assign_target(r, node->a, value));
done:
    return st;
}

static grace_status exec_filter_block(run *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv text, value;
    GR_TRY(capture_scoped(r, node->body, &text));
    GR_TRY(run_chain(r, node->b, text, &value));
    GR_TRY(gr_tv_put_str(&r->heap, value));
done:
    return st;
}

/* The items the loop's own condition lets through; it sees the target, not the loop. */
static grace_status filter_items(run *r, const gr_tn *node, const gr_tv_list **items) {
    grace_status st = GRACE_OK;
    gr_tv kept, truth;
    size_t n = 0;
    if (!node->c) return st;
    GR_TRY(gr_tv_new_list(&r->heap, GR_TV_LIST, (*items)->n, &kept));
    for (size_t i = 0; i < (*items)->n; i++) {
        scope *saved;
        GR_TRY(open_scope(r, r->here, &saved));
        GR_TRY(assign_target(r, node->a, (*items)->items[i]));
        GR_TRY(eval(r, node->c, &truth));
        r->here = saved;
        if (gr_tv_truth(truth)) kept.list->items[n++] = (*items)->items[i];
    }
    kept.list->n = n;
    *items = kept.list;
done:
    return st;
}

static grace_status exec_turn(run *r, const gr_tn *node, gr_tv loop) {
    grace_status st = GRACE_OK;
    scope *saved;
    GR_TRY(gr_tv_spend(&r->heap, 1));
    GR_TRY(open_scope(r, r->here, &saved));
    GR_TRY(assign(r, gr_tv_word("loop"), loop));
    GR_TRY(assign_target(r, node->a, loop.loop->items->items[loop.loop->index]));
    GR_TRY(exec_body(r, node->body));
    r->here = saved;
done:
    return st;
}

static grace_status exec_for(run *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv iterable, loop = {.kind = GR_TV_LOOP};
    const gr_tv_list *items;
    GR_TRY(eval(r, node->b, &iterable));
    GR_TRY(gr_tv_iterate(&r->heap, iterable, &items));
    GR_TRY(filter_items(r, node, &items));
    GR_TRY(gr_tv_alloc(&r->heap, 1, sizeof *loop.loop, &loop.loop));
    loop.loop->items = items;
    for (size_t i = 0; i < items->n && r->flow != BREAK; i++) {
        r->flow = GO_ON;
        loop.loop->index = i;
        GR_TRY(exec_turn(r, node, loop));
    }
    r->flow = GO_ON;
    if (items->n == 0) GR_TRY(exec_body(r, node->d));
done:
    return st;
}

static grace_status new_macro(run *r, const gr_tn *node, gr_tv *out) {
    gr_tv_macro *macro;
    grace_status st = gr_tv_alloc(&r->heap, 1, sizeof *macro, &macro);
    if (st) return st;
    *macro = (gr_tv_macro){.node = node, .where = r->here};
    *out = (gr_tv){.kind = GR_TV_MACRO, .macro = macro};
    return GRACE_OK;
}

static grace_status exec_macro(run *r, const gr_tn *node) {
    gr_tv macro;
    grace_status st = new_macro(r, node, &macro);
    return st ? st : assign(r, node->value, macro);
}

/* {% call f(x) %}body{% endcall %}: f sees the body as the macro caller(). */
static grace_status exec_call_block(run *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv callee, text;
    gr_tv_args args;
    gr_tv_macro with_caller;
    GR_TRY(eval(r, node->a->a, &callee));
    GR_CHECK(callee.kind == GR_TV_MACRO, GRACE_ERR_FORMAT, "a call block needs a macro, found a %s", gr_tv_kind_name(callee));
    GR_TRY(eval_arguments(r, node->a->b, &args));
    with_caller = *callee.macro;
    GR_TRY(new_macro(r, node, &with_caller.caller));
    GR_TRY(call_macro(r, &with_caller, &args, &text));
    GR_TRY(gr_tv_put_str(&r->heap, text));
done:
    return st;
}

static grace_status exec_scope(run *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv value;
    scope *outer, *saved;
    GR_TRY(open_scope(r, r->here, &outer));
    for (const gr_tn *set = node->b; set; set = set->next) {
        saved = r->here;
        r->here = outer;            /* the values of a with tag do not see one another */
        GR_TRY(eval(r, set->b, &value));
        r->here = saved;
        GR_TRY(assign_target(r, set->a, value));
    }
    GR_TRY(exec_body(r, node->body));
    r->here = outer;
done:
    return st;
}

static grace_status exec_node(run *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv value;
    switch (node->kind) {
    case GR_TN_DATA: return gr_tv_put(&r->heap, node->value.text, node->value.n);
    case GR_TN_PRINT:
        GR_TRY(eval(r, node->a, &value));
        return gr_tv_put_str(&r->heap, value);
    case GR_TN_IF:
        GR_TRY(eval(r, node->a, &value));
        return exec_body(r, gr_tv_truth(value) ? node->b : node->c);
    case GR_TN_SET:
        GR_TRY(eval(r, node->b, &value));
        return assign_target(r, node->a, value);
    case GR_TN_FOR: return exec_for(r, node);
    case GR_TN_SET_BLOCK: return exec_set_block(r, node);
    case GR_TN_MACRO: return exec_macro(r, node);
    case GR_TN_CALL_BLOCK: return exec_call_block(r, node);
    case GR_TN_FILTER_BLOCK: return exec_filter_block(r, node);
    case GR_TN_SCOPE: return exec_scope(r, node);
    default: r->flow = node->kind == GR_TN_BREAK ? BREAK : CONTINUE;
    }
done:
    return st;
}

/* Until the end, or until a break or continue that the loop around it will see. */
static grace_status exec_body(run *r, const gr_tn *body) {
    grace_status st = GRACE_OK;
    for (const gr_tn *node = body; node && !st && r->flow == GO_ON; node = node->next) {
        st = enter(r);
        if (!st) st = exec_node(r, node);
        st = leave(r, node, st);
    }
    return st;
}

static grace_status assign_variables(run *r, const gr_json *variables) {
    grace_status st = GRACE_OK;
    gr_tv value;
    for (const gr_json_member *m = gr_json_first(variables); m; m = gr_json_next(variables, m)) {
        GR_TRY(gr_tv_from_json(&r->heap, gr_json_value(m), &value));
        GR_TRY(assign(r, gr_tv_word(gr_json_key(m)), value));
    }
done:
    return st;
}

grace_status gr_template_render(const gr_template *tmpl, const gr_json *variables, const gr_template_limits *limits, time_t now, gr_buf *out) {
    grace_status st = GRACE_OK;
    size_t before = out->n;
    scope *none;
    run r = {.heap = {.arena = gr_arena_new(), .limits = *limits, .out = out, .out_first = before, .now = now}};
    GR_CHECK(r.heap.arena, GRACE_ERR_MEMORY, "no memory for a template");
    GR_TRY(gr_buf_append(out, NULL, 0));            /* text of nothing is a string too */
    GR_TRY(open_scope(&r, NULL, &none));
    GR_TRY(assign_variables(&r, variables));
    GR_TRY(open_scope(&r, r.here, &none));
    GR_TRY(exec_body(&r, tmpl->body));
    out->data[out->n] = 0;
done:
    if (st) gr_fail_in(st, "%s", tmpl->where);
    if (st) out->n = before;
    gr_arena_free(r.heap.arena);
    return st;
}
