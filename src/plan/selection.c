/* Which of a trace's tokens: by the parity of their sequence, by domain, or both. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "plan/trace.h"

static const char *const sequences_names[] = {"all", "even", "odd"};

/* The word at *text, and *text moved behind it and the blanks that follow. */
static bool take_word(const char **text, const char *word) {
    size_t n = strlen(word);
    if (strncmp(*text, word, n) != 0 || ((*text)[n] && (*text)[n] != ' ')) return false;
    *text += n + strspn(*text + n, " ");
    return true;
}

grace_status grace_selection_parse(const char *text, grace_selection *out) {
    grace_status st = GRACE_OK;
    grace_selection s = {0};
    const char *rest = text, key[] = "domain:";
    for (int i = GRACE_SEQUENCES_ALL; i <= GRACE_SEQUENCES_ODD; i++)
        if (rest == text && take_word(&rest, sequences_names[i])) s.sequences = (grace_sequences)i;
    if (strncmp(rest, key, sizeof key - 1) == 0) {
        rest += sizeof key - 1;
        GR_CHECK(*rest && strlen(rest) < sizeof s.domains, GRACE_ERR_ARG, "'%s': expected names of domains in 1 to %zu bytes", text, sizeof s.domains - 1);
        memcpy(s.domains, rest, strlen(rest) + 1);
    } else {
        GR_CHECK(rest != text && !*rest, GRACE_ERR_ARG, "expected all, even, odd, domain:NAME,... or even domain:NAME,..., found '%s'", text);
    }
    *out = s;
done:
    return st;
}

void grace_selection_format(const grace_selection *s, char *text, size_t size) {
    bool named = s->domains[0] != 0, whole = s->sequences == GRACE_SEQUENCES_ALL;
    snprintf(text, size, "%s%s%s%s", whole && named ? "" : sequences_names[s->sequences], named && !whole ? " " : "", named ? "domain:" : "", s->domains);
}

/* The next name of a list into name [256]; false at its end. */
static bool next_name(const char **list, char *name) {
    if (!**list) return false;
    size_t n = strcspn(*list, ",");
    memcpy(name, *list, n);
    name[n] = 0;
    *list += n + ((*list)[n] == ',');
    return true;
}

static bool has_name(const char *list, const char *name) {
    char other[256];
    while (next_name(&list, other))
        if (strcmp(name, other) == 0) return true;
    return false;
}

bool grace_selections_disjoint(const grace_selection *a, const grace_selection *b) {
    char name[256];
    if (a->sequences != b->sequences && a->sequences != GRACE_SEQUENCES_ALL && b->sequences != GRACE_SEQUENCES_ALL) return true;
    if (!a->domains[0] || !b->domains[0]) return false;
    for (const char *list = a->domains; next_name(&list, name);)
        if (has_name(b->domains, name)) return false;
    return true;
}

static grace_status mark_domain(const grace_trace *head, const char *name, bool *wanted) {
    bool found = false;
    for (int32_t d = 0; d < head->n_domains; d++)
        if (strcmp(head->domains[d], name) == 0) found = wanted[d + 1] = true;
    if (found) return GRACE_OK;
    char has[512] = "";
    for (int32_t d = 0, n = 0; d < head->n_domains && n < (int32_t)sizeof has; d++)
        n += snprintf(has + n, sizeof has - (size_t)n, "%s%s", d ? ", " : "", head->domains[d]);
    return gr_fail(GRACE_ERR_ARG, "the trace has no domain '%s'; it has %s", name, has[0] ? has : "none");
}

grace_status gr_selection_resolve(const grace_selection *which, const grace_trace *head, bool **wanted) {
    grace_status st = GRACE_OK;
    bool *mine = NULL, all = !which || !which->domains[0];
    char name[256];
    GR_CHECK(!which || (which->sequences >= GRACE_SEQUENCES_ALL && which->sequences <= GRACE_SEQUENCES_ODD), GRACE_ERR_ARG,
             "sequences: expected 0 to 2, found %d", (int)which->sequences);
    GR_CHECK(!which || memchr(which->domains, 0, sizeof which->domains), GRACE_ERR_ARG, "the names of domains take more than %zu bytes",
             sizeof which->domains - 1);
    GR_CALLOC(mine, head->n_domains + 1);
    for (int32_t d = 0; d <= head->n_domains; d++) mine[d] = all;
    for (const char *list = all ? "" : which->domains; next_name(&list, name);) GR_TRY(mark_domain(head, name, mine));
    *wanted = mine, mine = NULL;
done:
    free(mine);
    return st;
}
