/* The directory of a ZIP file whose entries are stored, not compressed: what torch.save writes. Nothing is copied or unpacked. */
#ifndef GR_INTEROP_ZIP_H
#define GR_INTEROP_ZIP_H
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct gr_zip_entry {
    const char *name;               /* [name_n], not terminated; borrowed from the file's bytes, as data is */
    size_t name_n;
    const unsigned char *data;
    size_t n;
} gr_zip_entry;

typedef struct gr_zip {
    gr_zip_entry *entries;          /* [n_entries] sorted by name */
    size_t n_entries;
} gr_zip;

/* Any bytes are safe; they must outlive the directory. With and without ZIP64 end records. Checksums are not compared: torch.save can be told to
 * leave them wrong. Fails with FORMAT, UNSUPPORTED (compressed or encrypted entries), MEMORY. */
grace_status gr_zip_open(const char *where, const void *bytes, size_t n, gr_zip *out);
void gr_zip_close(gr_zip *zip);     /* accepts a zeroed one */

const gr_zip_entry *gr_zip_find(const gr_zip *zip, const char *name, size_t name_n);     /* NULL: there is none */

#endif
