#include "interop/zip.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "interop/bytes.h"

enum { LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50 };
enum { LOCAL_BYTES = 30, CENTRAL_BYTES = 46, END_BYTES = 22, END64_BYTES = 56, LOCATOR_BYTES = 20, COMMENT_MAX = 65535 };
enum { EXTRA_ZIP64 = 1, FLAG_ENCRYPTED = 1 };

typedef struct reader {
    const char *where;
    const unsigned char *bytes;
    size_t n;
    uint64_t n_entries, at, size;       /* of the directory, as the end record says */
} reader;

/* ---- the end record, and the larger one that may stand before it ---- */

static grace_status find_end(const reader *r, size_t *out) {
    for (size_t back = END_BYTES; back <= r->n && back <= END_BYTES + COMMENT_MAX; back++) {
        const unsigned char *p = r->bytes + r->n - back;
        if (gr_le32(p) == END && gr_le16(p + 20) == back - END_BYTES) return *out = r->n - back, GRACE_OK;
    }
    return gr_fail(GRACE_ERR_FORMAT, "%s: no ZIP file, or cut short: it has no end record", r->where);
}

static grace_status read_end64(reader *r, size_t end) {
    grace_status st = GRACE_OK;
    if (end < LOCATOR_BYTES || gr_le32(r->bytes + end - LOCATOR_BYTES) != LOCATOR64) return st;
    uint64_t at = gr_le64(r->bytes + end - LOCATOR_BYTES + 8);
    GR_CHECK(end >= END64_BYTES && at <= end - END64_BYTES && gr_le32(r->bytes + at) == END64, GRACE_ERR_FORMAT,
             "%s: the ZIP64 end record is said to be at byte %" PRIu64 ", it is not there", r->where, at);
    r->n_entries = gr_le64(r->bytes + at + 32);
    r->size = gr_le64(r->bytes + at + 40);
    r->at = gr_le64(r->bytes + at + 48);
done:
    return st;
}

static grace_status read_end(reader *r) {
    grace_status st = GRACE_OK;
    size_t end = 0;
    GR_TRY(find_end(r, &end));
    r->n_entries = gr_le16(r->bytes + end + 10);
    r->size = gr_le32(r->bytes + end + 12);
    r->at = gr_le32(r->bytes + end + 16);
    GR_TRY(read_end64(r, end));
    GR_CHECK(r->at <= end && r->size <= end - r->at, GRACE_ERR_FORMAT,
             "%s: the ZIP directory is said to be %" PRIu64 " bytes at byte %" PRIu64 ", outside the file", r->where, r->size, r->at);
    GR_CHECK(r->n_entries <= r->size / CENTRAL_BYTES, GRACE_ERR_FORMAT, "%s: %" PRIu64 " ZIP entries do not fit a directory of %" PRIu64 " bytes",
             r->where, r->n_entries, r->size);
done:
    return st;
}

/* ---- entries ---- */

typedef struct place { uint64_t packed, size, at; } place;      /* of an entry, as its directory record says */

/* Numbers that do not fit 32 bits stand in the extra field, in this order, only those that are missing. */
static grace_status read_extra(const reader *r, const unsigned char *extra, size_t n, place *p) {
    grace_status st = GRACE_OK;
    uint64_t *const fields[] = {&p->size, &p->packed, &p->at};
    while (n >= 4) {
        size_t id = gr_le16(extra), length = gr_le16(extra + 2), used = 0;
        GR_CHECK(length <= n - 4, GRACE_ERR_FORMAT, "%s: a ZIP entry's extra field ends outside its record", r->where);
        for (int i = 0; i < 3 && id == EXTRA_ZIP64; i++) {
            if (*fields[i] != UINT32_MAX) continue;
            GR_CHECK(used + 8 <= length, GRACE_ERR_FORMAT, "%s: a ZIP64 field is cut short", r->where);
            *fields[i] = gr_le64(extra + 4 + used), used += 8;
        }
        extra += 4 + length, n -= 4 + length;
    }
done:
    return st;
}

/* The data stand behind the local header, whose name and extra field have lengths of their own. */
static grace_status locate(const reader *r, const place *p, gr_zip_entry *out) {
    grace_status st = GRACE_OK;
    int name_n = out->name_n < 80 ? (int)out->name_n : 80;
    GR_CHECK(r->n >= LOCAL_BYTES && p->at <= r->n - LOCAL_BYTES && gr_le32(r->bytes + p->at) == LOCAL, GRACE_ERR_FORMAT,
             "%s: entry '%.*s' is said to be at byte %" PRIu64 ", it is not there", r->where, name_n, out->name, p->at);
    const unsigned char *local = r->bytes + p->at;
    size_t skip = (size_t)LOCAL_BYTES + gr_le16(local + 26) + gr_le16(local + 28), left = r->n - (size_t)p->at;
    GR_CHECK(skip <= left && p->size <= left - skip, GRACE_ERR_FORMAT, "%s: entry '%.*s' of %" PRIu64 " bytes ends outside the file", r->where, name_n,
             out->name, p->size);
    out->data = local + skip;
    out->n = (size_t)p->size;
done:
    return st;
}

