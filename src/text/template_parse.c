/* Tokens to a tree: statements, then expressions by falling precedence. */
#include <stdio.h>

#include "text/template_tree.h"

enum { DEPTH_MAX = 60 };            /* of brackets, tags and signs inside one another */

typedef struct parser {
    gr_tv_heap *heap;
    const gr_tt *token;
    int depth, n_loops;
} parser;

static grace_status parse_body(parser *ps, const char *const *ends, gr_tn **body);
static grace_status parse_expression(parser *ps, gr_tn **out);
static grace_status parse_or(parser *ps, gr_tn **out);
static grace_status parse_primary(parser *ps, gr_tn **out);
static grace_status parse_unary(parser *ps, bool with_filters, gr_tn **out);

/* ---- tokens ---- */

static bool is_token(const gr_tt *token, gr_tt_kind kind, const char *word) {
    return token->kind == kind && token->n == strlen(word) && memcmp(token->text, word, token->n) == 0;
}

static bool at_op(const parser *ps, const char *op) { return is_token(ps->token, GR_TT_OP, op); }
static bool at_word(const parser *ps, const char *word) { return is_token(ps->token, GR_TT_NAME, word); }

static bool skip_op(parser *ps, const char *op) {
    bool yes = at_op(ps, op);
    ps->token += yes;
    return yes;
}

static bool skip_word(parser *ps, const char *word) {
    bool yes = at_word(ps, word);
    ps->token += yes;
    return yes;
}

static grace_status expected(const parser *ps, const char *what) {
    const gr_tt *t = ps->token;
    return gr_fail(GRACE_ERR_FORMAT, "line %d: expected %s, found '%.*s'", t->line, what, (int)(t->n > 40 ? 40 : t->n), t->text);
}

static grace_status want_op(parser *ps, const char *op) {
    char what[16];
    if (skip_op(ps, op)) return GRACE_OK;
    snprintf(what, sizeof what, "'%s'", op);
    return expected(ps, what);
}

static grace_status want_kind(parser *ps, gr_tt_kind kind, const char *what) {
    if (ps->token->kind != kind) return expected(ps, what);
    ps->token++;
    return GRACE_OK;
}

static grace_status new_node(parser *ps, gr_tn_kind kind, gr_tn **out) {
    grace_status st = gr_tv_alloc(ps->heap, 1, sizeof **out, out);
    if (!st) (*out)->kind = kind, (*out)->line = ps->token->line;
    return st;
}

/* *out becomes the child a of a new node. */
static grace_status wrap(parser *ps, gr_tn_kind kind, gr_tn **out) {
    gr_tn *node;
    grace_status st = new_node(ps, kind, &node);
    if (!st) node->a = *out, *out = node;
    return st;
}

static grace_status want_name(parser *ps, gr_tv *name) {
    const gr_tt *token = ps->token;
    grace_status st = want_kind(ps, GR_TT_NAME, "a name");
    if (!st) *name = gr_tv_text(token->text, token->n);
    return st;
}

static grace_status enter(parser *ps) {
    if (++ps->depth <= DEPTH_MAX) return GRACE_OK;
    return gr_fail(GRACE_ERR_LIMIT, "line %d: nested deeper than %d levels", ps->token->line, DEPTH_MAX);
}

/* ---- expressions: parts ---- */

/* name=EXPRESSION or EXPRESSION, up to ')' */
static grace_status parse_arguments(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    bool named = false;
    GR_TRY(want_op(ps, "("));
    while (!skip_op(ps, ")")) {
        gr_tn *node;
        gr_tv name = {0};
        if (ps->token->kind == GR_TT_NAME && is_token(ps->token + 1, GR_TT_OP, "=")) {
            GR_TRY(want_name(ps, &name));
            ps->token++;
        }
        GR_TRY(parse_expression(ps, &node));
        if (name.kind) GR_TRY(wrap(ps, GR_TN_KEYWORD, &node));
        else if (named) return expected(ps, "only named arguments behind a named one");
        node->value = name.kind ? name : node->value;
        named |= name.kind != GR_TV_ABSENT;
        *out = node;
        out = &node->next;
        if (!at_op(ps, ")")) GR_TRY(want_op(ps, ","));
    }
done:
    return st;
}

