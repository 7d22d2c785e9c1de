/* Methods of strings, lists, dicts and loops, by position as Python takes them. */
#include "text/normalize.h"
#include "text/template_value.h"
#include "text/unicode.h"

/* ---- what filters share ---- */

grace_status gr_tv_copy_list(gr_tv_heap *heap, const gr_tv_list *items, gr_tv *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tv_new_list(heap, GR_TV_LIST, items->n, out));
    if (items->n) memcpy(out->list->items, items->items, items->n * sizeof *items->items);
    GR_TRY(gr_tv_close(out));
done:
    return st;
}

static bool has_char(gr_tv set, gr_tv text, size_t at, size_t n) { return memmem(set.text, set.n, text.text + at, n) != NULL; }

static size_t char_before(gr_tv text, size_t at) {
    do at--;
    while (at > 0 && ((unsigned char)text.text[at] & 0xc0) == 0x80);
    return at;
}

grace_status gr_tv_strip(gr_tv_heap *heap, gr_tv text, gr_tv characters, bool left, bool right, gr_tv *out) {
    grace_status st = GRACE_OK;
    size_t first = 0, last = text.n, n;
    uint32_t cp;
    bool spaces = characters.kind == GR_TV_ABSENT || characters.kind == GR_TV_NONE;
    GR_CHECK(spaces || characters.kind == GR_TV_STRING, GRACE_ERR_FORMAT, "strip takes a str, found a %s", gr_tv_kind_name(characters));
    for (; left && first < last; first += n) {
        GR_TRY(gr_tv_spend(heap, characters.n / 64));
        n = gr_tv_char_at(text, first, &cp);
        if (spaces ? !gr_tv_is_space(cp) : !has_char(characters, text, first, n)) break;
    }
    for (size_t at; right && last > first; last = at) {
        GR_TRY(gr_tv_spend(heap, characters.n / 64));
        at = char_before(text, last);
        n = gr_tv_char_at(text, at, &cp);
        if (spaces ? !gr_tv_is_space(cp) : !has_char(characters, text, at, n)) break;
    }
    *out = gr_tv_text(text.text + first, last - first);
    GR_TRY(gr_tv_spend(heap, (text.n - (last - first)) / 64));
done:
    return st;
}

static const char *find(const char *from, const char *end, gr_tv what) {
    return what.n == 0 ? from : memmem(from, (size_t)(end - from), what.text, what.n);
}

/* An empty `old` matches before every character and at the end, as in Python. */
grace_status gr_tv_replace(gr_tv_heap *heap, gr_tv text, gr_tv old, gr_tv fresh, gr_tv n_max, gr_tv *out) {
    grace_status st = GRACE_OK;
    size_t mark = heap->out->n;
    const char *from = text.text, *end = from + text.n, *hit;
    int64_t left = gr_tv_is_whole(n_max) && n_max.integer >= 0 ? n_max.integer : INT64_MAX;
    uint32_t cp;
    GR_CHECK(old.kind == GR_TV_STRING && fresh.kind == GR_TV_STRING, GRACE_ERR_FORMAT, "replace takes two str, found a %s and a %s", gr_tv_kind_name(old),
             gr_tv_kind_name(fresh));
    GR_TRY(gr_tv_spend(heap, text.n / 64));
    while (left-- > 0 && (hit = find(from, end, old))) {
        GR_TRY(gr_tv_spend(heap, 1));
        GR_TRY(gr_tv_put(heap, from, (size_t)(hit - from)));
        GR_TRY(gr_tv_put(heap, fresh.text, fresh.n));
        from = hit + old.n;
        if (old.n > 0) continue;
        if (from == end) break;
        size_t n = gr_tv_char_at(text, (size_t)(from - text.text), &cp);
        GR_TRY(gr_tv_put(heap, from, n));
        from += n;
    }
    GR_TRY(gr_tv_put(heap, from, (size_t)(end - from)));
    GR_TRY(gr_tv_take(heap, mark, out));
done:
    return st;
}

