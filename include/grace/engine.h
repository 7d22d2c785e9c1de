/* The engine: ranks, requests, steps, results, and the numbers of a run. */
#ifndef GRACE_ENGINE_H
#define GRACE_ENGINE_H
#include <stdbool.h>
#include <stdint.h>

#include "grace/model.h"
#include "grace/plan.h"
#include "grace/status.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ---- ranks ---- */
typedef struct gr_comm grace_comm;
/* AUTO: as the launcher's variables say (docs/launch.md): mpi under mpirun, tcp under torchrun and plain srun, self when nobody started ranks. */
typedef enum grace_transport { GRACE_TRANSPORT_SELF, GRACE_TRANSPORT_MPI, GRACE_TRANSPORT_TCP, GRACE_TRANSPORT_AUTO } grace_transport;

/* Join the job. n_nodes 0: ranks that share a machine are a node; else cut the ranks into that many equal runs.
 * deadline_s bounds every wait for a peer. Collective. Fails with ARG (ranks not divisible, a launcher's variables that do not fit together),
 * UNSUPPORTED (built without MPI), COMM. */
grace_status grace_comm_open(grace_transport transport, int32_t n_nodes, double deadline_s, grace_comm **out);
void grace_comm_close(grace_comm *comm);
bool grace_comm_launched(void);             /* was this process started as a rank: does AUTO give anything but self? */
int32_t grace_comm_rank(const grace_comm *comm);
grace_cluster grace_comm_cluster(const grace_comm *comm);
/* Collective: every rank passes its own status and gets the worst; the message names the first failing rank. */
grace_status grace_comm_agree(grace_comm *comm, grace_status mine);
/* For a rank that must leave a running job: end the other ranks too. Does not return under MPI; over tcp the caller closes and leaves. */
void grace_comm_abort(grace_comm *comm, int exit_code);

/* ---- engine ---- */
/* TAR_ENTRY: as TAR, but in another node the copy is chosen anew for the GPU where the row enters it: there, else in that node by weight.
 * JOINT: a token's copies are chosen together, preferring nodes, then GPUs, that it visits anyway (src/compute/joint.h). */
typedef enum grace_route { GRACE_ROUTE_PRIMARY, GRACE_ROUTE_WRR, GRACE_ROUTE_TAR, GRACE_ROUTE_TAR_ENTRY, GRACE_ROUTE_JOINT, GRACE_N_ROUTES } grace_route;
typedef enum grace_exchange { GRACE_EXCHANGE_PER_EXPERT, GRACE_EXCHANGE_FLAT, GRACE_EXCHANGE_HSC } grace_exchange;
/* Where new requests live: request i on rank i mod D; or, chosen at the next step for all that were submitted since the last, where the plan's token_saves
 * say that least will cross between nodes, as many requests on every rank; or, HISTOGRAM, first by token_saves if the plan has them, else by turns, and once
 * more by what the experts of the request's first rows tell: its state and KV cache move there (docs/homes.md). */
typedef enum grace_homes { GRACE_HOMES_ROUND_ROBIN, GRACE_HOMES_VOCAB, GRACE_HOMES_HISTOGRAM, GRACE_N_HOMES } grace_homes;

typedef struct grace_engine_options {
    grace_comm *comm;               /* NULL: one rank by itself. Borrowed until close */
    const grace_plan *plan;         /* NULL: contiguous. Borrowed until close */
    grace_route route;              /* TAR */
    grace_exchange exchange;        /* HSC */
    grace_homes homes;              /* ROUND_ROBIN */
    bool exact;                     /* docs/architecture.md, Modes: no plan, policy, exchange or world size changes a bit */
    int32_t n_tokens_max;           /* rows a rank computes in one step; 512 */
    int64_t kv_tokens;              /* KV cache, tokens per rank; 16384 */
    int32_t n_threads;              /* 0: OMP_NUM_THREADS or all cores */
    const char *simd;               /* "auto", "portable", "avx2", "avx512" */
    const char *device;             /* "cpu" (NULL too), or "cuda": of the GPUs this process sees, the one of its place among the machine's ranks */
    const char *kernels;            /* cuda: "auto" (NULL too), "hopper", "mma", "plain" */
    const char *wire;               /* cuda, rows between nodes: "auto" (NULL too), "sockets", "nccl", "staged": through the transport */
    bool plain_wire;                /* cuda: rows between nodes travel as they are, not packed bit for bit */
    int32_t turns_from;             /* cuda, several ranks: rows of a rank in a step from which halves of it take turns, in one node 8 times as many; 0: never.
                                     * -1: where they were seen to pay, as if 1024, and never in one node of two */
    bool step_by_step;              /* cuda: a step begins when the ids of the one before are known; else steps of generated tokens are launched ahead */
    const char *trace_path;         /* record routing there (written by rank 0), unless homes is HISTOGRAM; NULL: do not */
    const char *const *trace_domains;   /* names requests' domains refer to */
    int32_t n_trace_domains;
    void (*on_load)(void *user, int64_t done, int64_t total);   /* NULL; else called while opening, on this rank: bytes of weights that are in place */
    void *load_user;
    const grace_trace *route_trace; /* NULL; else its routing replaces the gates' choice (docs/gpu-bench.md); then no trace_path.
                                     * Borrowed while opening */
    grace_selection route_tokens;   /* of them, these; all */
    grace_trace_weights trace_weights;  /* NONE. How the trace keeps gate weights; token ids and phases are always recorded */
} grace_engine_options;

