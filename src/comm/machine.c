/* Which ranks run on one machine, whatever nodes they are cut into; what a machine has. */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/memory.h"
#include "comm/comm.h"

grace_status gr_comm_machine_rank(gr_comm *c, int32_t *out) {
    grace_status st = GRACE_OK;
    char name[256] = "";
    uint64_t mine, *all = NULL;
    GR_CALLOC(all, c->n_ranks);
    gethostname(name, sizeof name - 1);
    mine = gr_hash64(name, sizeof name, 0);
    GR_TRY(gr_comm_allgather(c, &mine, sizeof mine, all));
    *out = 0;
    for (int32_t r = 0; r < c->rank; r++) *out += all[r] == mine;
done:
    free(all);
    return st;
}

/* A port's state file reads "4: ACTIVE". */
static bool is_active(const char *path) {
    char text[32] = "";
    FILE *f = fopen(path, "r");
    if (f) {
        (void)!fgets(text, sizeof text, f);
        fclose(f);
    }
    return strstr(text, "ACTIVE") != NULL;
}

bool gr_machine_has_fabric(void) {
    const char *disabled = getenv("NCCL_IB_DISABLE");
    glob_t found;
    bool has = false;
    if (disabled && strcmp(disabled, "0") != 0) return false;
    if (glob("/sys/class/infiniband/*/ports/*/state", 0, NULL, &found) != 0) return false;
    for (size_t i = 0; i < found.gl_pathc; i++) has = has || is_active(found.gl_pathv[i]);
    globfree(&found);
    return has;
}