grace_status gr_tv_join(gr_tv_heap *heap, const gr_tv_list *items, gr_tv between, bool only_text, gr_tv *out) {
    grace_status st = GRACE_OK;
    size_t mark = heap->out->n;
    for (size_t i = 0; i < items->n; i++) {
        GR_CHECK(!only_text || items->items[i].kind == GR_TV_STRING, GRACE_ERR_FORMAT, "join: item %zu: expected a str, found a %s", i,
                 gr_tv_kind_name(items->items[i]));
        if (i) GR_TRY(gr_tv_put_str(heap, between));
        GR_TRY(gr_tv_put_str(heap, items->items[i]));
    }
    GR_TRY(gr_tv_take(heap, mark, out));
done:
    return st;
}

/* Where a word begins: for the method behind anything but a letter, for the filter behind blanks and some brackets. */
static bool begins_word(gr_tv_case how, size_t at, uint32_t before) {
    if (at == 0) return true;
    if (how == GR_TV_TITLE) return gr_char_upper(before) == before && gr_char_lower(before) == before;
    return how == GR_TV_TITLE_FILTER && (gr_tv_is_space(before) || (before < 128 && strchr("-({[<", (int)before)));
}

/* One character for one, as Unicode's simple mappings have it; Python's upper() also makes two of some, such as the German sharp s. */
grace_status gr_tv_recase(gr_tv_heap *heap, gr_tv text, gr_tv_case how, gr_tv *out) {
    grace_status st = GRACE_OK;
    size_t mark = heap->out->n;
    uint32_t cp, before = 0;
    char bytes[4];
    GR_TRY(gr_tv_spend(heap, text.n / 8));
    for (size_t i = 0, n; i < text.n; i += n, before = cp) {
        n = gr_tv_char_at(text, i, &cp);
        bool upper = how == GR_TV_UPPER || (how != GR_TV_LOWER && begins_word(how, i, before));
        GR_TRY(gr_tv_put(heap, bytes, (size_t)gr_utf8_put(upper ? gr_char_upper(cp) : gr_char_lower(cp), bytes)));
    }
    GR_TRY(gr_tv_take(heap, mark, out));
done:
    return st;
}

grace_status gr_tv_pairs(gr_tv_heap *heap, const gr_tv_dict *dict, gr_tv *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_tv_new_list(heap, GR_TV_LIST, dict->n, out));
    for (size_t i = 0; i < dict->n; i++) {
        gr_tv *pair = &out->list->items[i];
        GR_TRY(gr_tv_new_list(heap, GR_TV_TUPLE, 2, pair));
        pair->list->items[0] = dict->keys[i];
        pair->list->items[1] = dict->values[i];
        GR_TRY(gr_tv_close(pair));
    }
    GR_TRY(gr_tv_close(out));
done:
    return st;
}

/* ---- splitting: pieces are counted first, then cut ---- */

typedef struct piece { const char *text; size_t n; } piece;
typedef bool cut_next(const char **from, const char *end, gr_tv separator, bool last, piece *out);

static grace_status split(const gr_tv_call *call, cut_next *next, int64_t n_max, gr_tv *out) {
    grace_status st = GRACE_OK;
    const gr_tv *text = &call->self;
    size_t n = 0;
    piece cut;
    GR_TRY(gr_tv_spend(call->heap, text->n / 32));
    for (const char *from = text->text; next(&from, text->text + text->n, call->arg[0], (int64_t)n == n_max, &cut);) n++;
    GR_TRY(gr_tv_new_list(call->heap, GR_TV_LIST, n, out));
    n = 0;
    for (const char *from = text->text; next(&from, text->text + text->n, call->arg[0], (int64_t)n == n_max, &cut); n++)
        out->list->items[n] = gr_tv_text(cut.text, cut.n);
done:
    return st;
}

/* from becomes NULL behind the last piece. */
static bool cut_at_separator(const char **from, const char *end, gr_tv separator, bool last, piece *out) {
    if (!*from) return false;
    const char *hit = last ? NULL : find(*from, end, separator);
    *out = (piece){*from, (size_t)((hit ? hit : end) - *from)};
    *from = hit ? hit + separator.n : NULL;
    return true;
}

