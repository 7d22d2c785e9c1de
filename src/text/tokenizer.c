#include "text/tokenizer.h"

#include <string.h>

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
        if (segment->id < 0)
            GR_TRY(gr_normalize(e->tok->normalizer, &e->searcher, e->text + segment->start, segment->end - segment->start, &e->normal));
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
    if (e->tok->normalizer) GR_TRY(normalize(e));
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

static grace_status encode_plain(encoding *e, size_t start, size_t end, bool at_start) {
    grace_status st = GRACE_OK;
    gr_pieces *pieces = &e->pieces;
    GR_TRY(gr_pretokenize(e->tok->pre, &e->searcher, e->text + start, end - start, at_start, pieces));
    for (size_t i = 0; i < pieces->n_spans; i++) {
        gr_span span = pieces->spans[i];
        GR_TRY(gr_bpe_encode(&e->tok->bpe, &e->scratch, pieces->text + span.start, span.end - span.start, &e->ids));
    }
done:
    return st;
}

static grace_status encode(encoding *e, size_t n, bool bare) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_searcher_open(&e->searcher));
    GR_TRY(gr_ids_reserve(&e->ids, n / 3));
    if (!bare) GR_TRY(push_all(&e->ids, &e->tok->wrapping.before));
    GR_TRY(find_added(e, n));
    for (size_t i = 0; i < e->all.n; i++) {
        const gr_segment *segment = &e->all.data[i];
        GR_TRY(segment->id < 0 ? encode_plain(e, segment->start, segment->end, i == 0) : gr_ids_push(&e->ids, segment->id));
    }
    if (!bare) GR_TRY(push_all(&e->ids, &e->tok->wrapping.after));
done:
    return st;
}

static grace_status encode_text(const grace_tokenizer *tok, const char *text, size_t n, bool bare, int32_t **ids, int32_t *n_ids) {
    grace_status st = GRACE_OK;
    encoding e = {.tok = tok, .text = text};
    size_t n_valid = n <= TEXT_MAX ? gr_utf8_valid(text, n) : 0;
    GR_CHECK(n <= TEXT_MAX, GRACE_ERR_LIMIT, "text has %zu bytes, at most %d are encoded at once", n, TEXT_MAX);
    GR_CHECK(n_valid == n, GRACE_ERR_FORMAT, "text is no valid UTF-8: byte 0x%02X at offset %zu", (uint8_t)text[n_valid], n_valid);
    GR_TRY(encode(&e, n, bare));
    GR_CHECK(e.ids.n <= INT32_MAX, GRACE_ERR_LIMIT, "text has %zu tokens, at most %d can be counted", e.ids.n, INT32_MAX);
    GR_TRY(gr_ids_reserve(&e.ids, 1));          /* a valid pointer also for no ids */
    *ids = e.ids.data;
    *n_ids = (int32_t)e.ids.n;
    e.ids.data = NULL;
done:
    encoding_free(&e);
    return st;
}

grace_status grace_tokenizer_encode(const grace_tokenizer *tok, const char *text, size_t n, int32_t **ids, int32_t *n_ids) {
    return encode_text(tok, text, n, false, ids, n_ids);
}

grace_status grace_tokenizer_encode_bare(const grace_tokenizer *tok, const char *text, size_t n, int32_t **ids, int32_t *n_ids) {
    return encode_text(tok, text, n, true, ids, n_ids);
}

/* ---- decoding ---- */

/* A model may have more rows than its tokenizer has ids: an id without a token shows nothing, as in the reference. */
static grace_status shown_of(const grace_tokenizer *tok, int32_t id, gr_shown *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(id >= 0, GRACE_ERR_ARG, "token id %d: expected 0 or more", (int)id);
    *out = id < tok->vocab.n_tokens ? tok->shown[id] : (gr_shown){.byte = -1};
done:
    return st;
}

static bool has_token(const grace_tokenizer *tok, int32_t id) { return id < tok->vocab.n_tokens && tok->vocab.tokens[id].text; }

/* The text of an id, borrowed until the next call; first is the buffer for what a token shows only at the start of a text. */
static grace_status text_of(const grace_tokenizer *tok, int32_t id, const gr_shown *shown, gr_buf *first, const char **text, size_t *n) {
    grace_status st = GRACE_OK;
    gr_searcher searcher = {0};
    int16_t byte;
    *text = shown->n ? tok->shown_text.data + shown->start : "";
    *n = shown->n;
    if (!first || !gr_detokenizer_minds_first(tok->detokenizer)) return st;
    const gr_token *token = &tok->vocab.tokens[id];
    first->n = 0;
    GR_TRY(gr_searcher_open(&searcher));
    GR_TRY(gr_detokenize_token(tok->detokenizer, &searcher, token->text, token->n, true, first, &byte));
    *text = first->data;
    *n = first->n;
done:
    gr_searcher_close(&searcher);
    return st;
}

/* A run of byte tokens is text when all of it is valid; else the reference shows each of its bytes as U+FFFD. */
static grace_status end_run(gr_buf *run, gr_buf *out) {
    grace_status st = GRACE_OK;
    bool valid = gr_utf8_valid(run->data, run->n) == run->n;
    if (valid) GR_TRY(gr_buf_append(out, run->data, run->n));
    for (size_t i = 0; !valid && i < run->n; i++) GR_TRY(gr_buf_append(out, "\xEF\xBF\xBD", 3));
    run->n = 0;
done:
    return st;
}

