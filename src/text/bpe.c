#include "text/bpe.h"

#include <stdio.h>
#include <string.h>

#include "text/unicode.h"

enum {
    PIECE_MAX = 1 << 30,
    SHORT_MAX = 24,             /* up to here scanning all pairs for the smallest rank beats a heap; words are shorter */
};

/* ---- the table of merges ---- */

static gr_merge *merge_slot(const gr_bpe *bpe, uint64_t pair) {
    for (uint32_t i = (uint32_t)((pair * 0x9E3779B97F4A7C15u) >> 32);; i++) {
        gr_merge *merge = &bpe->merges[i & bpe->mask];
        if (merge->rank < 0 || merge->pair == pair) return merge;
    }
}

static const gr_merge *merge_of(const gr_bpe *bpe, int32_t left, int32_t right) {
    return merge_slot(bpe, (uint64_t)(uint32_t)left << 32 | (uint32_t)right);
}

static grace_status find_token(const gr_vocab *vocab, const char *text, size_t n, size_t rank, int32_t *id) {
    grace_status st = GRACE_OK;
    *id = gr_vocab_find_model(vocab, text, n);
    GR_CHECK(*id >= 0, GRACE_ERR_FORMAT, "tokenizer.json: merge %zu: '%.*s' is not in the vocabulary", rank, (int)gr_utf8_cut(text, n, 100), text);
done:
    return st;
}

/* A merge is "a b", or ["a", "b"], where the parts may contain spaces. */
static grace_status read_merge(const gr_json *json, size_t rank, const char **left, size_t *n_left, const char **right, size_t *n_right) {
    grace_status st = GRACE_OK;
    size_t n;
    if (gr_json_is_string(json, left, &n)) {
        const char *space = memchr(*left, ' ', n);
        GR_CHECK(space && !strchr(space + 1, ' '), GRACE_ERR_FORMAT, "tokenizer.json: merge %zu: expected two tokens and a space, found '%.*s'", rank,
                 (int)gr_utf8_cut(*left, n, 100), *left);
        *n_left = (size_t)(space - *left);
        *right = space + 1;
        *n_right = n - *n_left - 1;
        return st;
    }
    GR_CHECK(gr_json_length(json) == 2 && gr_json_is_string(gr_json_at(json, 0), left, n_left) && gr_json_is_string(gr_json_at(json, 1), right, n_right),
             GRACE_ERR_FORMAT, "tokenizer.json: merge %zu: expected a string or two strings, found %s", rank, gr_json_kind_name(json));
done:
    return st;
}

/* Vocabularies of SentencePiece write U+2581 for a space, and no token of theirs has it behind another character. Then a text falls into
 * words at these marks, whatever else the merges do: short pieces instead of one as long as the text. */
static const char seam[] = "\xE2\x96\x81";
enum { N_SEAM = sizeof seam - 1 };

static bool begins_with_seam(const char *text, size_t n) { return n >= N_SEAM && !memcmp(text, seam, N_SEAM); }
static bool ends_with_seam(const char *text, size_t n) { return n >= N_SEAM && !memcmp(text + n - N_SEAM, seam, N_SEAM); }

static grace_status add_merge(gr_bpe *bpe, const gr_json *json, size_t rank, gr_buf *joined) {
    grace_status st = GRACE_OK;
    const char *left, *right;
    size_t n_left, n_right;
    int32_t left_id, right_id, id;
    GR_TRY(read_merge(json, rank, &left, &n_left, &right, &n_right));
    joined->n = 0;
    GR_TRY(gr_buf_append(joined, left, n_left));
    GR_TRY(gr_buf_append(joined, right, n_right));
    GR_TRY(find_token(bpe->vocab, left, n_left, rank, &left_id));
    GR_TRY(find_token(bpe->vocab, right, n_right, rank, &right_id));
    GR_TRY(find_token(bpe->vocab, joined->data, joined->n, rank, &id));
    if (begins_with_seam(right, n_right) && !ends_with_seam(left, n_left)) bpe->seams = false;
    uint64_t pair = (uint64_t)(uint32_t)left_id << 32 | (uint32_t)right_id;
    *merge_slot(bpe, pair) = (gr_merge){pair, (int32_t)rank, id};      /* of a pair listed twice the later rank counts, as in the reference */
done:
    return st;
}

static bool is_version_line(const gr_json *json) {
    const char *text;
    return gr_json_is_string(json, &text, NULL) && !strncmp(text, "#version", 8);
}

