/* A folder for targets that open files: made at the first file, removed when the program ends. An input has its files one behind the other, each ended
 * by a zero byte but the last. */
#ifndef GR_TESTS_FUZZ_SCRATCH_H
#define GR_TESTS_FUZZ_SCRATCH_H
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"

static char scratch[64];            /* the folder */

static inline void scratch_remove(void) {
    DIR *d = opendir(scratch);
    for (struct dirent *entry; d && (entry = readdir(d));)
        if (entry->d_name[0] != '.') unlinkat(dirfd(d), entry->d_name, 0);
    if (d) closedir(d);
    rmdir(scratch);
}

/* wanted false: the file is not there. */
static inline void scratch_put(const char *name, const void *bytes, size_t n, bool wanted) {
    char path[128];
    if (!scratch[0]) {
        strcpy(scratch, "/tmp/grace-fuzz-XXXXXX");
        GR_ASSERT(mkdtemp(scratch));
        atexit(scratch_remove);
    }
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    FILE *fp = wanted ? fopen(path, "wb") : NULL;
    if (!wanted) unlink(path);
    if (fp) {
        fwrite(bytes, 1, n, fp);
        fclose(fp);
    }
}

/* The length up to the next zero byte; *at moves behind that. */
static inline size_t scratch_part(const uint8_t **at, const uint8_t *end) {
    const size_t left = (size_t)(end - *at);
    const uint8_t *stop = left ? memchr(*at, 0, left) : NULL;
    const size_t n = stop ? (size_t)(stop - *at) : left;
    *at += n + (stop != NULL);
    return n;
}

#endif
