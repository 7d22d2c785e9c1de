#include "resident.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

grace_status gr_resident_now(gr_resident *out) {
    static const char *const names[] = {"VmHWM:", "RssAnon:", "RssFile:", "RssShmem:"};
    enum { N = sizeof names / sizeof *names };
    grace_status st = GRACE_OK;
    char line[256];
    int64_t bytes[N];
    int n_found = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && n_found < N && fgets(line, sizeof line, file)) {     /* they stand in this order */
        const size_t n = strlen(names[n_found]);
        if (!strncmp(line, names[n_found], n)) bytes[n_found++] = 1024 * (int64_t)strtoll(line + n, NULL, 10);
    }
    GR_CHECK(n_found == N, GRACE_ERR_UNSUPPORTED, "/proc/self/status does not give %s", names[n_found]);
    *out = (gr_resident){.own = bytes[1], .mapped = bytes[2] + bytes[3], .peak = bytes[0]};
done:
    if (file) fclose(file);
    return st;
}