static grace_status read_merges(gr_bpe *bpe, gr_arena *arena, const gr_json *json) {
    grace_status st = GRACE_OK;
    gr_buf joined = {0};
    size_t n = gr_json_length(json);
    uint32_t n_slots = 16;
    GR_CHECK(n < PIECE_MAX, GRACE_ERR_LIMIT, "tokenizer.json: %zu merges, at most %d are read", n, PIECE_MAX - 1);
    while (n_slots < 2 * n) n_slots *= 2;
    GR_ARENA_ARRAY(arena, bpe->merges, n_slots);
    bpe->mask = n_slots - 1;
    for (uint32_t i = 0; i < n_slots; i++) bpe->merges[i].rank = -1;
    for (size_t i = 0; i < n; i++) {
        if (is_version_line(gr_json_at(json, i))) continue;
        GR_TRY(add_merge(bpe, gr_json_at(json, i), i, &joined));
    }
done:
    gr_buf_free(&joined);
    return st;
}

/* ---- what else the model part may say ---- */

/* Which id a byte has as a symbol of its own: by its letter of the byte alphabet, or, among characters, when it is ASCII. */
static void find_bytes(gr_bpe *bpe) {
    char name[8];
    for (int byte = 0; byte < 256; byte++) {
        int n = gr_utf8_put(bpe->byte_level ? gr_char_of_byte((uint8_t)byte) : (uint32_t)byte, name);
        bpe->id_of_byte[byte] = bpe->byte_level || byte < 0x80 ? gr_vocab_find_model(bpe->vocab, name, (size_t)n) : -1;
        n = snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        bpe->id_of_fallback[byte] = gr_vocab_find_model(bpe->vocab, name, (size_t)n);
    }
}

static grace_status refuse_affix(const gr_json *json, const char *where, const char *key) {
    const char *affix;
    grace_status st = gr_json_string_or(json, where, key, "", &affix);
    if (!st && affix[0]) st = gr_fail(GRACE_ERR_UNSUPPORTED, "%s: %s '%.100s' is not supported", where, key, affix);
    return st;
}

static grace_status read_options(gr_bpe *bpe, const gr_json *json) {
    static const char where[] = "tokenizer.json: model";
    grace_status st = GRACE_OK;
    const char *unknown;
    double dropout;
    GR_TRY(refuse_affix(json, where, "continuing_subword_prefix"));
    GR_TRY(refuse_affix(json, where, "end_of_word_suffix"));
    GR_TRY(gr_json_real_or(json, where, "dropout", 0, &dropout));
    GR_CHECK(dropout == 0, GRACE_ERR_UNSUPPORTED, "%s: dropout %g is not supported", where, dropout);
    GR_TRY(gr_json_string_or(json, where, "unk_token", NULL, &unknown));
    bpe->unknown = unknown ? gr_vocab_find_model(bpe->vocab, unknown, strlen(unknown)) : -1;
    GR_TRY(gr_json_bool_or(json, where, "fuse_unk", false, &bpe->fuse_unknown));
    GR_TRY(gr_json_bool_or(json, where, "byte_fallback", false, &bpe->fallback));
    GR_TRY(gr_json_bool_or(json, where, "ignore_merges", false, &bpe->whole_first));
done:
    return st;
}

grace_status gr_bpe_init(gr_bpe *bpe, gr_arena *arena, const gr_json *json, const gr_vocab *vocab, bool byte_level) {
    grace_status st = GRACE_OK;
    const gr_json *merges;
    bpe->vocab = vocab;
    bpe->byte_level = byte_level;
    bpe->seams = !byte_level && gr_vocab_find_model(vocab, seam, strlen(seam)) >= 0;
    find_bytes(bpe);
    GR_TRY(read_options(bpe, json));
    GR_TRY(gr_json_array(json, "tokenizer.json: model", "merges", &merges));
    GR_TRY(read_merges(bpe, arena, merges));
done:
    return st;
}

/* ---- growing arrays ---- */

grace_status gr_ids_reserve(gr_ids *ids, size_t n) {
    grace_status st = GRACE_OK;
    GR_RESERVE(ids->data, ids->n + n, ids->capacity);
done:
    return st;
}

grace_status gr_ids_push(gr_ids *ids, int32_t id) {
    grace_status st = gr_ids_reserve(ids, 1);
    if (!st) ids->data[ids->n++] = id;
    return st;
}

void gr_bpe_scratch_free(gr_bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->heap);
    free(scratch->name);
    *scratch = (gr_bpe_scratch){0};
}

/* ---- short pieces: the pairs side by side, scanned for the smallest ---- */

