/* Which ranks run on one machine, whatever nodes they are cut into. */
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
