/* Which sequence a run of tokens belongs to, when a recording has positions but no request names. */
#ifndef GR_INTEROP_FOLLOW_H
#define GR_INTEROP_FOLLOW_H
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { GR_FOLLOW_POSITION_MAX = (1 << 22) - 1 };

/* Sequences wait under the position of their next token, the longest waiting first. */
typedef struct gr_follow {
    int32_t *head, *tail;       /* [n_positions] sequence + 1; 0: none */
    int32_t n_positions;
    int32_t *next, *position;   /* [n_sequences] behind it in the queue, + 1; where it goes on */
    int32_t n_sequences, capacity;
    int32_t *moved;             /* [n_moved] sequences that grew in this pass: they wait again when it is over */
    int32_t n_moved;
} gr_follow;

/* Tokens at position..position + n - 1 came in this pass: they continue the sequence that waits longest for them, which may have only one run a
 * pass, or begin a new one; those at position 0 always do. *sequence is n_sequences before the call when it is new. Two requests may so become
 * one, which harms no split by sequences; one request never becomes two in a recording that began before it did and dropped nothing.
 * Fails with LIMIT (positions from 2^22), MEMORY. */
grace_status gr_follow_run(gr_follow *follow, const char *where, int64_t position, int32_t n, int32_t *sequence);
void gr_follow_end_pass(gr_follow *follow);
void gr_follow_free(gr_follow *follow);     /* accepts a zeroed one */

#endif