/* EXPRESSION, EXPRESSION, ... up to the closing bracket */
static grace_status parse_elements(parser *ps, const char *end, gr_tn **out) {
    grace_status st = GRACE_OK;
    while (!skip_op(ps, end)) {
        GR_TRY(parse_expression(ps, out));
        out = &(*out)->next;
        if (!at_op(ps, end)) GR_TRY(want_op(ps, ","));
    }
done:
    return st;
}

static grace_status parse_dict(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_DICT, out));
    for (gr_tn **pair = &(*out)->a; !skip_op(ps, "}"); pair = &(*pair)->next) {
        GR_TRY(new_node(ps, GR_TN_PAIR, pair));
        GR_TRY(parse_expression(ps, &(*pair)->a));
        GR_TRY(want_op(ps, ":"));
        GR_TRY(parse_expression(ps, &(*pair)->b));
        if (!at_op(ps, "}")) GR_TRY(want_op(ps, ","));
    }
done:
    return st;
}

/* (x), (), (x,), (x, y) */
static grace_status parse_bracketed(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    gr_tn *tuple;
    GR_TRY(new_node(ps, GR_TN_TUPLE, &tuple));
    if (!at_op(ps, ")")) {
        GR_TRY(parse_expression(ps, &tuple->a));
        if (skip_op(ps, ")")) {
            *out = tuple->a;
            return st;
        }
        GR_TRY(want_op(ps, ","));
    }
    GR_TRY(parse_elements(ps, ")", tuple->a ? &tuple->a->next : &tuple->a));
    *out = tuple;
done:
    return st;
}

/* Adjacent strings are one, as in Python. */
static grace_status parse_literal(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_CONST, out));
    gr_tv *value = &(*out)->value;
    *value = ps->token++->value;
    while (value->kind == GR_TV_STRING && ps->token->kind == GR_TT_LITERAL && ps->token->value.kind == GR_TV_STRING) {
        gr_tv more = ps->token++->value;
        char *text;
        GR_TRY(gr_tv_alloc(ps->heap, value->n + more.n, 1, &text));
        if (value->n) memcpy(text, value->text, value->n);
        if (more.n) memcpy(text + value->n, more.text, more.n);
        *value = gr_tv_text(text, value->n + more.n);
    }
done:
    return st;
}

static grace_status parse_name(parser *ps, gr_tn **out) {
    static const struct { const char *word; gr_tv value; } constants[] = {
        {"true", {.kind = GR_TV_BOOL, .integer = 1}}, {"True", {.kind = GR_TV_BOOL, .integer = 1}}, {"false", {.kind = GR_TV_BOOL}},
        {"False", {.kind = GR_TV_BOOL}}, {"none", {.kind = GR_TV_NONE}}, {"None", {.kind = GR_TV_NONE}}};
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_NAME, out));
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (!skip_word(ps, constants[i].word)) continue;
        (*out)->kind = GR_TN_CONST;
        (*out)->value = constants[i].value;
        return st;
    }
    GR_TRY(want_name(ps, &(*out)->value));
done:
    return st;
}

static grace_status parse_primary(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(enter(ps));
    if (ps->token->kind == GR_TT_NAME) GR_TRY(parse_name(ps, out));
    else if (ps->token->kind == GR_TT_LITERAL) GR_TRY(parse_literal(ps, out));
    else if (skip_op(ps, "(")) GR_TRY(parse_bracketed(ps, out));
    else if (skip_op(ps, "{")) GR_TRY(parse_dict(ps, out));
    else if (skip_op(ps, "[")) {
        GR_TRY(new_node(ps, GR_TN_LIST, out));
        GR_TRY(parse_elements(ps, "]", &(*out)->a));
    } else return expected(ps, "an expression");
    ps->depth--;
done:
    return st;
}

/* [x], [a:b:c] */
static grace_status parse_subscript(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    gr_tn **part[] = {&(*out)->b, &(*out)->c, &(*out)->d};
    for (int i = 0; i < 3; i++) {
        if (!at_op(ps, ":") && !at_op(ps, "]")) GR_TRY(parse_expression(ps, part[i]));
        if (at_op(ps, "]")) break;
        GR_TRY(want_op(ps, ":"));
        (*out)->kind = GR_TN_SLICE;
    }
    if ((*out)->kind == GR_TN_ITEM && !(*out)->b) return expected(ps, "an expression");
    GR_TRY(want_op(ps, "]"));
done:
    return st;
}