static bool cut_at_spaces(const char **from, const char *end, gr_tv separator, bool last, piece *out) {
    gr_tv rest = gr_tv_text(*from, (size_t)(end - *from));
    size_t first = 0, stop, n;
    uint32_t cp;
    (void)separator;
    for (; first < rest.n; first += n) {
        n = gr_tv_char_at(rest, first, &cp);
        if (!gr_tv_is_space(cp)) break;
    }
    if (first >= rest.n) return false;
    for (stop = first; stop < rest.n; stop += n) {
        n = gr_tv_char_at(rest, stop, &cp);
        if (!last && gr_tv_is_space(cp)) break;
    }
    *out = (piece){rest.text + first, stop - first};
    *from = rest.text + stop;
    return true;
}

static bool ends_line(uint32_t cp) { return (cp >= 0x0a && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029; }

static bool cut_at_lines(const char **from, const char *end, gr_tv separator, bool last, piece *out) {
    gr_tv rest = gr_tv_text(*from, (size_t)(end - *from));
    size_t stop = 0, n = 0;
    uint32_t cp;
    (void)separator, (void)last;
    if (rest.n == 0) return false;
    for (; stop < rest.n; stop += n) {
        n = gr_tv_char_at(rest, stop, &cp);
        if (ends_line(cp)) break;
    }
    *out = (piece){rest.text, stop};
    if (stop < rest.n) stop += rest.text[stop] == '\r' && stop + 1 < rest.n && rest.text[stop + 1] == '\n' ? 2 : n;
    *from = rest.text + stop;
    return true;
}

grace_status gr_tv_split_lines(gr_tv_heap *heap, gr_tv text, gr_tv *out) {
    gr_tv_call call = {.heap = heap, .self = text};
    return split(&call, cut_at_lines, -1, out);
}

static grace_status splits(const gr_tv_call *call, gr_tv *out) {
    const gr_tv *separator = &call->arg[0], *most = &call->arg[1];
    int64_t n_max = gr_tv_is_whole(*most) && most->integer >= 0 ? most->integer : -1;
    if (separator->kind == GR_TV_ABSENT || separator->kind == GR_TV_NONE) return split(call, cut_at_spaces, n_max, out);
    if (separator->kind != GR_TV_STRING || separator->n == 0)
        return gr_fail(GRACE_ERR_FORMAT, "split takes a str that is not empty, found a %s", gr_tv_kind_name(*separator));
    return split(call, cut_at_separator, n_max, out);
}

/* From the right: all pieces, of which the first ones are joined again. */
static grace_status rsplits(const gr_tv_call *call, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv_call all = *call;
    int64_t n_max = gr_tv_is_whole(call->arg[1]) && call->arg[1].integer >= 0 ? call->arg[1].integer : -1;
    GR_CHECK(call->arg[0].kind == GR_TV_STRING || n_max < 0, GRACE_ERR_UNSUPPORTED, "rsplit at whitespace with a limit is not supported");
    all.arg[1] = (gr_tv){0};
    GR_TRY(splits(&all, out));
    if (n_max < 0 || (int64_t)out->list->n <= n_max + 1) return st;
    size_t joined = out->list->n - (size_t)n_max;
    gr_tv *items = out->list->items, *last = &items[joined - 1];
    items[0].n = (size_t)(last->text + last->n - items[0].text);
    memmove(items + 1, items + joined, (size_t)n_max * sizeof *items);
    out->list->n = (size_t)n_max + 1;
done:
    return st;
}

/* ---- the other methods of strings ---- */

static grace_status strips(const gr_tv_call *c, gr_tv *out) { return gr_tv_strip(c->heap, c->self, c->arg[0], true, true, out); }
static grace_status lstrips(const gr_tv_call *c, gr_tv *out) { return gr_tv_strip(c->heap, c->self, c->arg[0], true, false, out); }
static grace_status rstrips(const gr_tv_call *c, gr_tv *out) { return gr_tv_strip(c->heap, c->self, c->arg[0], false, true, out); }
static grace_status replaces(const gr_tv_call *c, gr_tv *out) { return gr_tv_replace(c->heap, c->self, c->arg[0], c->arg[1], c->arg[2], out); }
static grace_status uppers(const gr_tv_call *c, gr_tv *out) { return gr_tv_recase(c->heap, c->self, GR_TV_UPPER, out); }
static grace_status lowers(const gr_tv_call *c, gr_tv *out) { return gr_tv_recase(c->heap, c->self, GR_TV_LOWER, out); }
static grace_status titles(const gr_tv_call *c, gr_tv *out) { return gr_tv_recase(c->heap, c->self, GR_TV_TITLE, out); }
static grace_status capitalizes(const gr_tv_call *c, gr_tv *out) { return gr_tv_recase(c->heap, c->self, GR_TV_CAPITALIZE, out); }
static grace_status splits_lines(const gr_tv_call *c, gr_tv *out) { return gr_tv_split_lines(c->heap, c->self, out); }

static grace_status has_end(gr_tv_heap *heap, gr_tv text, gr_tv part, bool start, bool *out) {
    bool fits = part.kind == GR_TV_STRING && part.n <= text.n;
    *out = fits && (part.n == 0 || memcmp(text.text + (start ? 0 : text.n - part.n), part.text, part.n) == 0);
    return gr_tv_spend(heap, fits ? part.n / 64 : 0);
}

/* One string, or a tuple of which one is enough. */
static grace_status has_ends(const gr_tv_call *call, bool start, gr_tv *out) {
    grace_status st = GRACE_OK;
    gr_tv what = call->arg[0];
    bool found = false;
    GR_CHECK(what.kind == GR_TV_STRING || what.kind == GR_TV_TUPLE, GRACE_ERR_FORMAT, "%s takes a str or a tuple, found a %s",
             start ? "startswith" : "endswith", gr_tv_kind_name(what));
    if (what.kind == GR_TV_STRING) GR_TRY(has_end(call->heap, call->self, what, start, &found));
    else GR_TRY(gr_tv_spend(call->heap, what.list->n / 8));
    for (size_t i = 0; what.kind == GR_TV_TUPLE && i < what.list->n && !found; i++) GR_TRY(has_end(call->heap, call->self, what.list->items[i], start, &found));
    *out = gr_tv_bool(found);
done:
    return st;
}

static grace_status starts(const gr_tv_call *call, gr_tv *out) { return has_ends(call, true, out); }
static grace_status ends(const gr_tv_call *call, gr_tv *out) { return has_ends(call, false, out); }

static grace_status removes(const gr_tv_call *call, bool start, gr_tv *out) {
    bool found = false;
    grace_status st = has_end(call->heap, call->self, call->arg[0], start, &found);
    size_t n = found ? call->arg[0].n : 0;
    *out = gr_tv_text(call->self.text + (start ? n : 0), call->self.n - n);
    return st;
}

static grace_status removes_prefix(const gr_tv_call *call, gr_tv *out) { return removes(call, true, out); }
static grace_status removes_suffix(const gr_tv_call *call, gr_tv *out) { return removes(call, false, out); }

static grace_status finds(const gr_tv_call *call, gr_tv *out) {
    gr_tv text = call->self, what = call->arg[0];
    if (what.kind != GR_TV_STRING) return gr_fail(GRACE_ERR_FORMAT, "find takes a str, found a %s", gr_tv_kind_name(what));
    const char *hit = find(text.text, text.text + text.n, what);
    *out = gr_tv_int(hit ? (int64_t)gr_tv_n_chars(gr_tv_text(text.text, (size_t)(hit - text.text))) : -1);
    return gr_tv_spend(call->heap, text.n / 32);
}

static grace_status counts(const gr_tv_call *call, gr_tv *out) {
    gr_tv text = call->self, what = call->arg[0];
    int64_t n = 0;
    if (what.kind != GR_TV_STRING) return gr_fail(GRACE_ERR_FORMAT, "count takes a str, found a %s", gr_tv_kind_name(what));
    const char *from = text.text, *end = from + text.n, *hit;
    if (what.n == 0) n = (int64_t)gr_tv_n_chars(text) + 1;
    else while ((hit = find(from, end, what))) from = hit + what.n, n++;
    *out = gr_tv_int(n);
    return gr_tv_spend(call->heap, text.n / 32);
}

static grace_status joins(const gr_tv_call *call, gr_tv *out) {
    const gr_tv_list *items;
    grace_status st = gr_tv_iterate(call->heap, call->arg[0], &items);
    return st ? st : gr_tv_join(call->heap, items, call->self, true, out);
}

static grace_status is_digits(const gr_tv_call *call, gr_tv *out) {
    bool yes = call->self.n > 0;
    for (size_t i = 0; i < call->self.n; i++) yes &= call->self.text[i] >= '0' && call->self.text[i] <= '9';
    *out = gr_tv_bool(yes);
    return gr_tv_spend(call->heap, call->self.n / 64);
}

static grace_status is_spaces(const gr_tv_call *call, gr_tv *out) {
    gr_tv rest, none = {0};
    grace_status st = gr_tv_strip(call->heap, call->self, none, true, false, &rest);
    *out = gr_tv_bool(!st && call->self.n > 0 && rest.n == 0);
    return st;
}

/* ---- dicts, lists, loops ---- */

static grace_status items(const gr_tv_call *call, gr_tv *out) { return gr_tv_pairs(call->heap, call->self.dict, out); }

static grace_status keys(const gr_tv_call *call, gr_tv *out) {
    gr_tv_list list = {call->self.dict->keys, call->self.dict->n, 0};
    return gr_tv_copy_list(call->heap, &list, out);
}

static grace_status values(const gr_tv_call *call, gr_tv *out) {
    gr_tv_list list = {call->self.dict->values, call->self.dict->n, 0};
    return gr_tv_copy_list(call->heap, &list, out);
}

static grace_status gets(const gr_tv_call *call, gr_tv *out) {
    const gr_tv *found;
    grace_status st = gr_tv_get(call->heap, call->self.dict, call->arg[0], &found);
    if (!st) *out = found ? *found : call->arg[1].kind ? call->arg[1] : gr_tv_none();
    return st;
}

static grace_status indexes(const gr_tv_call *call, gr_tv *out) {
    grace_status st = GRACE_OK;
    const gr_tv_list *list = call->self.list;
    bool equal = false;
    size_t i = 0;
    for (; i < list->n && !equal; i++) GR_TRY(gr_tv_equal(call->heap, list->items[i], call->arg[0], &equal));
    GR_CHECK(equal, GRACE_ERR_FORMAT, "index: the value is not in the list");
    *out = gr_tv_int((int64_t)i - 1);
done:
    return st;
}

static grace_status cycles(const gr_tv_call *call, gr_tv *out) {
    if (call->all->n == 0) return gr_fail(GRACE_ERR_FORMAT, "cycle needs something to cycle through");
    *out = call->all->items[call->self.loop->index % call->all->n];
    return GRACE_OK;
}

static const gr_tv_builtin of_string[] = {
    {"split", "sep maxsplit", splits}, {"rsplit", "sep maxsplit", rsplits}, {"strip", "chars", strips}, {"lstrip", "chars", lstrips},
    {"rstrip", "chars", rstrips}, {"startswith", "prefix!", starts}, {"endswith", "suffix!", ends}, {"replace", "old! new! count", replaces},
    {"upper", "", uppers}, {"lower", "", lowers}, {"title", "", titles}, {"capitalize", "", capitalizes}, {"join", "iterable!", joins},
    {"find", "sub!", finds}, {"count", "sub!", counts}, {"splitlines", "", splits_lines}, {"removeprefix", "prefix!", removes_prefix},
    {"removesuffix", "suffix!", removes_suffix}, {"isdigit", "", is_digits}, {"isspace", "", is_spaces}, {0}};
static const gr_tv_builtin of_dict[] = {{"items", "", items}, {"keys", "", keys}, {"values", "", values}, {"get", "key! default", gets}, {0}};
static const gr_tv_builtin of_list[] = {{"index", "value!", indexes}, {0}};
static const gr_tv_builtin of_loop[] = {{"cycle", "*", cycles}, {0}};

const gr_tv_builtin *gr_tv_method_of(gr_tv_kind kind, const char *name, size_t n) {
    const gr_tv_builtin *all = kind == GR_TV_STRING ? of_string : kind == GR_TV_DICT ? of_dict : kind == GR_TV_LIST || kind == GR_TV_TUPLE ? of_list
                             : kind == GR_TV_LOOP ? of_loop : NULL;
    for (; all && all->name; all++)
        if (strlen(all->name) == n && memcmp(all->name, name, n) == 0) return all;
    return NULL;
}
