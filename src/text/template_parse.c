/* Tokens to a tree: text and statements. */
#include <stdio.h>

#include "text/template_parser.h"

static grace_status parse_body(gr_tp *ps, const char *const *ends, gr_tn **body);

static grace_status end_tag(gr_tp *ps) { return gr_tp_want_kind(ps, GR_TT_BLOCK_END, "'%}'"); }

/* The body behind a tag, up to {% END %}, which is taken. */
static grace_status parse_until(gr_tp *ps, const char *end, gr_tn **body) {
    grace_status st = GRACE_OK;
    const char *const ends[] = {end, NULL};
    GR_TRY(end_tag(ps));
    GR_TRY(parse_body(ps, ends, body));
    ps->token++;
    GR_TRY(end_tag(ps));
done:
    return st;
}

/* x, or x, y; {% set %} also takes ns.x */
static grace_status parse_target(gr_tp *ps, bool attribute, gr_tn **out) {
    grace_status st = GRACE_OK;
    bool bracketed = gr_tp_skip_op(ps, "(");
    GR_TRY(gr_tp_node(ps, GR_TN_NAME, out));
    GR_TRY(gr_tp_want_name(ps, &(*out)->value));
    if (attribute && gr_tp_skip_op(ps, ".")) {
        GR_TRY(gr_tp_wrap(ps, GR_TN_ATTRIBUTE, out));
        GR_TRY(gr_tp_want_name(ps, &(*out)->value));
    } else if (gr_tp_at_op(ps, ",")) {
        GR_TRY(gr_tp_wrap(ps, GR_TN_TUPLE, out));
        for (gr_tn **next = &(*out)->a->next; gr_tp_skip_op(ps, ","); next = &(*next)->next) {
            if (ps->token->kind != GR_TT_NAME || gr_tp_at_word(ps, "in")) break;
            GR_TRY(gr_tp_node(ps, GR_TN_NAME, next));
            GR_TRY(gr_tp_want_name(ps, &(*next)->value));
        }
    }
    if (bracketed) GR_TRY(gr_tp_want_op(ps, ")"));
done:
    return st;
}

static grace_status parse_if(gr_tp *ps, gr_tn **out) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_IF, out));
    for (gr_tn *node = *out;; node = node->c) {
        GR_TRY(gr_tp_expression(ps, &node->a));
        GR_TRY(end_tag(ps));
        GR_TRY(parse_body(ps, ends, &node->b));
        if (!gr_tp_skip_word(ps, "elif")) {
            if (gr_tp_skip_word(ps, "else")) {
                GR_TRY(end_tag(ps));
                GR_TRY(parse_body(ps, last, &node->c));
            }
            break;
        }
        GR_TRY(gr_tp_node(ps, GR_TN_IF, &node->c));
    }
    ps->token++;
    GR_TRY(end_tag(ps));
done:
    return st;
}

static grace_status parse_for(gr_tp *ps, gr_tn **out) {
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_FOR, out));
    gr_tn *node = *out;
    GR_TRY(parse_target(ps, false, &node->a));
    if (!gr_tp_skip_word(ps, "in")) return gr_tp_expected(ps, "'in'");
    GR_TRY(gr_tp_tuple(ps, false, &node->b));
    if (gr_tp_skip_word(ps, "if")) GR_TRY(gr_tp_expression(ps, &node->c));
    GR_CHECK(!gr_tp_at_word(ps, "recursive"), GRACE_ERR_UNSUPPORTED, "line %d: recursive loops are not supported", node->line);
    GR_TRY(end_tag(ps));
    ps->n_loops++;
    GR_TRY(parse_body(ps, ends, &node->body));
    ps->n_loops--;
    if (gr_tp_skip_word(ps, "else")) {
        GR_TRY(end_tag(ps));
        GR_TRY(parse_body(ps, last, &node->d));
    }
    ps->token++;
    GR_TRY(end_tag(ps));
done:
    return st;
}

