/* Tests, globals, and how arguments reach a built-in function. */
#include "text/normalize.h"
#include "text/template_tree.h"

/* ---- arguments ---- */

/* The parameter at *at, which moves behind it: its length without the '!'. */
static size_t next_parameter(const char **at, const char **name, bool *required) {
    *name = *at;
    size_t n = strcspn(*at, " ");
    *at += n + ((*at)[n] == ' ');
    *required = n > 0 && (*name)[n - 1] == '!';
    return n - *required;
}

static grace_status bind(const gr_tv_builtin *builtin, const gr_tv_args *args, gr_tv *bound) {
    grace_status st = GRACE_OK;
    const char *at = builtin->parameters, *name;
    size_t position = 0, n_used = 0;
    for (; *at; position++) {
        bool required;
        size_t n = next_parameter(&at, &name, &required);
        GR_ASSERT(position < GR_TV_ARGS_MAX);
        if (position < args->n) bound[position] = args->items[position];
        for (size_t i = 0; i < args->n_named; i++) {
            if (args->names[i].n != n || memcmp(args->names[i].text, name, n) != 0) continue;
            bound[position] = args->named[i];
            n_used++;
        }
        GR_CHECK(!required || bound[position].kind, GRACE_ERR_FORMAT, "%s needs an argument '%.*s'", builtin->name, (int)n, name);
    }
    GR_CHECK(args->n <= position, GRACE_ERR_FORMAT, "%s takes %zu arguments, found %zu", builtin->name, position, args->n);
    GR_CHECK(n_used == args->n_named, GRACE_ERR_FORMAT, "%s got a named argument it does not take", builtin->name);
done:
    return st;
}

grace_status gr_tv_run(gr_tv_heap *heap, const gr_tv_builtin *builtin, gr_tv self, const gr_tv_args *args, gr_tv *out) {
    gr_tv_call call = {.heap = heap, .self = self, .all = args};
    grace_status st = gr_tv_spend(heap, 1);
    if (!st && builtin->parameters[0] != '*') st = bind(builtin, args, call.arg);
    return st ? st : builtin->run(&call, out);
}

/* ---- tests ---- */

static grace_status answer(bool yes, gr_tv *out) { return *out = gr_tv_bool(yes), GRACE_OK; }
static grace_status is_kind(const gr_tv_call *c, gr_tv_kind kind, gr_tv *out) { return answer(c->self.kind == kind, out); }
static grace_status is_defined(const gr_tv_call *c, gr_tv *out) { return answer(c->self.kind != GR_TV_UNDEFINED, out); }
static grace_status is_undefined(const gr_tv_call *c, gr_tv *out) { return is_kind(c, GR_TV_UNDEFINED, out); }
static grace_status is_none(const gr_tv_call *c, gr_tv *out) { return is_kind(c, GR_TV_NONE, out); }
static grace_status is_string(const gr_tv_call *c, gr_tv *out) { return is_kind(c, GR_TV_STRING, out); }
static grace_status is_mapping(const gr_tv_call *c, gr_tv *out) { return is_kind(c, GR_TV_DICT, out); }
static grace_status is_boolean(const gr_tv_call *c, gr_tv *out) { return is_kind(c, GR_TV_BOOL, out); }
static grace_status is_integer(const gr_tv_call *c, gr_tv *out) { return is_kind(c, GR_TV_INT, out); }
static grace_status is_float(const gr_tv_call *c, gr_tv *out) { return is_kind(c, GR_TV_REAL, out); }
static grace_status is_number(const gr_tv_call *c, gr_tv *out) { return answer(gr_tv_is_number(c->self), out); }
static grace_status is_true(const gr_tv_call *c, gr_tv *out) { return answer(c->self.kind == GR_TV_BOOL && c->self.integer, out); }
static grace_status is_false(const gr_tv_call *c, gr_tv *out) { return answer(c->self.kind == GR_TV_BOOL && !c->self.integer, out); }

/* An undefined value counts as an empty sequence, as in Jinja. */
static grace_status is_sequence(const gr_tv_call *c, gr_tv *out) {
    gr_tv_kind kind = c->self.kind;
    return answer(kind == GR_TV_STRING || kind == GR_TV_DICT || kind == GR_TV_UNDEFINED || gr_tv_is_list(c->self), out);
}

static grace_status is_callable(const gr_tv_call *c, gr_tv *out) {
    gr_tv_kind kind = c->self.kind;
    return answer(kind == GR_TV_MACRO || kind == GR_TV_BUILTIN || kind == GR_TV_METHOD || kind == GR_TV_UNDEFINED, out);
}