static grace_status parse_postfix(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    for (;;) {
        if (skip_op(ps, ".")) {
            GR_TRY(wrap(ps, GR_TN_ATTRIBUTE, out));
            if (ps->token->kind == GR_TT_LITERAL && ps->token->value.kind == GR_TV_INT) {        /* x.0 is x[0] */
                (*out)->kind = GR_TN_ITEM;
                GR_TRY(parse_literal(ps, &(*out)->b));
            } else GR_TRY(want_name(ps, &(*out)->value));
        } else if (skip_op(ps, "[")) {
            GR_TRY(wrap(ps, GR_TN_ITEM, out));
            GR_TRY(parse_subscript(ps, out));
        } else if (at_op(ps, "(")) {
            GR_TRY(wrap(ps, GR_TN_CALL, out));
            GR_TRY(parse_arguments(ps, &(*out)->b));
        } else break;
    }
done:
    return st;
}

static grace_status want_builtin(parser *ps, gr_tn *node) {
    grace_status st = GRACE_OK;
    bool filter = node->kind == GR_TN_FILTER;
    gr_tv name = {0};
    GR_TRY(want_name(ps, &name));
    node->builtin = filter ? gr_tv_filter(name.text, name.n) : gr_tv_test(name.text, name.n);
    GR_CHECK(node->builtin, GRACE_ERR_UNSUPPORTED, "line %d: there is no %s '%.*s'", node->line, filter ? "filter" : "test", (int)name.n, name.text);
done:
    return st;
}

static grace_status parse_filter(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(wrap(ps, GR_TN_FILTER, out));
    GR_TRY(want_builtin(ps, *out));
    if (at_op(ps, "(")) GR_TRY(parse_arguments(ps, &(*out)->b));
done:
    return st;
}

/* is [not] NAME, with an argument in brackets or one bare primary behind it */
static grace_status parse_test(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    bool negated = skip_word(ps, "not");
    GR_TRY(wrap(ps, GR_TN_TEST, out));
    GR_TRY(want_builtin(ps, *out));
    const gr_tt *t = ps->token;
    bool bare = t->kind == GR_TT_LITERAL || at_op(ps, "[") || at_op(ps, "{") ||
                (t->kind == GR_TT_NAME && !at_word(ps, "else") && !at_word(ps, "or") && !at_word(ps, "and") && !at_word(ps, "if"));
    if (at_op(ps, "(")) GR_TRY(parse_arguments(ps, &(*out)->b));
    else if (bare) {
        if (at_word(ps, "is")) return expected(ps, "only one test");
        GR_TRY(parse_primary(ps, &(*out)->b));
        GR_TRY(parse_postfix(ps, &(*out)->b));
    }
    if (negated) GR_TRY(wrap(ps, GR_TN_NOT, out));
done:
    return st;
}

static grace_status parse_filters(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    for (;;) {
        if (skip_op(ps, "|")) GR_TRY(parse_filter(ps, out));
        else if (skip_word(ps, "is")) GR_TRY(parse_test(ps, out));
        else if (at_op(ps, "(")) {
            GR_TRY(wrap(ps, GR_TN_CALL, out));
            GR_TRY(parse_arguments(ps, &(*out)->b));
        } else break;
    }
done:
    return st;
}

/* ---- expressions: precedence ---- */

static grace_status parse_unary(parser *ps, bool with_filters, gr_tn **out) {
    grace_status st = GRACE_OK;
    bool minus = skip_op(ps, "-"), plus = !minus && skip_op(ps, "+");
    GR_TRY(enter(ps));
    if (minus || plus) {
        GR_TRY(parse_unary(ps, false, out));
        GR_TRY(wrap(ps, minus ? GR_TN_NEGATE : GR_TN_POSITIVE, out));
    } else GR_TRY(parse_primary(ps, out));
    GR_TRY(parse_postfix(ps, out));
    if (with_filters) GR_TRY(parse_filters(ps, out));
    ps->depth--;
done:
    return st;
}

/* Left-associative operators, the loosest level first; power too associates to the left in Jinja. */
typedef struct level { const char *op; gr_op code; int level; } level;
static const level operators[] = {{"+", GR_OP_ADD, 0}, {"-", GR_OP_SUB, 0}, {"~", GR_OP_CONCAT, 1}, {"*", GR_OP_MUL, 2}, {"/", GR_OP_DIV, 2},
                                  {"//", GR_OP_FLOOR_DIV, 2}, {"%", GR_OP_MOD, 2}, {"**", GR_OP_POW, 3}};
enum { N_LEVELS = 4 };

