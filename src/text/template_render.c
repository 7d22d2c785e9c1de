/* The interpreter: statements of a template, and a tree and variables to text. */
#include "text/template_run.h"

static grace_status assign_target(gr_tr *r, const gr_tn *target, gr_tv value) {
    grace_status st = GRACE_OK;
    const gr_tv_list *items;
    gr_tv space;
    if (target->kind == GR_TN_NAME) return gr_tr_assign(r, target->value, value);
    if (target->kind == GR_TN_ATTRIBUTE) {
        GR_TRY(gr_tr_eval(r, target->a, &space));
        GR_CHECK(space.kind == GR_TV_NAMESPACE, GRACE_ERR_FORMAT, "only attributes of a namespace can be set, not of a %s", gr_tv_kind_name(space));
        return gr_tv_set(&r->heap, space.dict, target->value, value);
    }
    GR_TRY(gr_tv_check_defined(value));
    GR_TRY(gr_tv_iterate(&r->heap, value, &items));
    GR_CHECK(items->n == gr_tr_count(target->a), GRACE_ERR_FORMAT, "%zu names for %zu values", gr_tr_count(target->a), items->n);
    const gr_tv *item = items->items;
    for (const gr_tn *name = target->a; name; name = name->next) GR_TRY(gr_tr_assign(r, name->value, *item++));
done:
    return st;
}

static grace_status run_chain(gr_tr *r, const gr_tn *chain, gr_tv text, gr_tv *out) {
    *out = text;
    if (!chain) return GRACE_OK;
    gr_tv saved = r->captured;
    r->captured = text;
    grace_status st = gr_tr_eval(r, chain, out);
    r->captured = saved;
    return st;
}

/* A body in a scope of its own: what it sets ends with it. */
static grace_status capture_scoped(gr_tr *r, const gr_tn *body, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tr_scope *saved;
    GR_TRY(gr_tr_open_scope(r, r->here, &saved));
    GR_TRY(gr_tr_capture(r, body, out));
    r->here = saved;
done:
    return st;
}

static grace_status exec_set_block(gr_tr *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv text, value;
    GR_TRY(capture_scoped(r, node->body, &text));
    GR_TRY(run_chain(r, node->b, text, &value));
    GR_TRY(assign_target(r, node->a, value));
done:
    return st;
}

static grace_status exec_filter_block(gr_tr *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv text, value;
    GR_TRY(capture_scoped(r, node->body, &text));
    GR_TRY(run_chain(r, node->b, text, &value));
    GR_TRY(gr_tv_put_str(&r->heap, value));
done:
    return st;
}

/* The items the loop's own condition lets through; it sees the target, not the loop. */
static grace_status filter_items(gr_tr *r, const gr_tn *node, const gr_tv_list **items) {
    grace_status st = GRACE_OK;
    gr_tv kept, truth;
    size_t n = 0;
    if (!node->c) return st;
    GR_TRY(gr_tv_new_list(&r->heap, GR_TV_LIST, (*items)->n, &kept));
    for (size_t i = 0; i < (*items)->n; i++) {
        gr_tr_scope *saved;
        GR_TRY(gr_tr_open_scope(r, r->here, &saved));
        GR_TRY(assign_target(r, node->a, (*items)->items[i]));
        GR_TRY(gr_tr_eval(r, node->c, &truth));
        r->here = saved;
        if (gr_tv_truth(truth)) kept.list->items[n++] = (*items)->items[i];
    }
    kept.list->n = n;
    *items = kept.list;
done:
    return st;
}

static grace_status exec_turn(gr_tr *r, const gr_tn *node, gr_tv loop) {
    grace_status st = GRACE_OK;
    gr_tr_scope *saved;
    GR_TRY(gr_tv_spend(&r->heap, 1));
    GR_TRY(gr_tr_open_scope(r, r->here, &saved));
    GR_TRY(gr_tr_assign(r, gr_tv_word("loop"), loop));
    GR_TRY(assign_target(r, node->a, loop.loop->items->items[loop.loop->index]));
    GR_TRY(gr_tr_exec_body(r, node->body));
    r->here = saved;
done:
    return st;
}

static grace_status exec_for(gr_tr *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv iterable, loop = {.kind = GR_TV_LOOP};
    const gr_tv_list *items;
    GR_TRY(gr_tr_eval(r, node->b, &iterable));
    GR_TRY(gr_tv_iterate(&r->heap, iterable, &items));
    GR_TRY(filter_items(r, node, &items));
    GR_TRY(gr_tv_alloc(&r->heap, 1, sizeof *loop.loop, &loop.loop));
    loop.loop->items = items;
    for (size_t i = 0; i < items->n && r->flow != GR_TR_BREAK; i++) {
        r->flow = GR_TR_GO_ON;
        loop.loop->index = i;
        GR_TRY(exec_turn(r, node, loop));
    }
    r->flow = GR_TR_GO_ON;
    if (items->n == 0) GR_TRY(gr_tr_exec_body(r, node->d));
done:
    return st;
}