static grace_status join(const grace_tokenizer *tok, const int32_t *ids, int32_t n_ids, bool skip_special, gr_buf *out) {
    grace_status st = GRACE_OK;
    gr_shown shown;
    gr_buf run = {0}, first_text = {0};
    const char *text;
    size_t n;
    bool first = true;
    for (int32_t i = 0; i < n_ids; i++) {
        GR_TRY(shown_of(tok, ids[i], &shown));
        if ((skip_special && shown.special) || !has_token(tok, ids[i])) continue;
        GR_TRY(text_of(tok, ids[i], &shown, first ? &first_text : NULL, &text, &n));
        first = false;
        if (shown.byte >= 0) {
            GR_TRY(gr_buf_append(&run, (char[1]){(char)shown.byte}, 1));
            continue;
        }
        GR_TRY(end_run(&run, out));
        GR_TRY(gr_buf_append(out, text, n));
    }
    GR_TRY(end_run(&run, out));
done:
    gr_buf_free(&run);
    gr_buf_free(&first_text);
    return st;
}

grace_status grace_tokenizer_decode(const grace_tokenizer *tok, const int32_t *ids, int32_t n_ids, int skip_special, char **text, size_t *n) {
    grace_status st = GRACE_OK;
    gr_buf joined = {0};
    char *out = NULL;
    size_t n_out;
    int32_t n_stripped = 0;
    GR_TRY(gr_buf_append(&joined, "", 0));
    GR_TRY(join(tok, ids, n_ids, skip_special, &joined));
    size_t start = gr_detokenize_strip(tok->detokenizer, joined.data, joined.n, &n_stripped);
    GR_CALLOC(out, 3 * joined.n + 1);
    gr_utf8_lossy(joined.data + start, joined.n - start, true, out, &n_out);
    out[n_out] = 0;
    *text = out;
    *n = n_out;
done:
    gr_buf_free(&joined);
    return st;
}

/* ---- streaming ---- */

enum { BYTES = 1, CHARACTERS = 2 };         /* grace_decoder.begun: what the tokens so far were */

/* Bytes of a run become text; a byte that fits nowhere is one U+FFFD. Returns how many were read. */
static size_t show_run(const char *run, size_t n, bool final, char *out, size_t *n_out) {
    size_t i = 0, o = *n_out;
    uint32_t cp;
    while (i < n) {
        int step = gr_utf8_step(run + i, n - i, &cp);
        if (step == 0 && !final) break;
        memcpy(out + o, step > 0 ? run + i : "\xEF\xBF\xBD", step > 0 ? (size_t)step : 3);
        o += step > 0 ? (size_t)step : 3;
        i += step > 0 ? (size_t)step : 1;
    }
    *n_out = o;
    return i;
}

/* held, then text [n]: all that is complete goes to out. */
static void show(grace_decoder *dec, const char *text, size_t n, bool byte_level, bool final, char *out, size_t *n_out) {
    char bytes[sizeof dec->held + GR_TOKEN_BYTES_MAX];
    size_t n_bytes = (size_t)dec->n_held;
    memcpy(bytes, dec->held, n_bytes);
    if (n) memcpy(bytes + n_bytes, text, n);
    n_bytes += n;
    size_t consumed = byte_level ? gr_utf8_lossy(bytes, n_bytes, final, out, n_out) : show_run(bytes, n_bytes, final, out, n_out);
    dec->n_held = (int32_t)(n_bytes - consumed);        /* at most 3: the start of one character */
    memcpy(dec->held, bytes + consumed, n_bytes - consumed);
}

/* Texts of characters: a run of bytes ends where a token of text follows. */
static void show_characters(grace_decoder *dec, const gr_shown *shown, const char *text, size_t n, char *out, size_t *n_out) {
    char byte = (char)shown->byte;
    if (shown->byte >= 0) {
        show(dec, &byte, 1, false, false, out, n_out);
        return;
    }
    show(dec, NULL, 0, false, true, out, n_out);
    if (n) memcpy(out + *n_out, text, n);
    *n_out += n;
}

grace_status grace_decoder_next(grace_decoder *dec, const grace_tokenizer *tok, int32_t id, int skip_special, char *out, size_t *n) {
    grace_status st = GRACE_OK;
    gr_shown shown;
    gr_buf first_text = {0};
    const char *text;
    size_t n_text;
    *n = 0;
    GR_TRY(shown_of(tok, id, &shown));
    GR_CHECK(dec->n_held >= 0 && (size_t)dec->n_held < sizeof dec->held, GRACE_ERR_ARG, "the decoder was not zeroed before its first use");
    if ((skip_special && shown.special) || !has_token(tok, id)) return st;
    GR_TRY(text_of(tok, id, &shown, dec->begun ? NULL : &first_text, &text, &n_text));
    dec->begun = gr_detokenizer_byte_level(tok->detokenizer) ? BYTES : CHARACTERS;
    if (dec->begun == BYTES)
        show(dec, text, n_text, true, false, out, n);
    else
        show_characters(dec, &shown, text, n_text, out, n);
    size_t stripped = gr_detokenize_strip(tok->detokenizer, out, *n, &dec->n_stripped);
    memmove(out, out + stripped, *n -= stripped);
done:
    gr_buf_free(&first_text);
    return st;
}

void grace_decoder_finish(grace_decoder *dec, char *out, size_t *n) {
    *n = 0;
    if (dec->n_held > 0) show(dec, NULL, 0, dec->begun == BYTES, true, out, n);
    *dec = (grace_decoder){0};
}