static const level *operator_at(const parser *ps, int at_level) {
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (operators[i].level == at_level && at_op(ps, operators[i].op)) return &operators[i];
    return NULL;
}

static grace_status parse_binary(parser *ps, int at_level, gr_tn **out) {
    grace_status st = GRACE_OK;
    const level *op;
    if (at_level == N_LEVELS) return parse_unary(ps, true, out);
    GR_TRY(parse_binary(ps, at_level + 1, out));
    while ((op = operator_at(ps, at_level))) {
        ps->token++;
        GR_TRY(wrap(ps, GR_TN_BINARY, out));
        (*out)->op = op->code;
        GR_TRY(parse_binary(ps, at_level + 1, &(*out)->b));
    }
done:
    return st;
}

static bool skip_comparison(parser *ps, gr_op *code) {
    static const struct { const char *op; gr_op code; } all[] = {{"==", GR_OP_EQ}, {"!=", GR_OP_NE}, {"<", GR_OP_LT}, {"<=", GR_OP_LE}, {">", GR_OP_GT}, {">=", GR_OP_GE}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (skip_op(ps, all[i].op)) return *code = all[i].code, true;
    if (skip_word(ps, "in")) return *code = GR_OP_IN, true;
    if (!at_word(ps, "not") || !is_token(ps->token + 1, GR_TT_NAME, "in")) return false;
    ps->token += 2;
    return *code = GR_OP_NOT_IN, true;
}

/* a < b < c means a < b and b < c */
static grace_status parse_comparison(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    gr_op code;
    GR_TRY(parse_binary(ps, 0, out));
    if (!skip_comparison(ps, &code)) return st;
    GR_TRY(wrap(ps, GR_TN_COMPARE, out));
    gr_tn **operand = &(*out)->b;
    do {
        GR_TRY(new_node(ps, GR_TN_OPERAND, operand));
        (*operand)->op = code;
        GR_TRY(parse_binary(ps, 0, &(*operand)->a));
        operand = &(*operand)->next;
    } while (skip_comparison(ps, &code));
done:
    return st;
}

static grace_status parse_not(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    if (!skip_word(ps, "not")) return parse_comparison(ps, out);
    GR_TRY(enter(ps));
    GR_TRY(parse_not(ps, out));
    GR_TRY(wrap(ps, GR_TN_NOT, out));
    ps->depth--;
done:
    return st;
}

static grace_status parse_and(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(parse_not(ps, out));
    while (skip_word(ps, "and")) {
        GR_TRY(wrap(ps, GR_TN_AND, out));
        GR_TRY(parse_not(ps, &(*out)->b));
    }
done:
    return st;
}

static grace_status parse_or(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(parse_and(ps, out));
    while (skip_word(ps, "or")) {
        GR_TRY(wrap(ps, GR_TN_OR, out));
        GR_TRY(parse_and(ps, &(*out)->b));
    }
done:
    return st;
}

static grace_status parse_expression(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(enter(ps));
    GR_TRY(parse_or(ps, out));
    while (skip_word(ps, "if")) {
        gr_tn *node;
        GR_TRY(new_node(ps, GR_TN_TERNARY, &node));
        node->b = *out;
        *out = node;
        GR_TRY(parse_or(ps, &node->a));
        if (skip_word(ps, "else")) GR_TRY(parse_expression(ps, &node->c));
    }
    ps->depth--;
done:
    return st;
}

/* x or x, y, ...: a tuple without brackets. In a for loop the condition belongs to the loop. */
static grace_status parse_tuple(parser *ps, bool with_ternary, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(with_ternary ? parse_expression(ps, out) : parse_or(ps, out));
    if (!at_op(ps, ",")) return st;
    GR_TRY(wrap(ps, GR_TN_TUPLE, out));
    for (gr_tn **next = &(*out)->a->next; skip_op(ps, ","); next = &(*next)->next) {
        if (ps->token->kind == GR_TT_BLOCK_END || ps->token->kind == GR_TT_VAR_END) break;
        GR_TRY(with_ternary ? parse_expression(ps, next) : parse_or(ps, next));
    }
done:
    return st;
}

/* ---- statements ---- */

static grace_status end_tag(parser *ps) { return want_kind(ps, GR_TT_BLOCK_END, "'%}'"); }

/* The body behind a tag, up to {% END %}, which is taken. */
static grace_status parse_until(parser *ps, const char *end, gr_tn **body) {
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
static grace_status parse_target(parser *ps, bool attribute, gr_tn **out) {
    grace_status st = GRACE_OK;
    bool bracketed = skip_op(ps, "(");
    GR_TRY(new_node(ps, GR_TN_NAME, out));
    GR_TRY(want_name(ps, &(*out)->value));
    if (attribute && skip_op(ps, ".")) {
        GR_TRY(wrap(ps, GR_TN_ATTRIBUTE, out));
        GR_TRY(want_name(ps, &(*out)->value));
    } else if (at_op(ps, ",")) {
        GR_TRY(wrap(ps, GR_TN_TUPLE, out));
        for (gr_tn **next = &(*out)->a->next; skip_op(ps, ","); next = &(*next)->next) {
            if (ps->token->kind != GR_TT_NAME || at_word(ps, "in")) break;
            GR_TRY(new_node(ps, GR_TN_NAME, next));
            GR_TRY(want_name(ps, &(*next)->value));
        }
    }
    if (bracketed) GR_TRY(want_op(ps, ")"));
done:
    return st;
}

static grace_status parse_if(parser *ps, gr_tn **out) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_IF, out));
    for (gr_tn *node = *out;; node = node->c) {
        GR_TRY(parse_expression(ps, &node->a));
        GR_TRY(end_tag(ps));
        GR_TRY(parse_body(ps, ends, &node->b));
        if (!skip_word(ps, "elif")) {
            if (skip_word(ps, "else")) {
                GR_TRY(end_tag(ps));
                GR_TRY(parse_body(ps, last, &node->c));
            }
            break;
        }
        GR_TRY(new_node(ps, GR_TN_IF, &node->c));
    }
    ps->token++;
    GR_TRY(end_tag(ps));
