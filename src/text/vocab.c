#include "text/vocab.h"

#include <inttypes.h>
#include <string.h>

#include "base/hash.h"
#include "text/unicode.h"

enum { N_TOKENS_MAX = 1 << 20 };       /* ids may have gaps, so a small file can ask for a large table; published vocabularies stay under 2^18 */

grace_status gr_vocab_init(gr_vocab *vocab, gr_arena *arena, size_t n_tokens, size_t n_bytes) {
    grace_status st = GRACE_OK;
    uint32_t n_slots = 16;
    GR_CHECK(n_tokens <= N_TOKENS_MAX, GRACE_ERR_LIMIT, "tokenizer.json: an id of %zu, ids below %d are read", n_tokens - 1, N_TOKENS_MAX);
    while (n_slots < 2 * n_tokens) n_slots *= 2;
    GR_ARENA_ARRAY(arena, vocab->tokens, n_tokens);
    GR_ARENA_ARRAY(arena, vocab->slots, n_slots);
    GR_ARENA_ARRAY(arena, vocab->texts, n_bytes + n_tokens);
    vocab->next = vocab->texts;
    vocab->n_bytes = n_bytes;
    vocab->n_tokens = (int32_t)n_tokens;
    vocab->mask = n_slots - 1;
done:
    return st;
}

/* The slot that holds the text, or the empty one where it belongs. */
static uint32_t *slot_of(const gr_vocab *vocab, const char *text, size_t n) {
    for (uint32_t i = (uint32_t)gr_hash64(text, n, 0);; i++) {
        uint32_t *slot = &vocab->slots[i & vocab->mask];
        if (!*slot) return slot;
        const gr_token *token = &vocab->tokens[*slot - 1];
        if (token->n == n && !memcmp(token->text, text, n)) return slot;
    }
}

int32_t gr_vocab_find(const gr_vocab *vocab, const char *text, size_t n) { return (int32_t)*slot_of(vocab, text, n) - 1; }

int32_t gr_vocab_find_model(const gr_vocab *vocab, const char *text, size_t n) {
    int32_t id = gr_vocab_find(vocab, text, n);
    return id >= 0 && vocab->tokens[id].added ? -1 : id;
}

grace_status gr_vocab_add(gr_vocab *vocab, const char *text, size_t n, int32_t id, bool added) {
    grace_status st = GRACE_OK;
    int shown = (int)gr_utf8_cut(text, n, 100);
    GR_ASSERT(id >= 0 && id < vocab->n_tokens);
    GR_CHECK(!vocab->tokens[id].text, GRACE_ERR_FORMAT, "tokenizer.json: id %" PRId32 " belongs to both '%.100s' and '%.*s'", id,
             vocab->tokens[id].text, shown, text);
    uint32_t *slot = slot_of(vocab, text, n);
    GR_CHECK(!*slot, GRACE_ERR_FORMAT, "tokenizer.json: token '%.*s' has both id %" PRIu32 " and id %" PRId32, shown, text, *slot - 1, id);
    GR_ASSERT((size_t)(vocab->next - vocab->texts) + n + 1 <= vocab->n_bytes + (size_t)vocab->n_tokens);
    memcpy(vocab->next, text, n);
    vocab->tokens[id] = (gr_token){vocab->next, (uint32_t)n, added};
    vocab->next += n + 1;
    *slot = (uint32_t)id + 1;
done:
    return st;
}
