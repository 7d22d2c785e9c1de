#include "fetch/digest.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stdbool.h>

#include "base/memory.h"

static void to_hex(const unsigned char *bytes, unsigned n, char *out) {
    for (unsigned i = 0; i < n; i++) sprintf(out + 2 * i, "%02x", bytes[i]);
}

static grace_status read_into(int fd, EVP_MD_CTX *context) {
    enum { CHUNK = 1 << 18 };
    grace_status st = GRACE_OK;
    char *chunk = NULL;
    ssize_t n = 0;
    GR_CALLOC(chunk, CHUNK);
    for (off_t at = 0; (n = pread(fd, chunk, CHUNK, at)) > 0; at += n)
        GR_CHECK(EVP_DigestUpdate(context, chunk, (size_t)n), GRACE_ERR_MEMORY, "libcrypto refuses to digest");
    GR_CHECK(n == 0, GRACE_ERR_IO, "cannot read back: %s", strerror(errno));
done:
    free(chunk);
    return st;
}

grace_status gr_digest_file(int fd, const char *expected, char out[GR_DIGEST_MAX]) {
    grace_status st = GRACE_OK;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char header[32];
    struct stat info;
    bool large = strlen(expected) == 64;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    GR_CHECK(context && EVP_DigestInit_ex(context, large ? EVP_sha256() : EVP_sha1(), NULL), GRACE_ERR_MEMORY, "libcrypto does not start");
    GR_CHECK(fstat(fd, &info) == 0, GRACE_ERR_IO, "%s", strerror(errno));
    int n_header = snprintf(header, sizeof header, "blob %lld", (long long)info.st_size) + 1;     /* its zero belongs to it */
    if (!large) GR_CHECK(EVP_DigestUpdate(context, header, (size_t)n_header), GRACE_ERR_MEMORY, "libcrypto refuses to digest");
    GR_TRY(read_into(fd, context));
    GR_CHECK(EVP_DigestFinal_ex(context, digest, &n) && 2 * n < GR_DIGEST_MAX, GRACE_ERR_MEMORY, "libcrypto refuses to digest");
    to_hex(digest, n, out);
done:
    EVP_MD_CTX_free(context);
    return st;
}