static grace_status new_macro(gr_tr *r, const gr_tn *node, gr_tv *out) {
    gr_tv_macro *macro;
    grace_status st = gr_tv_alloc(&r->heap, 1, sizeof *macro, &macro);
    if (st) return st;
    *macro = (gr_tv_macro){.node = node, .where = r->here};
    *out = (gr_tv){.kind = GR_TV_MACRO, .macro = macro};
    return GRACE_OK;
}

static grace_status exec_macro(gr_tr *r, const gr_tn *node) {
    gr_tv macro;
    grace_status st = new_macro(r, node, &macro);
    return st ? st : gr_tr_assign(r, node->value, macro);
}

/* {% call f(x) %}body{% endcall %}: f sees the body as the macro caller(). */
static grace_status exec_call_block(gr_tr *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv callee, text;
    gr_tv_args args;
    gr_tv_macro with_caller;
    GR_TRY(gr_tr_eval(r, node->a->a, &callee));
    GR_CHECK(callee.kind == GR_TV_MACRO, GRACE_ERR_FORMAT, "a call block needs a macro, found a %s", gr_tv_kind_name(callee));
    GR_TRY(gr_tr_eval_arguments(r, node->a->b, &args));
    with_caller = *callee.macro;
    GR_TRY(new_macro(r, node, &with_caller.caller));
    GR_TRY(gr_tr_call_macro(r, &with_caller, &args, &text));
    GR_TRY(gr_tv_put_str(&r->heap, text));
done:
    return st;
}

static grace_status exec_scope(gr_tr *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv value;
    gr_tr_scope *outer, *saved;
    GR_TRY(gr_tr_open_scope(r, r->here, &outer));
    for (const gr_tn *set = node->b; set; set = set->next) {
        saved = r->here;
        r->here = outer;            /* the values of a with tag do not see one another */
        GR_TRY(gr_tr_eval(r, set->b, &value));
        r->here = saved;
        GR_TRY(assign_target(r, set->a, value));
    }
    GR_TRY(gr_tr_exec_body(r, node->body));
    r->here = outer;
done:
    return st;
}

static grace_status exec_node(gr_tr *r, const gr_tn *node) {
    grace_status st = GRACE_OK;
    gr_tv value;
    switch (node->kind) {
    case GR_TN_DATA: return gr_tv_put(&r->heap, node->value.text, node->value.n);
    case GR_TN_PRINT:
        GR_TRY(gr_tr_eval(r, node->a, &value));
        return gr_tv_put_str(&r->heap, value);
    case GR_TN_IF:
        GR_TRY(gr_tr_eval(r, node->a, &value));
        return gr_tr_exec_body(r, gr_tv_truth(value) ? node->b : node->c);
    case GR_TN_SET:
        GR_TRY(gr_tr_eval(r, node->b, &value));
        return assign_target(r, node->a, value);
    case GR_TN_FOR: return exec_for(r, node);
    case GR_TN_SET_BLOCK: return exec_set_block(r, node);
    case GR_TN_MACRO: return exec_macro(r, node);
    case GR_TN_CALL_BLOCK: return exec_call_block(r, node);
    case GR_TN_FILTER_BLOCK: return exec_filter_block(r, node);
    case GR_TN_SCOPE: return exec_scope(r, node);
    default: r->flow = node->kind == GR_TN_BREAK ? GR_TR_BREAK : GR_TR_CONTINUE;
    }
done:
    return st;
}

grace_status gr_tr_exec_body(gr_tr *r, const gr_tn *body) {
    grace_status st = GRACE_OK;
    for (const gr_tn *node = body; node && !st && r->flow == GR_TR_GO_ON; node = node->next) {
        st = gr_tr_enter(r);
        if (!st) st = exec_node(r, node);
        st = gr_tr_leave(r, node, st);
    }
    return st;
}

static grace_status assign_variables(gr_tr *r, const gr_json *variables) {
    grace_status st = GRACE_OK;
    gr_tv value;
    for (const gr_json_member *m = gr_json_first(variables); m; m = gr_json_next(variables, m)) {
        GR_TRY(gr_tv_from_json(&r->heap, gr_json_value(m), &value));
        GR_TRY(gr_tr_assign(r, gr_tv_word(gr_json_key(m)), value));
    }
done:
    return st;
}

grace_status gr_template_render(const gr_template *tmpl, const gr_json *variables, const gr_template_limits *limits, time_t now, gr_buf *out) {
    grace_status st = GRACE_OK;
    size_t before = out->n;
    gr_tr_scope *none;
    gr_tr r = {.heap = {.arena = gr_arena_new(), .limits = *limits, .out = out, .out_first = before, .now = now}};
    GR_CHECK(r.heap.arena, GRACE_ERR_MEMORY, "no memory for a template");
    GR_TRY(gr_buf_append(out, NULL, 0));            /* text of nothing is a string too */
    GR_TRY(gr_tr_open_scope(&r, NULL, &none));
    GR_TRY(assign_variables(&r, variables));
    GR_TRY(gr_tr_open_scope(&r, r.here, &none));
    GR_TRY(gr_tr_exec_body(&r, tmpl->body));
    out->data[out->n] = 0;
done:
    if (st) gr_fail_in(st, "%s", tmpl->where);
    if (st) out->n = before;
    gr_arena_free(r.heap.arena);
    return st;
}