/* | upper | replace("a", "b"): filters on a text that is made later */
static grace_status parse_chain(gr_tp *ps, bool first_given, gr_tn **out) {
    grace_status st = GRACE_OK;
    if (!first_given && !gr_tp_at_op(ps, "|")) return st;
    GR_TRY(gr_tp_node(ps, GR_TN_CAPTURED, out));
    if (first_given) GR_TRY(gr_tp_filter(ps, out));
    while (gr_tp_skip_op(ps, "|")) GR_TRY(gr_tp_filter(ps, out));
done:
    return st;
}

static grace_status parse_set(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_SET, out));
    GR_TRY(parse_target(ps, true, &(*out)->a));
    if (gr_tp_skip_op(ps, "=")) {
        GR_TRY(gr_tp_tuple(ps, true, &(*out)->b));
        GR_TRY(end_tag(ps));
    } else {
        (*out)->kind = GR_TN_SET_BLOCK;
        GR_TRY(parse_chain(ps, false, &(*out)->b));
        GR_TRY(parse_until(ps, "endset", &(*out)->body));
    }
done:
    return st;
}

/* (a, b=1): parameters of a macro or a call block */
static grace_status parse_parameters(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_want_op(ps, "("));
    for (; !gr_tp_skip_op(ps, ")"); out = &(*out)->next) {
        GR_TRY(gr_tp_node(ps, GR_TN_KEYWORD, out));
        GR_TRY(gr_tp_want_name(ps, &(*out)->value));
        if (gr_tp_skip_op(ps, "=")) GR_TRY(gr_tp_expression(ps, &(*out)->a));
        if (!gr_tp_at_op(ps, ")")) GR_TRY(gr_tp_want_op(ps, ","));
    }
done:
    return st;
}

/* What leaves a loop does not leave it from inside a macro. */
static grace_status parse_closed_body(gr_tp *ps, const char *end, gr_tn **body) {
    int n_loops = ps->n_loops;
    ps->n_loops = 0;
    grace_status st = parse_until(ps, end, body);
    ps->n_loops = n_loops;
    return st;
}

static grace_status parse_macro(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_MACRO, out));
    GR_TRY(gr_tp_want_name(ps, &(*out)->value));
    GR_TRY(parse_parameters(ps, &(*out)->b));
    GR_TRY(parse_closed_body(ps, "endmacro", &(*out)->body));
done:
    return st;
}

static grace_status parse_call_block(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_CALL_BLOCK, out));
    if (gr_tp_at_op(ps, "(")) GR_TRY(parse_parameters(ps, &(*out)->b));
    GR_TRY(gr_tp_expression(ps, &(*out)->a));
    if ((*out)->a->kind != GR_TN_CALL) return gr_tp_expected(ps, "a call of a macro");
    (*out)->value = gr_tv_word("caller");
    GR_TRY(parse_closed_body(ps, "endcall", &(*out)->body));
done:
    return st;
}

static grace_status parse_filter_block(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_FILTER_BLOCK, out));
    GR_TRY(parse_chain(ps, true, &(*out)->b));
    GR_TRY(parse_closed_body(ps, "endfilter", &(*out)->body));
done:
    return st;
}

static grace_status parse_with(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_SCOPE, out));
    for (gr_tn **set = &(*out)->b; ps->token->kind != GR_TT_BLOCK_END; set = &(*set)->next) {
        GR_TRY(gr_tp_node(ps, GR_TN_SET, set));
        GR_TRY(parse_target(ps, false, &(*set)->a));
        GR_TRY(gr_tp_want_op(ps, "="));
        GR_TRY(gr_tp_expression(ps, &(*set)->b));
        if (ps->token->kind != GR_TT_BLOCK_END) GR_TRY(gr_tp_want_op(ps, ","));
    }
    GR_TRY(parse_until(ps, "endwith", &(*out)->body));
done:
    return st;
}

static grace_status parse_generation(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_SCOPE, out));
    GR_TRY(parse_closed_body(ps, "endgeneration", &(*out)->body));
done:
    return st;
}

static grace_status parse_jump(gr_tp *ps, gr_tn_kind kind, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_CHECK(ps->n_loops > 0, GRACE_ERR_FORMAT, "line %d: outside of a loop there is nothing to leave", ps->token->line);
    GR_TRY(gr_tp_node(ps, kind, out));
    GR_TRY(end_tag(ps));
done:
    return st;
}

