/* Tokens of one layer made from what was counted: the load of every expert, and how often some pairs were chosen together. */
#ifndef GR_INTEROP_SYNTH_H
#define GR_INTEROP_SYNTH_H
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct gr_pair { int32_t a, b; double count; } gr_pair;     /* a != b; each pair once */

typedef struct gr_synth_fit { double load_error_max, listed_error_sum, listed_sum, all_sum; } gr_synth_fit;    /* in tokens, after scaling */

/* 1. Quotas: loads scaled to n_tokens * top_k choices, rounded by largest remainder; dealt round the tokens, so that no token has an expert twice.
 * 2. Wanted pairs: scaled counts where they are listed; elsewhere the table closest to independent choices that has the sums which loads demand.
 * 3. Search: two tokens trade one expert each when that lowers the chi-square distance between the pairs made and wanted; n_sweeps proposals for
 *    each choice, half of them anywhere, half for a listed pair that comes too seldom. Before it, two sweeps of trades without looking; after it,
 *    tokens are shuffled, so that their numbers say nothing. Trades keep every load.
 *   load     [n_experts] sum > 0, none above sum / top_k     chosen   [n_tokens, top_k], at most 2^31 - 1 ids
 * fit is added to. Same input and seed, same tokens. Fails with FORMAT (a load above the number of tokens), LIMIT
 * (experts beyond what plans take: the pairs of 65536 would take 32 GiB), MEMORY. WHERE names the layer. */
grace_status gr_synth_layer(const char *where, const double *load, int32_t n_experts, const gr_pair *pairs, size_t n_pairs, int32_t n_tokens,
                            int32_t top_k, int32_t n_sweeps, uint64_t seed, uint16_t *chosen, gr_synth_fit *fit);

#endif
