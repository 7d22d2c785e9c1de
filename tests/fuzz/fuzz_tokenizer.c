/* A tokenizer.json, a zero byte, a text. What loads and encodes must give ids of the vocabulary, and streaming must show what decoding
 * at once shows. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"
#include "text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A copy that ends where its allocation ends, so that reading one byte further is seen by the sanitizer. */
static char *exact_copy(const uint8_t *bytes, size_t n) {
    char *copy = malloc(n ? n : 1);
    GR_ASSERT(copy);
    if (n) memcpy(copy, bytes, n);
    return copy;
}

/* Characters of a run of byte tokens that breaks later were streamed, and are U+FFFD when decoded at once (grace/tokenizer.h). */
static bool may_differ(const grace_tokenizer *tok, const char *text, size_t n) {
    return !gr_detokenizer_byte_level(tok->detokenizer) && memmem(text, n, "\xEF\xBF\xBD", 3);
}

static void check_stream(const grace_tokenizer *tok, const int32_t *ids, int32_t n_ids, int skip_special) {
    grace_decoder dec = {0};
    char *text, piece[GRACE_PIECE_MAX];
    size_t n_text, n_piece, at = 0;
    GR_ASSERT(grace_tokenizer_decode(tok, ids, n_ids, skip_special, &text, &n_text) == GRACE_OK);
    GR_ASSERT(gr_utf8_valid(text, n_text) == n_text && text[n_text] == 0);
    bool differs = may_differ(tok, text, n_text);
    for (int32_t i = 0; i <= n_ids; i++) {
        if (i < n_ids)
            GR_ASSERT(grace_decoder_next(&dec, tok, ids[i], skip_special, piece, &n_piece) == GRACE_OK);
        else
            grace_decoder_finish(&dec, piece, &n_piece);
        GR_ASSERT(n_piece <= GRACE_PIECE_MAX && gr_utf8_valid(piece, n_piece) == n_piece);
        GR_ASSERT(differs || (n_piece <= n_text - at && !memcmp(piece, text + at, n_piece)));
        at += n_piece;
    }
    GR_ASSERT(differs || at == n_text);
    free(text);
}

static void check_text(const grace_tokenizer *tok, const char *text, size_t n) {
    int32_t *ids = NULL, n_ids = 0;
    if (grace_tokenizer_encode(tok, text, n, &ids, &n_ids)) {
        GR_ASSERT(!ids && grace_last_error()[0]);
        return;
    }
    for (int32_t i = 0; i < n_ids; i++) GR_ASSERT(ids[i] >= 0 && ids[i] < grace_tokenizer_vocab(tok));
    check_stream(tok, ids, n_ids, 0);
    check_stream(tok, ids, n_ids, 1);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    size_t n_json = zero ? (size_t)(zero - data) : n, n_text = zero ? n - n_json - 1 : 0;
    char *json = exact_copy(data, n_json), *text = exact_copy(zero ? zero + 1 : NULL, n_text);
    grace_tokenizer *tok = NULL;
    if (gr_tokenizer_parse(json, n_json, &tok))
        GR_ASSERT(!tok && grace_last_error()[0]);
    else
        check_text(tok, text, n_text);
    grace_tokenizer_close(tok);
    free(json);
    free(text);
    return 0;
}
