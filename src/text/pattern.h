/* Search patterns of tokenizer.json. They are written for Oniguruma; here PCRE2 searches, after the few escapes whose meaning differs
 * have been rewritten. What cannot be rewritten is refused by name. */
#ifndef GR_TEXT_PATTERN_H
#define GR_TEXT_PATTERN_H
#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"
#include "base/memory.h"

typedef struct gr_pattern gr_pattern;       /* immutable: any number of threads may search with it */

/* Fails with UNSUPPORTED naming the construct or what PCRE2 said about it, LIMIT over 16 KiB. */
grace_status gr_pattern_regex(const char *regex, gr_pattern **out);
grace_status gr_pattern_literal(const char *text, gr_pattern **out);
/* The member "pattern" of json: {"Regex": ...} or {"String": ...}. where names json in messages. */
grace_status gr_pattern_read(const gr_json *json, const char *where, gr_pattern **out);
void gr_pattern_free(gr_pattern *pattern);

/* Working memory of one thread that searches. Zero it before; close accepts a zeroed one. */
typedef struct gr_searcher { void *match, *context; } gr_searcher;
grace_status gr_searcher_open(gr_searcher *searcher);
void gr_searcher_close(gr_searcher *searcher);

/* First match in text [n], valid UTF-8, at or after byte from; the bytes before from are visible to look-behind.
 * Fails with LIMIT when the search takes more steps than a linear pattern could need. */
grace_status gr_pattern_find(const gr_pattern *pattern, gr_searcher *searcher, const char *text, size_t n, size_t from,
                             bool *found, size_t *start, size_t *end);

/* One match after the other. An empty match right behind a match is passed over, as Oniguruma's iterator does; elsewhere it counts. */
typedef struct gr_matches { const gr_pattern *pattern; const char *text; size_t n, from, last; bool any; } gr_matches;
static inline gr_matches gr_matches_of(const gr_pattern *pattern, const char *text, size_t n) { return (gr_matches){pattern, text, n, 0, 0, false}; }
grace_status gr_matches_next(gr_matches *matches, gr_searcher *searcher, bool *found, size_t *start, size_t *end);

/* Append text [n] with content in place of every match. Fails with LIMIT when that grows beyond n_max bytes. */
grace_status gr_pattern_replace(const gr_pattern *pattern, gr_searcher *searcher, const char *text, size_t n, const char *content, size_t n_max,
                                gr_buf *out);

#endif
