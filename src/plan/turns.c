#include "plan/turns.h"

#include "grace/plan.h"

/* The floor of each share, then one turn more to those that lost most by it. */
void gr_turns_of_weights(const float *weight, int32_t n, int32_t *turns) {
    double total = 0, lost[GRACE_RANKS_MAX];
    int32_t given = 0;
    for (int32_t i = 0; i < n; i++) total += (double)weight[i];
    for (int32_t i = 0; i < n; i++) {
        double share = total > 0 ? GR_TURNS * (double)weight[i] / total : (double)GR_TURNS / n;
        turns[i] = (int32_t)share;
        lost[i] = share - turns[i];
        given += turns[i];
    }
    for (; given < GR_TURNS; given++) {
        int32_t most = 0;
        for (int32_t i = 1; i < n; i++)
            if (lost[i] > lost[most]) most = i;
        turns[most]++;
        lost[most] = -1;
    }
}

int32_t gr_turns_host(const float *weight, int32_t n, int32_t t) {
    int32_t turns[GRACE_RANKS_MAX], card = gr_turns_reversed(t), host = 0;
    gr_turns_of_weights(weight, n, turns);
    for (; card >= turns[host]; host++) card -= turns[host];
    return host;
}
