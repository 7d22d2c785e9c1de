#include "interop/npy.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "interop/bytes.h"

/* The header is a Python dict; we know three keys, strings in single quotes, True, False and tuples of numbers. */
typedef struct text { const char *where, *at, *end; } text;

static void skip_blanks(text *t) {
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\n')) t->at++;
}

static bool accept(text *t, const char *word) {
    size_t n = strlen(word);
    skip_blanks(t);
    if ((size_t)(t->end - t->at) < n || memcmp(t->at, word, n) != 0) return false;
    t->at += n;
    return true;
}

static grace_status expect(text *t, const char *word) {
    int left = t->end - t->at < 20 ? (int)(t->end - t->at) : 20;
    if (accept(t, word)) return GRACE_OK;
    return gr_fail(GRACE_ERR_FORMAT, "%s: .npy header: expected \"%s\", found \"%.*s\"", t->where, word, left, t->at);
}

/* '<i4', '|b1', ... */
static grace_status read_type(text *t, gr_npy *out) {
    grace_status st = GRACE_OK;
    GR_TRY(expect(t, "'"));
    GR_CHECK(t->end - t->at >= 4 && t->at[3] == '\'', GRACE_ERR_UNSUPPORTED, "%s: .npy elements: expected whole numbers such as '<i4'", t->where);
    char order = t->at[0], kind = t->at[1], digit = t->at[2];
    GR_CHECK((order == '<' || order == '|' || order == '=') && strchr("biu", kind) && kind && strchr("1248", digit) && digit, GRACE_ERR_UNSUPPORTED,
             "%s: .npy elements: expected whole numbers such as '<i4', found '%.3s'", t->where, t->at);
    out->kind = kind;
    out->item_bytes = digit - '0';
    t->at += 4;
done:
    return st;
}

static grace_status read_size(text *t, int64_t *out) {
    grace_status st = GRACE_OK;
    int64_t value = 0;
    int digits = 0;
    skip_blanks(t);
    for (; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++, digits++) {
        GR_CHECK(digits < 18, GRACE_ERR_FORMAT, "%s: .npy shape: a number of more than 18 digits", t->where);
        value = 10 * value + (*t->at - '0');
    }
    GR_CHECK(digits > 0, GRACE_ERR_FORMAT, "%s: .npy shape: expected a number", t->where);
    *out = value;
done:
    return st;
}

/* (), (3,), (2, 3) */
static grace_status read_shape(text *t, gr_npy *out) {
    grace_status st = GRACE_OK;
    GR_TRY(expect(t, "("));
    while (!accept(t, ")")) {
        GR_CHECK(out->n_dims < GR_NPY_DIMS_MAX, GRACE_ERR_FORMAT, "%s: .npy shape: more than %d dimensions", t->where, GR_NPY_DIMS_MAX);
        GR_TRY(read_size(t, &out->size[out->n_dims++]));
        if (accept(t, ",")) continue;
        GR_TRY(expect(t, ")"));
        break;
    }
done:
    return st;
}

static grace_status read_order(text *t) {
    grace_status st = GRACE_OK;
    GR_CHECK(!accept(t, "True"), GRACE_ERR_UNSUPPORTED, "%s: .npy in Fortran order, expected C order", t->where);
    GR_TRY(expect(t, "False"));
done:
    return st;
}

static grace_status read_dict(text *t, gr_npy *out) {
    grace_status st = GRACE_OK;
    bool type = false, order = false, shape = false;
    GR_TRY(expect(t, "{"));
    while (!accept(t, "}")) {
        if (!type && accept(t, "'descr':")) type = true, st = read_type(t, out);
        else if (!order && accept(t, "'fortran_order':")) order = true, st = read_order(t);
        else if (!shape && accept(t, "'shape':")) shape = true, st = read_shape(t, out);
        else st = gr_fail(GRACE_ERR_FORMAT, "%s: .npy header: expected descr, fortran_order and shape, once each", t->where);
        if (st) goto done;
        if (!accept(t, ",")) {
            GR_TRY(expect(t, "}"));
            break;
        }
    }
    GR_CHECK(type && order && shape, GRACE_ERR_FORMAT, "%s: .npy header: expected descr, fortran_order and shape", t->where);
done:
    return st;
}

