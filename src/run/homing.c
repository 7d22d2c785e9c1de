#include "run/homing.h"

#include "base/memory.h"
#include "plan/homes.h"

static grace_status check_token_saves(const grace_plan *plan, int32_t vocab) {
    grace_status st = GRACE_OK;
    const grace_token_saves *v = &plan->token_saves;
    if (plan->cluster.n_nodes == 1) return st;
    GR_CHECK(v->vocab > 0, GRACE_ERR_ARG, "homes by token ids: the plan does not say what they save (grace plan learns it from a trace with token ids)");
    GR_CHECK(v->vocab <= vocab, GRACE_ERR_MISMATCH, "homes by token ids: the plan knows %d ids, the model has %d", v->vocab, vocab);
done:
    return st;
}

grace_status gr_homing_init(gr_homing *h, const grace_plan *plan, grace_homes kind, int32_t vocab) {
    grace_status st = GRACE_OK;
    *h = (gr_homing){.kind = kind, .plan = plan};
    if (kind == GRACE_HOMES_VOCAB || (kind == GRACE_HOMES_HISTOGRAM && plan->token_saves.vocab > 0)) GR_TRY(check_token_saves(plan, vocab));
    GR_CALLOC(h->held, grace_cluster_ranks(plan->cluster));
done:
    return st;
}

void gr_homing_free(gr_homing *h) {
    free(h->held);
    *h = (gr_homing){0};
}

/* The rank with fewest requests; as long as none has moved, request i goes to rank i mod D. */
static void take_turns(gr_homing *h, int32_t n, int32_t *homes) {
    for (int32_t i = 0; i < n; i++) h->held[homes[i] = gr_rank_with_fewest(h->held, 0, grace_cluster_ranks(h->plan->cluster))]++;
}

static grace_status ask_token_saves(gr_homing *h, const gr_batch *b, int32_t first, int32_t n, int32_t *homes) {
    grace_status st = GRACE_OK;
    const int32_t n_nodes = h->plan->cluster.n_nodes;
    double *cost = NULL;
    GR_CALLOC(cost, (size_t)n * (size_t)n_nodes);
    for (int32_t i = 0; i < n && h->plan->token_saves.vocab > 0; i++) {
        const gr_sequence *s = b->sequences[first + i];
        gr_token_saves_add(&h->plan->token_saves, s->prompt, s->request.n_prompt, cost + (size_t)i * (size_t)n_nodes);
    }
    GR_TRY(gr_homes_assign(cost, n, h->plan->cluster, NULL, h->held, homes));
done:
    free(cost);
    return st;
}

/* The batch gave out turns already. */
grace_status gr_homing_assign(gr_homing *h, gr_batch *b, int32_t first) {
    grace_status st = GRACE_OK;
    int32_t n = b->n - first, *homes = NULL;
    if (h->kind == GRACE_HOMES_ROUND_ROBIN || n == 0) return st;
    GR_CALLOC(homes, n);
    if (h->kind == GRACE_HOMES_HISTOGRAM && h->plan->token_saves.vocab == 0) take_turns(h, n, homes);
    else GR_TRY(ask_token_saves(h, b, first, n, homes));
    for (int32_t i = 0; i < n; i++) b->sequences[first + i]->result.home = b->sequences[first + i]->result.first_home = homes[i];
done:
    free(homes);
    return st;
}