/* One record at p of at most n bytes; *used is its length. */
static grace_status read_entry(const reader *r, const unsigned char *p, size_t n, size_t *used, gr_zip_entry *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(n >= CENTRAL_BYTES && gr_le32(p) == CENTRAL, GRACE_ERR_FORMAT, "%s: the ZIP directory is damaged: expected an entry's record", r->where);
    size_t name_n = gr_le16(p + 28), extra_n = gr_le16(p + 30), comment_n = gr_le16(p + 32);
    *used = CENTRAL_BYTES + name_n + extra_n + comment_n;
    GR_CHECK(*used <= n, GRACE_ERR_FORMAT, "%s: the ZIP directory is damaged: a record ends outside it", r->where);
    *out = (gr_zip_entry){.name = (const char *)p + CENTRAL_BYTES, .name_n = name_n};
    GR_CHECK(gr_le16(p + 10) == 0 && !(gr_le16(p + 8) & FLAG_ENCRYPTED), GRACE_ERR_UNSUPPORTED,
             "%s: entry '%.*s' is compressed or encrypted, expected stored as torch.save writes it", r->where, name_n < 80 ? (int)name_n : 80, out->name);
    place at = {gr_le32(p + 20), gr_le32(p + 24), gr_le32(p + 42)};
    GR_TRY(read_extra(r, p + CENTRAL_BYTES + name_n, extra_n, &at));
    GR_CHECK(at.packed == at.size, GRACE_ERR_FORMAT, "%s: a stored ZIP entry has two sizes, %" PRIu64 " and %" PRIu64, r->where, at.packed, at.size);
    GR_TRY(locate(r, &at, out));
done:
    return st;
}

static int compare_names(const char *a, size_t a_n, const char *b, size_t b_n) {
    int order = memcmp(a, b, a_n < b_n ? a_n : b_n);
    return order ? order : (a_n > b_n) - (a_n < b_n);
}

static int by_name(const void *a, const void *b) {
    const gr_zip_entry *x = a, *y = b;
    return compare_names(x->name, x->name_n, y->name, y->name_n);
}

/* Stored entries have their bytes to themselves: a small file whose entries share them would be long to read. */
static grace_status check_apart(const reader *r, const gr_zip *zip) {
    uint64_t sum = 0;
    for (size_t i = 0; i < zip->n_entries; i++) sum += zip->entries[i].n;       /* each at most n, and there are fewer than n */
    if (sum <= r->n) return GRACE_OK;
    return gr_fail(GRACE_ERR_FORMAT, "%s: ZIP entries of %" PRIu64 " bytes in a file of %zu: they overlap", r->where, sum, r->n);
}

static grace_status check_unique(const reader *r, const gr_zip *zip) {
    for (size_t i = 1; i < zip->n_entries; i++)
        if (by_name(&zip->entries[i - 1], &zip->entries[i]) == 0)
            return gr_fail(GRACE_ERR_FORMAT, "%s: two ZIP entries are called '%.*s'", r->where,
                           zip->entries[i].name_n < 80 ? (int)zip->entries[i].name_n : 80, zip->entries[i].name);
    return GRACE_OK;
}

grace_status gr_zip_open(const char *where, const void *bytes, size_t n, gr_zip *out) {
    grace_status st = GRACE_OK;
    reader r = {.where = where, .bytes = bytes, .n = n};
    gr_zip zip = {0};
    GR_TRY(read_end(&r));
    GR_CALLOC(zip.entries, r.n_entries);
    const unsigned char *p = r.bytes + r.at;
    for (size_t left = (size_t)r.size, used = 0; zip.n_entries < r.n_entries; zip.n_entries++, p += used, left -= used)
        GR_TRY(read_entry(&r, p, left, &used, &zip.entries[zip.n_entries]));
    GR_TRY(check_apart(&r, &zip));
    qsort(zip.entries, zip.n_entries, sizeof *zip.entries, by_name);
    GR_TRY(check_unique(&r, &zip));
    *out = zip, zip.entries = NULL;
done:
    free(zip.entries);
    return st;
}

void gr_zip_close(gr_zip *zip) {
    free(zip->entries);
    *zip = (gr_zip){0};
}

const gr_zip_entry *gr_zip_find(const gr_zip *zip, const char *name, size_t name_n) {
    gr_zip_entry key = {.name = name, .name_n = name_n};
    return bsearch(&key, zip->entries, zip->n_entries, sizeof key, by_name);
}
