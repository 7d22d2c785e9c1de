#include "comm/launcher.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"

/* In a batch script Slurm sets SLURM_PROCID and SLURM_NTASKS too; only srun sets the number of tasks of a step. */
typedef struct source { const char *name, *rank, *n_ranks; } source;

static const source torchrun = {"torchrun", "RANK", "WORLD_SIZE"};
static const source srun = {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"};
static const source mpirun = {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"};

static const char *value_of(const char *variable) {
    const char *value = getenv(variable);
    return value && *value ? value : NULL;
}

static bool whole(const source *s) { return value_of(s->rank) && value_of(s->n_ranks); }

static bool in_step(void) { return whole(&srun) && atoi(value_of(srun.n_ranks)) > 1; }

static grace_status read_number(const char *variable, int64_t min, int64_t max, int64_t *out) {
    grace_status st = GRACE_OK;
    const char *text = value_of(variable);
    char *end = NULL;
    GR_CHECK(text, GRACE_ERR_ARG, "%s is not set", variable);
    errno = 0;
    *out = strtoll(text, &end, 10);
    GR_CHECK(isdigit((unsigned char)*text) && *end == '\0' && !errno && *out >= min && *out <= max, GRACE_ERR_ARG,
             "%s: expected a number from %lld to %lld, found '%s'", variable, (long long)min, (long long)max, text);
done:
    return st;
}

/* ---- Slurm's list of nodes ---- */

static bool of_host(char c) { return isalnum((unsigned char)c) || c == '-' || c == '.' || c == '_'; }

/* "[07-09,12]": its first number is the name's; *list moves behind the bracket. */
static grace_status first_of_bracket(const char **list, char *out, size_t size, size_t *n) {
    grace_status st = GRACE_OK;
    const char *p = *list + 1, *end = strchr(p, ']');
    GR_CHECK(end && isdigit((unsigned char)*p) && strspn(p, "0123456789-,") == (size_t)(end - p), GRACE_ERR_FORMAT,
             "list of nodes: expected numbers in brackets, found '%.64s'", *list);
    for (; isdigit((unsigned char)*p); p++) {
        GR_CHECK(*n + 1 < size, GRACE_ERR_FORMAT, "list of nodes: a name is longer than %zu", size - 1);
        out[(*n)++] = *p;
    }
    *list = end + 1;
done:
    return st;
}

grace_status gr_launcher_first_host(const char *list, char *out, size_t size) {
    grace_status st = GRACE_OK;
    size_t n = 0;
    for (const char *p = list; *p && *p != ',';) {
        if (*p == '[') {
            GR_TRY(first_of_bracket(&p, out, size, &n));
            continue;
        }
        GR_CHECK(of_host(*p), GRACE_ERR_FORMAT, "list of nodes: expected a name, found '%.64s'", p);
        GR_CHECK(n + 1 < size, GRACE_ERR_FORMAT, "list of nodes: a name is longer than %zu", size - 1);
        out[n++] = *p++;
    }
    GR_CHECK(n > 0, GRACE_ERR_FORMAT, "list of nodes: expected a name, found '%.64s'", list);
    out[n] = '\0';
done:
    return st;
}

/* ---- where rank 0 listens ---- */

/* Steps of one job may run side by side on one node. Below the ports systems give out by themselves. */
static uint16_t port_of_step(void) {
    const char *job = value_of("SLURM_JOB_ID"), *step = value_of("SLURM_STEP_ID");
    return (uint16_t)(20000 + (31 * (job ? strtoull(job, NULL, 10) : 0) + (step ? strtoull(step, NULL, 10) : 0)) % 10000);
}

static grace_status find_host(bool slurm, gr_launcher *l) {
    grace_status st = GRACE_OK;
    const char *host = value_of("MASTER_ADDR"), *step = value_of("SLURM_STEP_NODELIST"), *nodes = step ? step : value_of("SLURM_JOB_NODELIST");
    if (!host && slurm && nodes) return gr_launcher_first_host(nodes, l->host, sizeof l->host);
    GR_CHECK(host, GRACE_ERR_ARG, "%s started rank %d of %d, but MASTER_ADDR does not say where rank 0 is", l->name, l->rank, l->n_ranks);
    GR_CHECK(strlen(host) < sizeof l->host, GRACE_ERR_ARG, "MASTER_ADDR is longer than %zu", sizeof l->host - 1);
    strcpy(l->host, host);
done:
    return st;
}

/* torchrun's own store listens on the port it hands out, unless it says that it does not: ours is the next. */
static grace_status find_port(bool slurm, gr_launcher *l) {
    grace_status st = GRACE_OK;
    const char *store = value_of("TORCHELASTIC_USE_AGENT_STORE");
    bool taken = store && strcmp(store, "True") == 0;
    int64_t port = port_of_step();
    if (!slurm || value_of("MASTER_PORT")) GR_TRY(read_number("MASTER_PORT", 1, UINT16_MAX - 1, &port));
    l->port = (uint16_t)(port + (taken && !slurm));
done:
    return st;
}

static uint64_t job_of(const char *const *variables, int n) {
    uint64_t hash = 0;
    for (int i = 0; i < n; i++) {
        const char *value = value_of(variables[i]);
        if (value) hash = gr_hash64(value, strlen(value), hash + (uint64_t)i);
    }
    return hash;
}

static grace_status fill(const source *from, gr_launcher *l) {
    grace_status st = GRACE_OK;
    static const char *const elastic[] = {"TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"}, *const step[] = {"SLURM_JOB_ID", "SLURM_STEP_ID"};
    int64_t rank = 0, n_ranks = 0;
    bool slurm = from == &srun;
    GR_TRY(read_number(from->n_ranks, 1, GRACE_RANKS_MAX, &n_ranks));
    GR_TRY(read_number(from->rank, 0, n_ranks - 1, &rank));
    *l = (gr_launcher){.transport = GRACE_TRANSPORT_TCP, .name = from->name, .rank = (int32_t)rank, .n_ranks = (int32_t)n_ranks};
    if (n_ranks == 1) return GRACE_OK;
    l->job = slurm ? job_of(step, 2) : job_of(elastic, 2);
    GR_TRY(find_host(slurm, l));
    GR_TRY(find_port(slurm, l));
done:
    return st;
}

/* ---- the choice ---- */

static grace_status find_tcp(gr_launcher *out) {
    grace_status st = GRACE_OK;
    if (whole(&torchrun)) return fill(&torchrun, out);
    if (in_step()) return fill(&srun, out);
    GR_CHECK(!value_of("RANK"), GRACE_ERR_ARG, "RANK is set, WORLD_SIZE is not: ranks over tcp need both (and MASTER_ADDR, MASTER_PORT)");
    GR_CHECK(!value_of("WORLD_SIZE"), GRACE_ERR_ARG, "WORLD_SIZE is set, RANK is not: ranks over tcp need both (and MASTER_ADDR, MASTER_PORT)");
done:
    return st;
}

/* torchrun below srun --mpi=pmix inherits PMIX_RANK, the same on all ranks of a node: only mpirun's own variable stands above torchrun's. */
grace_status gr_launcher_find(grace_transport asked, gr_launcher *out) {
    *out = (gr_launcher){.transport = GRACE_TRANSPORT_SELF, .name = "nobody", .n_ranks = 1};
    if (asked == GRACE_TRANSPORT_TCP && whole(&mpirun) && !whole(&torchrun)) return fill(&mpirun, out);
    if (asked == GRACE_TRANSPORT_TCP || (whole(&torchrun) && !value_of(mpirun.rank))) return find_tcp(out);
    if (value_of(mpirun.rank) || value_of("PMIX_RANK") || value_of("PMI_RANK")) {
        if (whole(&torchrun)) gr_log(GR_INFO, "launch", "mpirun started this process: RANK and WORLD_SIZE are not looked at");
        out->transport = GRACE_TRANSPORT_MPI;
        out->name = value_of(mpirun.rank) ? mpirun.name : srun.name;
        return GRACE_OK;
    }
    return find_tcp(out);
}
