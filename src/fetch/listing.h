/* What a hub says is in a repository: GET /api/models/ORG/NAME/revision/REVISION?blobs=true. */
#ifndef GR_FETCH_LISTING_H
#define GR_FETCH_LISTING_H
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "fetch/digest.h"

typedef struct gr_listed {
    char *name;                     /* relative, with '/'; safe to create below a folder */
    int64_t size;                   /* bytes */
    char digest[GR_DIGEST_MAX];     /* 64 digits: SHA-256; 40: git's blob SHA-1 */
    bool pickled;                   /* weights that run code when they are read */
} gr_listed;

typedef struct gr_listing {
    char commit[41];
    gr_listed *files;               /* [n_files] in the order of their names */
    int32_t n_files;
} gr_listing;

/* json [n]. Every name is checked: no absolute path, no "..", no backslash or control character, no name twice, none that is a folder elsewhere. Fails with
 * FORMAT, LIMIT (files, length of a name). The caller frees. */
grace_status gr_listing_parse(const char *where, const char *json, size_t n, gr_listing *out);
void gr_listing_free(gr_listing *listing);

#endif
