/* Where this process is, for the messages of late or dead peers and for the last line a rank writes when it is told to end. */
#ifndef GR_COMM_PLACE_H
#define GR_COMM_PLACE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* "dispatch of layer 7: ", "open: ", or nothing, into out. */
void gr_place_text(char *out, size_t size);
/* "rank 3: dispatch of layer 7: " into text, which is returned. rank is that of the whole job. */
const char *gr_place_here(int32_t rank, char *text, size_t size);

/* What a wait still owes when it ends in failure: the first peer that is late, and how many are. */
typedef struct gr_debt {
    bool from;                      /* rows from the peer; false: rows it has not taken */
    int32_t rows, peer;             /* peer: rank of the whole job */
    size_t row_bytes;
    int32_t n_late, n_peers;        /* of n_peers that send (or receive), n_late are late */
} gr_debt;

/* COMM: "rank 0: dispatch of layer 5: 12 rows from rank 1 missing after 30 s (1 of 3 senders late)"; with a cause instead of the deadline
 * "rank 0: dispatch of layer 5: rank 1 is gone; 12 rows from rank 1 missing (1 of 3 senders late)". */
grace_status gr_place_owes(int32_t rank, const gr_debt *debt, const char *cause_or_null, double deadline_s);
/* The peer a wait is stuck on; -1: none. */
void gr_place_wait(int32_t peer);
/* On SIGTERM write "grace: rank 2 of 4: ended by SIGTERM in dispatch of layer 5, waiting for rank 1" to stderr and _exit(143).
 * Leaves a handler that is already there alone. */
void gr_place_on_sigterm(int32_t rank, int32_t n_ranks);
void gr_place_leave(void);      /* from here on SIGTERM is no news */

#endif
