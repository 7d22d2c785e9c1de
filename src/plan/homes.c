#include "plan/homes.h"

#include <string.h>

#include "base/log.h"
#include "base/memory.h"

static grace_status align(grace_plan *plan, grace_trace_reader *r, const grace_selection *which) {
    grace_status st = GRACE_OK;
    gr_sends s = {0};
    bool changed;
    GR_TRY(gr_sends_build(plan, r, which, (gr_home_limits){.in_all = GR_HOMES_TOKENS}, &s));
    GR_TRY(gr_homes_align(plan, &s, &changed));
    gr_log(GR_INFO, "plan", "labels of %d sequences: %s", s.n, changed ? "aligned" : "as they were");
done:
    gr_sends_free(&s);
    return st;
}

static grace_status learn(grace_plan *plan, grace_trace_reader *r, const grace_selection *which) {
    grace_status st = GRACE_OK;
    grace_token_saves v = {0};
    int8_t *saved;
    GR_TRY(gr_token_saves_learn(plan, r, which, GR_HOMES_TOKENS, &v));
    GR_ARENA_ARRAY(plan->memory, saved, (size_t)v.vocab * (size_t)v.n_nodes);
    memcpy(saved, v.saved, (size_t)v.vocab * (size_t)v.n_nodes);
    plan->token_saves = (grace_token_saves){v.vocab, v.n_nodes, v.scale, saved};
done:
    gr_token_saves_free(&v);
    return st;
}

grace_status gr_homes_plan(grace_plan *plan, grace_trace_reader *r, const grace_selection *which, bool aligned) {
    grace_status st = GRACE_OK;
    if (plan->cluster.n_nodes == 1) return st;
    if (aligned) GR_TRY(align(plan, r, which));
    if (grace_trace_describe(grace_trace_reader_head(r))->vocab > 0) GR_TRY(learn(plan, r, which));
done:
    return st;
}