static grace_status find_header(const char *where, const unsigned char *p, size_t n, text *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(n >= 10 && memcmp(p, "\x93NUMPY", 6) == 0, GRACE_ERR_FORMAT, "%s: no .npy file", where);
    GR_CHECK((p[6] == 1 || p[6] == 2) && p[7] == 0, GRACE_ERR_UNSUPPORTED, "%s: .npy version %d.%d, expected 1.0 or 2.0", where, p[6], p[7]);
    size_t prefix = p[6] == 1 ? 10 : 12;
    GR_CHECK(n >= prefix, GRACE_ERR_FORMAT, "%s: the .npy header is cut short", where);
    size_t length = p[6] == 1 ? gr_le16(p + 8) : gr_le32(p + 8);
    GR_CHECK(length <= n - prefix, GRACE_ERR_FORMAT, "%s: the .npy header is cut short", where);
    *out = (text){where, (const char *)p + prefix, (const char *)p + prefix + length};
done:
    return st;
}

grace_status gr_npy_parse(const char *where, const void *bytes, size_t n, gr_npy *out) {
    grace_status st = GRACE_OK;
    const unsigned char *p = bytes;
    gr_npy npy = {.n = 1};
    text t;
    GR_TRY(find_header(where, p, n, &t));
    GR_TRY(read_dict(&t, &npy));
    npy.data = (const unsigned char *)t.end;
    size_t left = n - (size_t)(npy.data - p);
    for (int32_t d = 0; d < npy.n_dims; d++)
        GR_CHECK(!__builtin_mul_overflow(npy.n, npy.size[d], &npy.n), GRACE_ERR_FORMAT, "%s: .npy shape: more than 2^63 elements", where);
    GR_CHECK(left % (size_t)npy.item_bytes == 0 && (uint64_t)npy.n == left / (size_t)npy.item_bytes, GRACE_ERR_FORMAT,
             "%s: %" PRId64 " elements of %d bytes, found %zu bytes", where, npy.n, npy.item_bytes, left);
    *out = npy;
done:
    return st;
}

int64_t gr_npy_int(const gr_npy *npy, int64_t element) {
    const unsigned char *p = npy->data + element * npy->item_bytes;
    uint64_t v = gr_le(p, npy->item_bytes);
    int unused = 64 - 8 * npy->item_bytes;
    return npy->kind == 'i' ? (int64_t)(v << unused) >> unused : (int64_t)v;
}

grace_status gr_npy_print(const int32_t *values, const int64_t *size, int32_t n_dims, gr_buf *out) {
    grace_status st = GRACE_OK;
    gr_buf header = {0};
    unsigned char prefix[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0}, item[4];
    int64_t n = 1;
    GR_TRY(gr_buf_printf(&header, "{'descr': '<i4', 'fortran_order': False, 'shape': ("));
    for (int32_t d = 0; d < n_dims; n *= size[d], d++)
        GR_TRY(gr_buf_printf(&header, "%" PRId64 "%s", size[d], d + 1 < n_dims ? ", " : n_dims == 1 ? "," : ""));
    GR_TRY(gr_buf_printf(&header, "), }"));
    while ((sizeof prefix + header.n + 1) % 64) GR_TRY(gr_buf_printf(&header, " "));       /* elements begin at a multiple of 64 */
    GR_TRY(gr_buf_printf(&header, "\n"));
    prefix[8] = (unsigned char)header.n, prefix[9] = (unsigned char)(header.n >> 8);
    GR_TRY(gr_buf_append(out, prefix, sizeof prefix));
    GR_TRY(gr_buf_append(out, header.data, header.n));
    for (int64_t i = 0; i < n; i++) {
        gr_put_le32(item, (uint32_t)values[i]);
        GR_TRY(gr_buf_append(out, item, sizeof item));
    }
done:
    gr_buf_free(&header);
    return st;
}
