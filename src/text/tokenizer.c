#include "text/tokenizer.h"

#include <string.h>

#include "text/normalize.h"
#include "text/unicode.h"

enum { TEXT_MAX = 1 << 30 };        /* bytes in one call; ids are counted in int32_t */

int32_t grace_tokenizer_vocab(const grace_tokenizer *tok) { return tok->vocab.n_tokens; }

int32_t grace_tokenizer_id(const grace_tokenizer *tok, const char *token) { return gr_vocab_find(&tok->vocab, token, strlen(token)); }

/* ---- encoding ---- */

/* What one call needs besides the tokenizer, so that the tokenizer stays unchanged. */
typedef struct encoding {
    const grace_tokenizer *tok;
    const char *text;               /* the caller's, or normal.data */
    gr_buf normal;
    gr_searcher searcher;
    gr_segments first, all;         /* after the first and the second set of added tokens */
    gr_pieces pieces;
    gr_bpe_scratch scratch;
    gr_ids ids;
} encoding;

static void encoding_free(encoding *e) {
    gr_searcher_close(&e->searcher);
    gr_buf_free(&e->normal);
    free(e->first.data);
    free(e->all.data);
    gr_pieces_free(&e->pieces);
    gr_bpe_scratch_free(&e->scratch);
    free(e->ids.data);
}

static grace_status push_all(gr_ids *ids, const gr_ids *more) {
    grace_status st = gr_ids_reserve(ids, more->n);
    for (size_t i = 0; !st && i < more->n; i++) ids->data[ids->n++] = more->data[i];
    return st;
}

/* From here on the segments lie in the normalised text. */
static grace_status normalize(encoding *e) {
    grace_status st = GRACE_OK;
    for (size_t i = 0; i < e->first.n; i++) {
        gr_segment *segment = &e->first.data[i];
        size_t start = e->normal.n;
        if (segment->id < 0) GR_TRY(gr_nfc_append(&e->normal, e->text + segment->start, segment->end - segment->start));
        segment->start = start;
        segment->end = e->normal.n;
    }
    if (e->normal.data) e->text = e->normal.data;
done:
    return st;
}

static grace_status find_added(encoding *e, size_t n) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_added_split(&e->tok->added, &e->searcher, e->text, 0, n, &e->first));
    if (e->tok->nfc) GR_TRY(normalize(e));
    for (size_t i = 0; i < e->first.n; i++) {
        gr_segment *segment = &e->first.data[i];
        if (segment->id < 0)
            GR_TRY(gr_added_split(&e->tok->added_after, &e->searcher, e->text, segment->start, segment->end, &e->all));
        else
            GR_TRY(gr_segments_push(&e->all, *segment));
    }
done:
    return st;
}

static grace_status encode_plain(encoding *e, size_t start, size_t end) {
    grace_status st = GRACE_OK;
    gr_pieces *pieces = &e->pieces;
    GR_TRY(gr_pretokenize(e->tok->pre, &e->searcher, e->text + start, end - start, pieces));
    for (size_t i = 0; i < pieces->n_spans; i++) {
        gr_span span = pieces->spans[i];
        GR_TRY(gr_bpe_encode(&e->tok->bpe, &e->scratch, pieces->text + span.start, span.end - span.start, &e->ids));
    }
done:
    return st;
}

static grace_status encode(encoding *e, size_t n) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_searcher_open(&e->searcher));
    GR_TRY(gr_ids_reserve(&e->ids, n / 3));
    GR_TRY(push_all(&e->ids, &e->tok->before));
    GR_TRY(find_added(e, n));
    for (size_t i = 0; i < e->all.n; i++) {
        const gr_segment *segment = &e->all.data[i];
        GR_TRY(segment->id < 0 ? encode_plain(e, segment->start, segment->end) : gr_ids_push(&e->ids, segment->id));
    }
    GR_TRY(push_all(&e->ids, &e->tok->after));
done:
    return st;
}