static void merge_short(const gr_bpe *bpe, int32_t *ids, size_t *n_ids) {
    const gr_merge *pairs[SHORT_MAX];       /* [n - 1] of ids i and i + 1; rank -1: they do not merge */
    size_t n = *n_ids;
    for (size_t i = 0; i + 1 < n; i++) pairs[i] = merge_of(bpe, ids[i], ids[i + 1]);
    for (;;) {
        size_t best = n;
        uint32_t rank = UINT32_MAX;         /* as unsigned, -1 is the largest */
        for (size_t i = 0; i + 1 < n; i++)
            if ((uint32_t)pairs[i]->rank < rank) rank = (uint32_t)pairs[i]->rank, best = i;
        if (best == n) break;
        ids[best] = pairs[best]->id;
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        if (best + 1 < n) memmove(pairs + best, pairs + best + 1, (n - best - 1) * sizeof *pairs);
        if (best > 0) pairs[best - 1] = merge_of(bpe, ids[best - 1], ids[best]);
        if (best + 1 < n) pairs[best] = merge_of(bpe, ids[best], ids[best + 1]);
    }
    *n_ids = n;
}

/* ---- long pieces: a linked list of symbols and a heap of pairs, rank << 32 | position of the left one ---- */

typedef struct gr_bpe_symbol { int32_t id, prev, next; } symbol;       /* positions, -1 at the ends; id -1: merged away */

