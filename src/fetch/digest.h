/* The checksums of the hub: SHA-256 of large files, git's SHA-1 of a blob for the others. libcrypto behind it. */
#ifndef GR_FETCH_DIGEST_H
#define GR_FETCH_DIGEST_H
#include "base/status.h"

enum { GR_DIGEST_MAX = 65 };                        /* of a text: 64 or 40 hexadecimal digits and a zero */

/* The digest of the file behind fd, from its beginning: SHA-256 when expected has 64 digits, git's blob SHA-1 when it has 40. */
grace_status gr_digest_file(int fd, const char *expected, char out[GR_DIGEST_MAX]);

#endif
