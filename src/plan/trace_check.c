/* What holds for every trace, whoever made it: sizes, references, ids and weights in range. */
#include "plan/trace.h"

#include <inttypes.h>
#include <string.h>

#include "plan/layer_ids.h"

static grace_status check_count(const char *where, const char *what, int64_t found, int64_t max, grace_status status) {
    if (found >= 1 && found <= max) return GRACE_OK;
    return gr_fail(status, "%s: expected 1 to %" PRId64 " %s, found %" PRId64, where, max, what, found);
}

grace_status gr_trace_check_info(const char *where, const grace_trace_info *info, grace_status status) {
    grace_status st = GRACE_OK;
    GR_CHECK(memchr(info->model, 0, sizeof info->model), status, "%s: the model's name is longer than %zu bytes", where, sizeof info->model - 1);
    GR_TRY(check_count(where, "layers", info->n_layers, GR_TRACE_LAYERS_MAX, status));
    GR_TRY(check_count(where, "experts", info->n_experts, GR_TRACE_EXPERTS_MAX, status));
    GR_TRY(check_count(where, "experts a token (top_k)", info->top_k,
                       info->n_experts < GR_TRACE_TOP_K_MAX ? info->n_experts : GR_TRACE_TOP_K_MAX, status));
    GR_TRY(check_count(where, "ranks", info->n_ranks, GR_TRACE_RANKS_MAX, status));
    GR_TRY(check_count(where, "nodes (at most the ranks)", info->n_nodes, info->n_ranks, status));
    GR_CHECK(info->vocab >= 0, status, "%s: expected a vocabulary of 0 (no token ids) or more, found %d", where, info->vocab);
    GR_CHECK(info->weights >= GRACE_WEIGHTS_NONE && info->weights < GRACE_N_WEIGHTS, status, "%s: expected weights of kind 0 to %d, found %d", where,
             GRACE_N_WEIGHTS - 1, (int)info->weights);
    GR_TRY(gr_layer_ids_check(where, gr_layer_ids_of(info), info->n_layers, status));
done:
    return st;
}

grace_status gr_trace_check_sequence(const char *where, const grace_trace_info *info, int32_t n_domains, const grace_trace_sequence *seq,
                                     grace_status status) {
    grace_status st = GRACE_OK;
    GR_CHECK(seq->home >= 0 && seq->home < info->n_ranks, status, "%s: sequence %d: home: expected rank 0 to %d, found %d", where, seq->id,
             info->n_ranks - 1, seq->home);
    GR_CHECK(seq->domain >= -1 && seq->domain < n_domains, status, "%s: sequence %d: domain: expected -1 to %d, found %d", where, seq->id,
             n_domains - 1, seq->domain);
done:
    return st;
}

grace_status gr_trace_check_segment(const char *where, const grace_trace_segment *seg, int64_t index, int64_t n_sequences, int32_t last_step,
                                    grace_status status) {
    grace_status st = GRACE_OK;
    GR_CHECK(seg->sequence >= 0 && seg->sequence < n_sequences, status,
             "%s: segment %" PRId64 " refers to sequence %d, the trace has %" PRId64 " so far", where, index, seg->sequence, n_sequences);
    GR_CHECK(seg->n_tokens >= 1, status, "%s: segment %" PRId64 ": expected at least 1 token, found %d", where, index, seg->n_tokens);
    GR_CHECK(seg->position >= 0 && seg->position <= INT32_MAX - seg->n_tokens, status,
             "%s: segment %" PRId64 ": position %d with %d tokens is outside 0 to %d", where, index, seg->position, seg->n_tokens, INT32_MAX);
    GR_CHECK(seg->step >= last_step, status, "%s: segment %" PRId64 ": steps ascend: expected %d or later, found %d", where, index, last_step,
             seg->step);
    GR_CHECK(seg->phase >= 0 && seg->phase < GRACE_N_PHASES, status, "%s: segment %" PRId64 ": expected phase 0 to %d, found %d", where, index,
             GRACE_N_PHASES - 1, (int)seg->phase);
done:
    return st;
}

/* ids [top_k] of one gate. Returns the first id that is out of range or was chosen before in this turn, -1 when all is well. */
static int32_t bad_choice(const uint16_t *ids, int32_t top_k, int32_t n_experts, uint64_t *seen, uint64_t turn) {
    for (int32_t k = 0; k < top_k; k++) {
        if (ids[k] >= n_experts || seen[ids[k]] == turn) return ids[k];
        seen[ids[k]] = turn;
    }
    return -1;
}

grace_status gr_trace_check_experts(const char *where, const grace_trace_info *info, const uint16_t *experts, int64_t n_tokens, int64_t first,
                                    uint64_t *seen, uint64_t *turn, grace_status status) {
    grace_status st = GRACE_OK;
    for (int64_t token = first; token < first + n_tokens; token++) {
        for (int32_t layer = 0; layer < info->n_layers; layer++, experts += info->top_k) {
            int32_t bad = bad_choice(experts, info->top_k, info->n_experts, seen, ++*turn);
            GR_CHECK(bad < info->n_experts, status, "%s: token %" PRId64 ", layer %d: expected experts 0 to %d, found %d", where, token, layer,
                     info->n_experts - 1, bad);
            GR_CHECK(bad < 0, status, "%s: token %" PRId64 ", layer %d: expert %d is chosen twice", where, token, layer, bad);
        }
    }
done:
    return st;
}

grace_status gr_trace_check_ids(const char *where, const grace_trace_info *info, const int32_t *ids, int64_t n_tokens, int64_t first,
                                grace_status status) {
    grace_status st = GRACE_OK;
    for (int64_t i = 0; i < n_tokens; i++)
        GR_CHECK(ids[i] >= 0 && ids[i] < info->vocab, status, "%s: token %" PRId64 ": expected an id from 0 to %d, found %d", where, first + i,
                 info->vocab - 1, ids[i]);
done:
    return st;
}

grace_status gr_trace_check_weights(const char *where, const grace_trace_info *info, const float *weights, int64_t n_tokens, int64_t first,
                                    grace_status status) {
    grace_status st = GRACE_OK;
    const float least = info->weights == GRACE_WEIGHTS_U8 ? 0 : -65504, most = info->weights == GRACE_WEIGHTS_U8 ? 1 : 65504;
    int64_t n_values = (int64_t)info->n_layers * info->top_k;
    for (int64_t i = 0; i < n_tokens * n_values; i++)
        GR_CHECK(weights[i] >= least && weights[i] <= most, status, "%s: token %" PRId64 ", layer %" PRId64 ": expected a weight from %g to %g, found %g",
                 where, first + i / n_values, i % n_values / info->top_k, (double)least, (double)most, (double)weights[i]);
done:
    return st;
}

grace_status gr_trace_check_room(const char *where, const grace_trace_info *info, int64_t n_before, int64_t n_tokens) {
    grace_status st = GRACE_OK;
    int64_t token_values = (int64_t)info->n_layers * info->top_k;
    GR_CHECK(n_before + n_tokens <= GR_TRACE_TOKENS_MAX && n_tokens <= GR_TRACE_VALUES_MAX / token_values, GRACE_ERR_LIMIT,
             "%s: %" PRId64 " tokens of %" PRId64 " expert ids, a trace holds at most %" PRId64 " tokens and, in memory, %" PRId64 " ids", where,
             n_before + n_tokens, token_values, GR_TRACE_TOKENS_MAX, GR_TRACE_VALUES_MAX);
done:
    return st;
}
