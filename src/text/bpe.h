/* Byte pair encoding of one piece of text: of its bytes, or of its characters. */
#ifndef GR_TEXT_BPE_H
#define GR_TEXT_BPE_H
#include <stdbool.h>

#include "base/json.h"
#include "text/vocab.h"

typedef struct gr_merge { uint64_t pair; int32_t rank, id; } gr_merge;  /* pair: left id << 32 | right id; rank: smaller merges first */

typedef struct gr_bpe {
    const gr_vocab *vocab;
    gr_merge *merges;               /* [mask + 1] by hash of the pair, rank -1: empty; at most half full */
    uint32_t mask;
    bool byte_level;                /* pieces are bytes, which the vocabulary writes in the byte alphabet; else characters */
    int32_t id_of_byte[256];        /* -1: the vocabulary lacks the byte, or, of characters, the ASCII one */
    int32_t id_of_fallback[256];    /* of "<0x00>" .. "<0xFF>", -1: absent */
    bool fallback;                  /* byte_fallback: a character without a token becomes such bytes */
    int32_t unknown;                /* unk_token, for what is left; -1: none */
    bool fuse_unknown;              /* one for a run of them */
    bool seams;                     /* no merge joins a character to a following U+2581 */
    bool whole_first;               /* ignore_merges: a piece that is a token is that token, however its merges go */
} gr_bpe;

/* json: the value of "model", whose vocab is in vocab already. bpe lives in the arena and borrows vocab.
 * Fails with FORMAT (a merge of tokens that do not exist), or UNSUPPORTED naming the part and its value. */
grace_status gr_bpe_init(gr_bpe *bpe, gr_arena *arena, const gr_json *json, const gr_vocab *vocab, bool byte_level);

typedef struct gr_ids { int32_t *data; size_t n, capacity; } gr_ids;
grace_status gr_ids_push(gr_ids *ids, int32_t id);
grace_status gr_ids_reserve(gr_ids *ids, size_t n);         /* room for n more */

/* Working memory of one thread that encodes; zero it before. */
typedef struct gr_bpe_scratch {
    struct gr_bpe_symbol *symbols;
    uint64_t *heap;
    char *name;
    size_t symbols_capacity, heap_capacity, name_capacity;
} gr_bpe_scratch;
void gr_bpe_scratch_free(gr_bpe_scratch *scratch);

/* Appends the ids of piece [n]. Of the pairs of neighbours the one with the smallest rank merges first, the leftmost among equals.
 * n log n in the length of the piece. Fails with UNSUPPORTED on a byte or character that the vocabulary has no token for (the reference
 * drops it in silence), LIMIT above 2^30 bytes. */
grace_status gr_bpe_encode(const gr_bpe *bpe, gr_bpe_scratch *scratch, const char *piece, size_t n, gr_ids *ids);

#endif