static grace_status is_same(const gr_tv_call *c, gr_tv *out) {
    bool equal = false;
    grace_status st = gr_tv_equal(c->heap, c->self, c->arg[0], &equal);
    return st ? st : answer(equal && c->self.kind == c->arg[0].kind, out);
}

static grace_status in_case(const gr_tv_call *c, gr_tv_case how, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv text, other, swapped;
    bool equal;
    GR_TRY(gr_tv_str(c->heap, c->self, &text));
    GR_TRY(gr_tv_recase(c->heap, text, how, &other));
    GR_TRY(gr_tv_recase(c->heap, text, how == GR_TV_UPPER ? GR_TV_LOWER : GR_TV_UPPER, &swapped));
    GR_TRY(gr_tv_equal(c->heap, text, other, &equal));
    if (equal) GR_TRY(gr_tv_equal(c->heap, text, swapped, &equal));       /* there must be a letter that has a case */
    else return answer(false, out);
    return answer(!equal, out);
done:
    return st;
}

static grace_status is_upper(const gr_tv_call *c, gr_tv *out) { return in_case(c, GR_TV_UPPER, out); }
static grace_status is_lower(const gr_tv_call *c, gr_tv *out) { return in_case(c, GR_TV_LOWER, out); }

static grace_status remainder_is(const gr_tv_call *c, gr_tv divisor, int64_t wanted, gr_tv *out) {
    gr_tv rest = {0};
    bool equal = false;
    grace_status st = gr_tv_operate(c->heap, GR_OP_MOD, c->self, divisor, &rest);
    if (!st) st = gr_tv_equal(c->heap, rest, gr_tv_int(wanted), &equal);
    return st ? st : answer(equal, out);
}

static grace_status is_even(const gr_tv_call *c, gr_tv *out) { return remainder_is(c, gr_tv_int(2), 0, out); }
static grace_status is_odd(const gr_tv_call *c, gr_tv *out) { return remainder_is(c, gr_tv_int(2), 1, out); }
static grace_status is_divisible(const gr_tv_call *c, gr_tv *out) { return remainder_is(c, c->arg[0], 0, out); }

static grace_status compare(const gr_tv_call *c, gr_op op, gr_tv *out) {
    bool yes = false;
    grace_status st = gr_tv_compare(c->heap, op, c->self, c->arg[0], &yes);
    return st ? st : answer(yes, out);
}

static grace_status is_eq(const gr_tv_call *c, gr_tv *out) { return compare(c, GR_OP_EQ, out); }
static grace_status is_ne(const gr_tv_call *c, gr_tv *out) { return compare(c, GR_OP_NE, out); }
static grace_status is_lt(const gr_tv_call *c, gr_tv *out) { return compare(c, GR_OP_LT, out); }
static grace_status is_le(const gr_tv_call *c, gr_tv *out) { return compare(c, GR_OP_LE, out); }
static grace_status is_gt(const gr_tv_call *c, gr_tv *out) { return compare(c, GR_OP_GT, out); }
static grace_status is_ge(const gr_tv_call *c, gr_tv *out) { return compare(c, GR_OP_GE, out); }
static grace_status is_in(const gr_tv_call *c, gr_tv *out) { return compare(c, GR_OP_IN, out); }

static const gr_tv_builtin tests[] = {
    {"!=", "b!", is_ne}, {"<", "b!", is_lt}, {"<=", "b!", is_le}, {"==", "b!", is_eq}, {">", "b!", is_gt}, {">=", "b!", is_ge},
    {"boolean", "", is_boolean}, {"callable", "", is_callable}, {"defined", "", is_defined}, {"divisibleby", "num!", is_divisible}, {"eq", "b!", is_eq},
    {"equalto", "b!", is_eq}, {"even", "", is_even}, {"false", "", is_false}, {"float", "", is_float}, {"ge", "b!", is_ge}, {"greaterthan", "b!", is_gt},
    {"gt", "b!", is_gt}, {"in", "seq!", is_in}, {"integer", "", is_integer}, {"iterable", "", is_sequence}, {"le", "b!", is_le}, {"lessthan", "b!", is_lt},
    {"lower", "", is_lower}, {"lt", "b!", is_lt}, {"mapping", "", is_mapping}, {"ne", "b!", is_ne}, {"none", "", is_none}, {"number", "", is_number},
    {"odd", "", is_odd}, {"sameas", "other!", is_same}, {"sequence", "", is_sequence}, {"string", "", is_string}, {"true", "", is_true},
    {"undefined", "", is_undefined}, {"upper", "", is_upper}};

/* ---- globals ---- */

