/* Added tokens: texts that become one id wherever they stand, before anything else looks at the text. */
#ifndef GR_TEXT_ADDED_H
#define GR_TEXT_ADDED_H
#include "base/memory.h"
#include "text/pattern.h"

typedef struct gr_added {
    const char *text;                   /* zero-terminated, borrowed */
    size_t n;
    int32_t id;
    bool special;                       /* left out by skip_special */
    bool single_word, lstrip, rstrip;   /* only between non-word characters; swallows the white space before, after */
    bool normalized;                    /* searched after the others, in what they leave */
} gr_added;

typedef struct gr_added_set {
    gr_added *tokens;                   /* [n_tokens] sorted by bytes */
    size_t n_tokens;
    bool first[256];                    /* bytes that begin a token */
    const gr_pattern *word;             /* \w; NULL when no token is single_word */
} gr_added_set;

/* Copies tokens [n] into the arena. word is borrowed. */
grace_status gr_added_build(gr_added_set *set, gr_arena *arena, const gr_added *tokens, size_t n, const gr_pattern *word);

typedef struct gr_segment { size_t start, end; int32_t id; } gr_segment;    /* id -1: text that no token covers */
typedef struct gr_segments { gr_segment *data; size_t n, capacity; } gr_segments;

grace_status gr_segments_push(gr_segments *segments, gr_segment segment);

/* Appends the segments of text [start, end), which is searched as if it stood alone: the leftmost token wins, among those the longest. */
grace_status gr_added_split(const gr_added_set *set, gr_searcher *searcher, const char *text, size_t start, size_t end, gr_segments *out);

#endif