typedef struct grace_engine grace_engine;

grace_engine_options grace_engine_defaults(void);
/* Collective. Loads the experts this rank hosts. All ranks return the same code. The caller closes. */
grace_status grace_engine_open(const grace_model *model, const grace_engine_options *opt, grace_engine **out);
void grace_engine_close(grace_engine *engine);      /* waits for a step that was launched ahead, at most the deadline */

/* ---- memory: what a rank will hold, known before an engine is open. The buffers of a step come on top ---- */
typedef struct grace_rank_memory {
    int64_t weights;                /* bytes, as they are computed with: what has blocks with scales in the file is BF16 */
    int64_t experts;                /* of them, of the routed experts in this rank's slots */
    int64_t replicas;               /* of those, in slots that are not primaries */
} grace_rank_memory;

/* The plan is one for this model (grace_plan_check()), the rank one of its cluster. */
grace_rank_memory grace_rank_memory_of(const grace_model *model, const grace_plan *plan, int32_t rank);
/* Bytes of a KV cache for n_tokens, float32 as the cpu backend keeps it: a started page of 16 tokens counts whole. */
int64_t grace_kv_bytes(const grace_model_info *info, int64_t n_tokens);
/* The most tokens of KV cache that n_bytes hold: whole pages. 0 for less than a page. */
int64_t grace_kv_tokens(const grace_model_info *info, int64_t n_bytes);

/* ---- requests: every rank submits the same ones in the same order ---- */
typedef struct grace_request {
    const int32_t *prompt;          /* [n_prompt] ids, copied */
    int32_t n_prompt;
    int32_t n_generate;             /* at most; 0: only prefill */
    float temperature;              /* 0: greedy */
    float top_p;                    /* 1: off */
    int32_t top_k;                  /* 0: off */
    uint64_t seed;
    bool ignore_eos;
    bool score;                     /* sum the negative log likelihood of the prompt (and of score_next after it) */
    int32_t score_next;             /* -1: none */
    int32_t domain;                 /* for the trace; -1: none */
    void *user;                     /* for the callbacks, which run on the request's home rank, inside a step */
    void (*on_token)(void *user, int32_t request, int32_t id);
    void (*on_logits)(void *user, int32_t request, int32_t position, const float *logits);   /* [vocab], every row computed */
} grace_request;

typedef enum grace_finish { GRACE_FINISH_NONE, GRACE_FINISH_LENGTH, GRACE_FINISH_EOS } grace_finish;

typedef struct grace_result {
    int32_t home;                   /* rank; with homes other than ROUND_ROBIN not known before the next step */
    int32_t first_home, n_first;    /* with HISTOGRAM, of a request that moved: the rank that computed its first n_first rows; else home and 0 */
    int32_t *ids;                   /* [n_ids] generated; borrowed until close */
    int32_t n_ids;
    grace_finish finish;
    uint64_t logits_hash;           /* over the raw floats of every logits row, in order of position; 0 on cuda unless exact */
    double nll;                     /* when score */
    int32_t n_scored;
    double ttft_us, total_us;       /* from the first step of the run */
} grace_result;