static void heap_push(uint64_t *heap, size_t *n, uint64_t value) {
    size_t i = (*n)++;
    for (size_t up; i > 0 && heap[up = (i - 1) / 2] > value; i = up) heap[i] = heap[up];
    heap[i] = value;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n) {
    uint64_t top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static void push_pair(const gr_bpe *bpe, const symbol *symbols, int32_t left, uint64_t *heap, size_t *n_heap) {
    if (left < 0 || symbols[left].next < 0) return;
    int32_t rank = merge_of(bpe, symbols[left].id, symbols[symbols[left].next].id)->rank;
    if (rank >= 0) heap_push(heap, n_heap, (uint64_t)rank << 32 | (uint32_t)left);
}

/* Every merge pushes at most two pairs and takes one symbol away, so 3 n entries are enough. */
static void merge_long(const gr_bpe *bpe, symbol *symbols, int32_t n, uint64_t *heap) {
    size_t n_heap = 0;
    for (int32_t i = 0; i < n; i++) push_pair(bpe, symbols, i, heap, &n_heap);
    while (n_heap > 0) {
        uint64_t top = heap_pop(heap, &n_heap);
        int32_t left = (int32_t)(uint32_t)top, right = symbols[left].next;
        if (symbols[left].id < 0 || right < 0) continue;
        const gr_merge *merge = merge_of(bpe, symbols[left].id, symbols[right].id);
        if (merge->rank != (int32_t)(top >> 32)) continue;      /* one of the two has merged with another since */
        symbols[left].id = merge->id;
        symbols[left].next = symbols[right].next;
        symbols[right].id = -1;
        if (symbols[left].next >= 0) symbols[symbols[left].next].prev = left;
        push_pair(bpe, symbols, symbols[left].prev, heap, &n_heap);
        push_pair(bpe, symbols, left, heap, &n_heap);
    }
}

static grace_status encode_long(const gr_bpe *bpe, gr_bpe_scratch *scratch, int32_t *ids, size_t *n_ids) {
    grace_status st = GRACE_OK;
    size_t n = *n_ids;
    GR_RESERVE(scratch->symbols, n, scratch->symbols_capacity);
    GR_RESERVE(scratch->heap, 3 * n, scratch->heap_capacity);
    symbol *symbols = scratch->symbols;
    for (size_t i = 0; i < n; i++) symbols[i] = (symbol){ids[i], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
    merge_long(bpe, symbols, (int32_t)n, scratch->heap);
    *n_ids = 0;
    for (int32_t i = 0; i >= 0; i = symbols[i].next) ids[(*n_ids)++] = symbols[i].id;
done:
    return st;
}

/* ---- a piece ---- */

static grace_status find_whole(const gr_bpe *bpe, gr_bpe_scratch *scratch, const char *piece, size_t n, int32_t *id) {
    grace_status st = GRACE_OK;
    size_t n_name = 0;
    *id = bpe->byte_level ? -1 : gr_vocab_find_model(bpe->vocab, piece, n);
    if (!bpe->byte_level) return st;
    GR_RESERVE(scratch->name, 2 * n + 4, scratch->name_capacity);
    char *name = scratch->name;
    for (size_t i = 0; i < n; i++) n_name += (size_t)gr_utf8_put(gr_char_of_byte((uint8_t)piece[i]), name + n_name);
    *id = gr_vocab_find_model(bpe->vocab, name, n_name);
done:
    return st;
}

static grace_status ids_of_bytes(const gr_bpe *bpe, const char *piece, size_t n, int32_t *ids, size_t *n_ids) {
    grace_status st = GRACE_OK;
    for (size_t i = 0; i < n; i++) {
        ids[i] = bpe->id_of_byte[(uint8_t)piece[i]];
        GR_CHECK(ids[i] >= 0, GRACE_ERR_UNSUPPORTED, "the vocabulary has no token for byte 0x%02X of the text", (uint8_t)piece[i]);
    }
    *n_ids = n;
done:
    return st;
}

static int32_t id_of_char(const gr_bpe *bpe, const char *text, size_t n) {
    return n == 1 ? bpe->id_of_byte[(uint8_t)text[0]] : gr_vocab_find_model(bpe->vocab, text, n);
}

static bool fall_back(const gr_bpe *bpe, const char *text, size_t n, int32_t *ids) {
    for (size_t i = 0; i < n; i++)
        if (!bpe->fallback || (ids[i] = bpe->id_of_fallback[(uint8_t)text[i]]) < 0) return false;
    return true;
}

/* A character is its token, else its bytes, else unknown. Of a run of unknown ones the reference writes the last (when fused, the only)
 * one just before the next known character: behind bytes that come between. */
static grace_status ids_of_chars(const gr_bpe *bpe, const char *piece, size_t n, int32_t *ids, size_t *n_ids) {
    grace_status st = GRACE_OK;
    size_t k = 0;
    bool waiting = false;
    for (size_t at = 0, end; at < n; at = end) {
        end = gr_char_after(piece, n, at);
        int32_t id = id_of_char(bpe, piece + at, end - at);
        if (id >= 0) {
            if (waiting) ids[k++] = bpe->unknown;
            waiting = false;
            ids[k++] = id;
        } else if (fall_back(bpe, piece + at, end - at, ids + k)) {
            k += end - at;
        } else {
            GR_CHECK(bpe->unknown >= 0, GRACE_ERR_UNSUPPORTED, "the vocabulary has no token for '%.*s' of the text", (int)(end - at), piece + at);
            if (waiting && !bpe->fuse_unknown) ids[k++] = bpe->unknown;
            waiting = true;
        }
    }
    if (waiting) ids[k++] = bpe->unknown;
    *n_ids = k;
done:
    return st;
}

static grace_status encode_part(const gr_bpe *bpe, gr_bpe_scratch *scratch, const char *piece, size_t n, gr_ids *ids) {
    grace_status st = GRACE_OK;
    size_t n_new;
    GR_TRY(gr_ids_reserve(ids, n));
    int32_t *new_ids = ids->data + ids->n;
    GR_TRY((bpe->byte_level ? ids_of_bytes : ids_of_chars)(bpe, piece, n, new_ids, &n_new));
    if (n_new <= SHORT_MAX)
        merge_short(bpe, new_ids, &n_new);
    else
        GR_TRY(encode_long(bpe, scratch, new_ids, &n_new));
    ids->n += n_new;
done:
    return st;
}

/* Where the next mark begins that has another character before it; n when there is none. */
static size_t next_seam(const char *piece, size_t n, size_t from) {
    for (const char *at; from < n && (at = memmem(piece + from, n - from, seam, N_SEAM)); from = (size_t)(at - piece) + N_SEAM)
        if (!ends_with_seam(piece, (size_t)(at - piece))) return (size_t)(at - piece);
    return n;
}

grace_status gr_bpe_encode(const gr_bpe *bpe, gr_bpe_scratch *scratch, const char *piece, size_t n, gr_ids *ids) {
    grace_status st = GRACE_OK;
    int32_t whole = -1;
    GR_CHECK(n <= PIECE_MAX, GRACE_ERR_LIMIT, "a piece of %zu bytes, at most %d are encoded at once", n, PIECE_MAX);
    if (bpe->whole_first) GR_TRY(find_whole(bpe, scratch, piece, n, &whole));
    if (whole >= 0) return gr_ids_push(ids, whole);
    for (size_t start = 0, end; start < n; start = end) {
        end = bpe->seams ? next_seam(piece, n, start + 1) : n;
        GR_TRY(encode_part(bpe, scratch, piece + start, end - start, ids));
    }
done:
    return st;
}
