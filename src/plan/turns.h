/* Polling weights as whole turns: what the router deals out and the cost counts on (docs/architecture.md, Tables). */
#ifndef GR_PLAN_TURNS_H
#define GR_PLAN_TURNS_H
#include "base/turn.h"

/* weight [n] >= 0, 1 <= n <= GRACE_RANKS_MAX -> turns [n] that add up to GR_TURNS: largest remainder, ties to the earlier. All weights zero: shared evenly. */
void gr_turns_of_weights(const float *weight, int32_t n, int32_t *turns);

/* The host that has turn t when turns are dealt host after host in bit-reversed order, so that consecutive turns spread over the hosts. */
int32_t gr_turns_host(const float *weight, int32_t n, int32_t t);

#endif
