/* Polling weights as whole turns: what the router deals out and the cost counts on (docs/architecture.md, Tables). */
#ifndef GR_PLAN_TURNS_H
#define GR_PLAN_TURNS_H
#include <stdint.h>

enum { GR_TURNS = 64 };     /* weights are quantised to 1/64 */

/* weight [n] >= 0, 1 <= n <= GRACE_RANKS_MAX -> turns [n] that add up to GR_TURNS: largest remainder, ties to the earlier. All weights zero: shared evenly. */
void gr_turns_of_weights(const float *weight, int32_t n, int32_t *turns);

#endif