static grace_status range(const gr_tv_call *call, gr_tv *out) {
    enum { RANGE_MAX = 100000 };            /* as in the reference's sandbox */
    grace_status st = GRACE_OK;
    int64_t part[3] = {0, 0, 1};
    size_t given = 1 + (call->arg[1].kind != 0) + (call->arg[2].kind != 0);
    for (size_t i = 0; i < given; i++) {
        GR_CHECK(gr_tv_is_whole(call->arg[i]), GRACE_ERR_FORMAT, "range takes integers, found a %s", gr_tv_kind_name(call->arg[i]));
        part[given == 1 ? 1 : i] = call->arg[i].integer;
    }
    GR_CHECK(part[2] != 0, GRACE_ERR_FORMAT, "the step of a range is zero");
    for (int i = 0; i < 3; i++)
        GR_CHECK(part[i] > -(1LL << 60) && part[i] < 1LL << 60, GRACE_ERR_LIMIT, "range: expected numbers below 2^60, found %lld", (long long)part[i]);
    int64_t span = part[2] > 0 ? part[1] - part[0] : part[0] - part[1], step = part[2] > 0 ? part[2] : -part[2];
    int64_t n = span > 0 && step > 0 ? (span - 1) / step + 1 : 0;
    GR_CHECK(n <= RANGE_MAX, GRACE_ERR_LIMIT, "range: at most %d numbers, asked for %lld", RANGE_MAX, (long long)n);
    GR_TRY(gr_tv_new_list(call->heap, GR_TV_LIST, (size_t)n, out));
    for (int64_t i = 0; i < n; i++) out->list->items[i] = gr_tv_int(part[0] + i * part[2]);
done:
    return st;
}

/* namespace(x=1), dict(x=1); both take a mapping first. */
static grace_status new_mapping(const gr_tv_call *call, gr_tv_kind kind, gr_tv *out) {
    grace_status st = GRACE_OK;
    const gr_tv_args *args = call->all;
    GR_CHECK(args->n == 0 || (args->n == 1 && args->items[0].kind == GR_TV_DICT), GRACE_ERR_FORMAT, "expected named values and at most one dict");
    const gr_tv_dict *first = args->n ? args->items[0].dict : NULL;
    GR_TRY(gr_tv_new_dict(call->heap, kind, args->n_named + (first ? first->n : 0), out));
    for (size_t i = 0; first && i < first->n; i++) GR_TRY(gr_tv_set(call->heap, out->dict, first->keys[i], first->values[i]));
    for (size_t i = 0; i < args->n_named; i++) GR_TRY(gr_tv_set(call->heap, out->dict, args->names[i], args->named[i]));
    if (kind == GR_TV_DICT) GR_TRY(gr_tv_close(out));
done:
    return st;
}

static grace_status new_namespace(const gr_tv_call *call, gr_tv *out) { return new_mapping(call, GR_TV_NAMESPACE, out); }
static grace_status new_dict(const gr_tv_call *call, gr_tv *out) { return new_mapping(call, GR_TV_DICT, out); }

static grace_status raise_exception(const gr_tv_call *call, gr_tv *out) {
    gr_tv text;
    grace_status st = gr_tv_str(call->heap, call->arg[0], &text);
    (void)out;
    return st ? st : gr_fail(GRACE_ERR_FORMAT, "the template refuses: %.*s", (int)(text.n > 800 ? 800 : text.n), text.text);
}

static grace_status strftime_now(const gr_tv_call *call, gr_tv *out) {
    grace_status st = GRACE_OK;
    char format[128], text[512], *copy;
    struct tm parts;
    gr_tv asked = call->arg[0];
    GR_CHECK(asked.kind == GR_TV_STRING && asked.n < sizeof format, GRACE_ERR_FORMAT, "strftime_now takes a short format");
    memcpy(format, asked.text, asked.n);
    format[asked.n] = 0;
    localtime_r(&call->heap->now, &parts);
    size_t n = strftime(text, sizeof text, format, &parts);
    GR_TRY(gr_tv_alloc(call->heap, n, 1, &copy));
    memcpy(copy, text, n);
    *out = gr_tv_text(copy, n);
done:
    return st;
}

static const gr_tv_builtin globals[] = {{"range", "start! stop step", range}, {"namespace", "*", new_namespace}, {"dict", "*", new_dict},
                                        {"raise_exception", "message!", raise_exception}, {"strftime_now", "format!", strftime_now}};

static const gr_tv_builtin *find(const gr_tv_builtin *all, size_t n_all, const char *name, size_t n) {
    for (size_t i = 0; i < n_all; i++)
        if (strlen(all[i].name) == n && memcmp(all[i].name, name, n) == 0) return &all[i];
    return NULL;
}

const gr_tv_builtin *gr_tv_test(const char *name, size_t n) { return find(tests, sizeof tests / sizeof *tests, name, n); }
const gr_tv_builtin *gr_tv_global(const char *name, size_t n) { return find(globals, sizeof globals / sizeof *globals, name, n); }