done:
    return st;
}

static grace_status parse_for(parser *ps, gr_tn **out) {
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_FOR, out));
    gr_tn *node = *out;
    GR_TRY(parse_target(ps, false, &node->a));
    if (!skip_word(ps, "in")) return expected(ps, "'in'");
    GR_TRY(parse_tuple(ps, false, &node->b));
    if (skip_word(ps, "if")) GR_TRY(parse_expression(ps, &node->c));
    GR_CHECK(!at_word(ps, "recursive"), GRACE_ERR_UNSUPPORTED, "line %d: recursive loops are not supported", node->line);
    GR_TRY(end_tag(ps));
    ps->n_loops++;
    GR_TRY(parse_body(ps, ends, &node->body));
    ps->n_loops--;
    if (skip_word(ps, "else")) {
        GR_TRY(end_tag(ps));
        GR_TRY(parse_body(ps, last, &node->d));
    }
    ps->token++;
    GR_TRY(end_tag(ps));
done:
    return st;
}

/* | upper | replace("a", "b"): filters on a text that is made later */
static grace_status parse_chain(parser *ps, bool first_given, gr_tn **out) {
    grace_status st = GRACE_OK;
    if (!first_given && !at_op(ps, "|")) return st;
    GR_TRY(new_node(ps, GR_TN_CAPTURED, out));
    if (first_given) GR_TRY(parse_filter(ps, out));
    while (skip_op(ps, "|")) GR_TRY(parse_filter(ps, out));
done:
    return st;
}

static grace_status parse_set(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_SET, out));
    GR_TRY(parse_target(ps, true, &(*out)->a));
    if (skip_op(ps, "=")) {
        GR_TRY(parse_tuple(ps, true, &(*out)->b));
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
static grace_status parse_parameters(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(want_op(ps, "("));
    for (; !skip_op(ps, ")"); out = &(*out)->next) {
        GR_TRY(new_node(ps, GR_TN_KEYWORD, out));
        GR_TRY(want_name(ps, &(*out)->value));
        if (skip_op(ps, "=")) GR_TRY(parse_expression(ps, &(*out)->a));
        if (!at_op(ps, ")")) GR_TRY(want_op(ps, ","));
    }
done:
    return st;
}

/* What leaves a loop does not leave it from inside a macro. */
static grace_status parse_closed_body(parser *ps, const char *end, gr_tn **body) {
    int n_loops = ps->n_loops;
    ps->n_loops = 0;
    grace_status st = parse_until(ps, end, body);
    ps->n_loops = n_loops;
    return st;
}

static grace_status parse_macro(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_MACRO, out));
    GR_TRY(want_name(ps, &(*out)->value));
    GR_TRY(parse_parameters(ps, &(*out)->b));
    GR_TRY(parse_closed_body(ps, "endmacro", &(*out)->body));