static grace_status parse_break(gr_tp *ps, gr_tn **out) { return parse_jump(ps, GR_TN_BREAK, out); }
static grace_status parse_continue(gr_tp *ps, gr_tn **out) { return parse_jump(ps, GR_TN_CONTINUE, out); }

static grace_status parse_statement(gr_tp *ps, gr_tn **out) {
    static const struct { const char *word; grace_status (*parse)(gr_tp *ps, gr_tn **out); } statements[] = {
        {"if", parse_if}, {"for", parse_for}, {"set", parse_set}, {"macro", parse_macro}, {"call", parse_call_block},
        {"filter", parse_filter_block}, {"with", parse_with}, {"generation", parse_generation}, {"break", parse_break}, {"continue", parse_continue}};
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
        if (gr_tp_skip_word(ps, statements[i].word)) return statements[i].parse(ps, out);
    if (ps->token->kind != GR_TT_NAME) return gr_tp_expected(ps, "a tag's name");
    return gr_fail(GRACE_ERR_UNSUPPORTED, "line %d: there is no tag '%.*s' here", ps->token->line, (int)ps->token->n, ps->token->text);
}

static grace_status parse_print(gr_tp *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_node(ps, GR_TN_PRINT, out));
    GR_TRY(gr_tp_tuple(ps, true, &(*out)->a));
    GR_TRY(gr_tp_want_kind(ps, GR_TT_VAR_END, "'}}'"));
done:
    return st;
}

static bool at_any(const gr_tp *ps, const char *const *words) {
    for (; words && *words; words++)
        if (gr_tp_at_word(ps, *words)) return true;
    return false;
}

static grace_status missing_end(const gr_tp *ps, const char *const *ends) {
    char what[32];
    while (ends[1]) ends++;
    snprintf(what, sizeof what, "'%s'", *ends);
    return gr_tp_expected(ps, what);
}

/* Statements up to a tag that is one of ends; the parser then stands at its word. ends NULL: up to the end of the text. */
static grace_status parse_body(gr_tp *ps, const char *const *ends, gr_tn **body) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tp_enter(ps));
    for (;; body = &(*body)->next) {
        const gr_tt *token = ps->token++;
        if (token->kind == GR_TT_DATA) {
            GR_TRY(gr_tp_node(ps, GR_TN_DATA, body));
            (*body)->value = gr_tv_text(token->text, token->n);
        } else if (token->kind == GR_TT_VAR_BEGIN) {
            GR_TRY(parse_print(ps, body));
        } else if (token->kind == GR_TT_BLOCK_BEGIN) {
            if (at_any(ps, ends)) break;
            GR_TRY(parse_statement(ps, body));
        } else {
            ps->token--;        /* END: nothing else stands between tags */
            if (ends) return missing_end(ps, ends);
            break;
        }
    }
    ps->depth--;
done:
    return st;
}

grace_status gr_template_parse(const char *where, const char *text, size_t n, gr_template **out) {
    grace_status st = GRACE_OK;
    gr_template *tmpl = NULL;
    gr_tt *tokens;
    gr_tv_heap heap = {.limits = gr_template_limits_default(), .arena = gr_arena_new()};
    char *name;
    GR_CHECK(heap.arena, GRACE_ERR_MEMORY, "no memory for a template");
    GR_TRY(gr_tv_alloc(&heap, 1, sizeof *tmpl, &tmpl));
    GR_TRY(gr_tv_alloc(&heap, strlen(where) + 1, 1, &name));
    memcpy(name, where, strlen(where));
    GR_TRY(gr_template_lex(&heap, text, n, &tokens));
    gr_tp ps = {.heap = &heap, .token = tokens};
    GR_TRY(parse_body(&ps, NULL, &tmpl->body));
    tmpl->where = name;
    tmpl->arena = heap.arena;
    heap.arena = NULL;
    *out = tmpl;
done:
    if (st) gr_fail_in(st, "%s", where);
    gr_arena_free(heap.arena);
    return st;
}

void gr_template_free(gr_template *tmpl) {
    if (tmpl) gr_arena_free(tmpl->arena);
}