grace_request grace_request_defaults(void);
/* Fails with ARG (empty prompt, id outside the vocabulary, bad sampling values), LIMIT (longer than context or KV cache). */
grace_status grace_engine_submit(grace_engine *engine, const grace_request *req);
/* One step of all ranks. *more is false once no rank has work. On cuda the next may be launched already when it returns (step_by_step). After a failure
 * every further call fails with ARG. Collective. */
grace_status grace_engine_step(grace_engine *engine, bool *more);
grace_status grace_engine_run(grace_engine *engine);            /* step until nothing is left */
/* Makes every result known on every rank. Collective, after the run. */
grace_status grace_engine_collect(grace_engine *engine);
int32_t grace_engine_n_requests(const grace_engine *engine);
int64_t grace_engine_n_rows(const grace_engine *engine);        /* computed so far, by all ranks */
const grace_result *grace_engine_result(const grace_engine *engine, int32_t request);   /* borrowed until close */
uint64_t grace_engine_logits_hash(const grace_engine *engine);  /* of all requests' hashes, in order; after collect */

/* ---- numbers (docs/architecture.md, Numbers) ---- */
enum { GRACE_LINK_SELF, GRACE_LINK_INTRA, GRACE_LINK_CROSS, GRACE_N_LINKS };
enum { GRACE_STAGE_CROSS, GRACE_STAGE_NODE, GRACE_N_STAGES };   /* hsc stage 1 and 2; flat and per-expert use NODE only */
enum {
    GRACE_TIME_ATTENTION,           /* norms, projections, attention, dense layers and shared experts */
    GRACE_TIME_GATE,
    GRACE_TIME_ROUTE,               /* place and build the exchange: bookkeeping, no data movement */
    GRACE_TIME_DISPATCH,            /* moving and waiting */
    GRACE_TIME_EXPERTS,
    GRACE_TIME_COMBINE,
    GRACE_TIME_LOGITS,              /* final norm, logits, sampling */
    GRACE_N_TIMES
};

typedef struct grace_link_count { int64_t rows, bytes_payload, bytes_wire; } grace_link_count;

typedef struct grace_stats {
    int32_t n_ranks, n_nodes, n_layers, n_steps;
    int64_t n_tokens;               /* rows computed by all ranks */
    int64_t n_prefill, n_decode;    /* of them; where steps are launched ahead, a row more behind each end of text */
    double prefill_us, decode_us;   /* wall time of the steps; a step with rows of both kinds is shared between them by rows */
    grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS], combine[GRACE_N_STAGES][GRACE_N_LINKS];   /* all ranks */
    int64_t *pair_rows;             /* [n_ranks from, n_ranks to] rows dispatched plus combined, all stages; self: rows that stay */
    int64_t *load;                  /* [n_layers, n_ranks] (token, expert) pairs computed */
    double load_max_over_mean;      /* mean over layers of max/mean of the run's loads */
    double load_std;                /* mean over layers of the standard deviation over ranks */
    int64_t idle_pairs;             /* sum over steps, layers, ranks of (largest load - own) */
    double pair_us;                 /* measured expert time per pair, all ranks */
    double idle_model_us;           /* idle_pairs * pair_us */
    double idle_measured_us;        /* sum of (slowest rank's expert time - own); < 0: not measured (some machine has fewer cores than ranks) */
    double time_us[GRACE_N_TIMES];  /* mean over ranks; on cuda of the steps that grace_engine_time_stages() was on for */
    double moe_us;                  /* route + dispatch + experts + combine, of the slowest rank */
    int64_t moved_requests;         /* homes HISTOGRAM: requests that changed ranks, */
    int64_t moved_kv_rows, moved_kv_bytes;  /* what moved with them of the KV cache: positions x layers, and their bytes */
    double move_us;                 /* agreeing on second homes and moving there, mean over ranks */
    int64_t replica_bytes_max;      /* bytes of secondary slots on the rank with most */
    int64_t kv_tokens_displaced;    /* replica_bytes_max / KV bytes of a token */
} grace_stats;

/* From the next step that is launched on cuda takes time_us too, which cpu always does: by events on the GPU at the borders of stages, over which nothing
 * overlaps, and without replays, so that steps take longer. On every rank alike. */
void grace_engine_time_stages(grace_engine *engine, bool on);

/* Collective; the same numbers on every rank. Arrays belong to the engine until close or the next call. */
grace_status grace_engine_stats(grace_engine *engine, grace_stats *out);

#ifdef __cplusplus
}
#endif
#endif