done:
    return st;
}

static grace_status parse_call_block(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_CALL_BLOCK, out));
    if (at_op(ps, "(")) GR_TRY(parse_parameters(ps, &(*out)->b));
    GR_TRY(parse_expression(ps, &(*out)->a));
    if ((*out)->a->kind != GR_TN_CALL) return expected(ps, "a call of a macro");
    (*out)->value = gr_tv_word("caller");
    GR_TRY(parse_closed_body(ps, "endcall", &(*out)->body));
done:
    return st;
}

static grace_status parse_filter_block(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_FILTER_BLOCK, out));
    GR_TRY(parse_chain(ps, true, &(*out)->b));
    GR_TRY(parse_closed_body(ps, "endfilter", &(*out)->body));
done:
    return st;
}

static grace_status parse_with(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_SCOPE, out));
    for (gr_tn **set = &(*out)->b; ps->token->kind != GR_TT_BLOCK_END; set = &(*set)->next) {
        GR_TRY(new_node(ps, GR_TN_SET, set));
        GR_TRY(parse_target(ps, false, &(*set)->a));
        GR_TRY(want_op(ps, "="));
        GR_TRY(parse_expression(ps, &(*set)->b));
        if (ps->token->kind != GR_TT_BLOCK_END) GR_TRY(want_op(ps, ","));
    }
    GR_TRY(parse_until(ps, "endwith", &(*out)->body));
done:
    return st;
}

static grace_status parse_generation(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_SCOPE, out));
    GR_TRY(parse_closed_body(ps, "endgeneration", &(*out)->body));
done:
    return st;
}

static grace_status parse_jump(parser *ps, gr_tn_kind kind, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_CHECK(ps->n_loops > 0, GRACE_ERR_FORMAT, "line %d: outside of a loop there is nothing to leave", ps->token->line);
    GR_TRY(new_node(ps, kind, out));
    GR_TRY(end_tag(ps));
done:
    return st;
}

static grace_status parse_break(parser *ps, gr_tn **out) { return parse_jump(ps, GR_TN_BREAK, out); }
static grace_status parse_continue(parser *ps, gr_tn **out) { return parse_jump(ps, GR_TN_CONTINUE, out); }

static grace_status parse_statement(parser *ps, gr_tn **out) {
    static const struct { const char *word; grace_status (*parse)(parser *ps, gr_tn **out); } statements[] = {
        {"if", parse_if}, {"for", parse_for}, {"set", parse_set}, {"macro", parse_macro}, {"call", parse_call_block},
        {"filter", parse_filter_block}, {"with", parse_with}, {"generation", parse_generation}, {"break", parse_break}, {"continue", parse_continue}};
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
        if (skip_word(ps, statements[i].word)) return statements[i].parse(ps, out);
    if (ps->token->kind != GR_TT_NAME) return expected(ps, "a tag's name");
    return gr_fail(GRACE_ERR_UNSUPPORTED, "line %d: there is no tag '%.*s' here", ps->token->line, (int)ps->token->n, ps->token->text);
}

static grace_status parse_print(parser *ps, gr_tn **out) {
    grace_status st = GRACE_OK;
    GR_TRY(new_node(ps, GR_TN_PRINT, out));
    GR_TRY(parse_tuple(ps, true, &(*out)->a));
    GR_TRY(want_kind(ps, GR_TT_VAR_END, "'}}'"));
done:
    return st;
}

static bool at_any(const parser *ps, const char *const *words) {
    for (; words && *words; words++)
        if (at_word(ps, *words)) return true;
    return false;
}

static grace_status missing_end(const parser *ps, const char *const *ends) {
    char what[32];
    while (ends[1]) ends++;
    snprintf(what, sizeof what, "'%s'", *ends);
    return expected(ps, what);
}

/* Statements up to a tag that is one of ends; the parser then stands at its word. ends NULL: up to the end of the text. */
static grace_status parse_body(parser *ps, const char *const *ends, gr_tn **body) {
    grace_status st = GRACE_OK;
    GR_TRY(enter(ps));
    for (;; body = &(*body)->next) {
        const gr_tt *token = ps->token++;
        if (token->kind == GR_TT_DATA) {
            GR_TRY(new_node(ps, GR_TN_DATA, body));
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
    parser ps = {.heap = &heap, .token = tokens};
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