grace_status grace_tokenizer_encode(const grace_tokenizer *tok, const char *text, size_t n, int32_t **ids, int32_t *n_ids) {
    grace_status st = GRACE_OK;
    encoding e = {.tok = tok, .text = text};
    size_t n_valid = n <= TEXT_MAX ? gr_utf8_valid(text, n) : 0;
    GR_CHECK(n <= TEXT_MAX, GRACE_ERR_LIMIT, "text has %zu bytes, at most %d are encoded at once", n, TEXT_MAX);
    GR_CHECK(n_valid == n, GRACE_ERR_FORMAT, "text is no valid UTF-8: byte 0x%02X at offset %zu", (uint8_t)text[n_valid], n_valid);
    GR_TRY(encode(&e, n));
    GR_CHECK(e.ids.n <= INT32_MAX, GRACE_ERR_LIMIT, "text has %zu tokens, at most %d can be counted", e.ids.n, INT32_MAX);
    GR_TRY(gr_ids_reserve(&e.ids, 1));          /* a valid pointer also for no ids */
    *ids = e.ids.data;
    *n_ids = (int32_t)e.ids.n;
    e.ids.data = NULL;
done:
    encoding_free(&e);
    return st;
}

/* ---- decoding ---- */

static grace_status shown_of(const grace_tokenizer *tok, int32_t id, const gr_shown **out) {
    grace_status st = GRACE_OK;
    GR_CHECK(id >= 0 && id < tok->vocab.n_tokens, GRACE_ERR_ARG, "token id %d is outside the vocabulary: expected 0 to %d", (int)id,
             (int)tok->vocab.n_tokens - 1);
    *out = &tok->shown[id];
done:
    return st;
}

static grace_status join_bytes(const grace_tokenizer *tok, const int32_t *ids, int32_t n_ids, bool skip_special, gr_buf *bytes) {
    grace_status st = GRACE_OK;
    const gr_shown *shown = NULL;
    for (int32_t i = 0; i < n_ids; i++) {
        GR_TRY(shown_of(tok, ids[i], &shown));
        if (!(skip_special && shown->special)) GR_TRY(gr_buf_append(bytes, shown->bytes, shown->n));
    }
done:
    return st;
}

grace_status grace_tokenizer_decode(const grace_tokenizer *tok, const int32_t *ids, int32_t n_ids, int skip_special, char **text, size_t *n) {
    grace_status st = GRACE_OK;
    gr_buf bytes = {0};
    char *out = NULL;
    size_t n_out;
    GR_TRY(join_bytes(tok, ids, n_ids, skip_special, &bytes));
    GR_CALLOC(out, 3 * bytes.n + 1);
    gr_utf8_lossy(bytes.data, bytes.n, true, out, &n_out);
    out[n_out] = 0;
    *text = out;
    *n = n_out;
done:
    gr_buf_free(&bytes);
    return st;
}

grace_status grace_decoder_next(grace_decoder *dec, const grace_tokenizer *tok, int32_t id, int skip_special, char *out, size_t *n) {
    grace_status st = GRACE_OK;
    const gr_shown *shown = NULL;
    char bytes[sizeof dec->held + GR_TOKEN_BYTES_MAX];
    GR_TRY(shown_of(tok, id, &shown));
    GR_CHECK(dec->n_held >= 0 && (size_t)dec->n_held < sizeof dec->held, GRACE_ERR_ARG, "the decoder was not zeroed before its first use");
    *n = 0;
    if (skip_special && shown->special) return st;
    size_t n_bytes = (size_t)dec->n_held;
    memcpy(bytes, dec->held, n_bytes);
    memcpy(bytes + n_bytes, shown->bytes, shown->n);
    n_bytes += shown->n;
    size_t consumed = gr_utf8_lossy(bytes, n_bytes, false, out, n);
    dec->n_held = (int32_t)(n_bytes - consumed);        /* at most 3: the start of one character */
    memcpy(dec->held, bytes + consumed, n_bytes - consumed);
done:
    return st;
}

void grace_decoder_finish(grace_decoder *dec, char *out, size_t *n) {
    *n = 0;
    if (dec->n_held > 0) gr_utf8_lossy((const char *)dec->held, (size_t)dec->n_held, true, out, n);
    dec->n_held = 0;
}
