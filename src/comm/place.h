/* Where this process is, for the messages of late or dead peers and for the last line a rank writes when it is told to end. */
#ifndef GR_COMM_PLACE_H
#define GR_COMM_PLACE_H
#include <stddef.h>
#include <stdint.h>

/* "dispatch of layer 7: ", "open: ", or nothing, into out. */
void gr_place_text(char *out, size_t size);
/* The peer a wait is stuck on; -1: none. */
void gr_place_wait(int32_t peer);
/* On SIGTERM write "grace: rank 2 of 4: ended by SIGTERM in dispatch of layer 5, waiting for rank 1" to stderr and _exit(143).
 * Leaves a handler that is already there alone. */
void gr_place_on_sigterm(int32_t rank, int32_t n_ranks);
void gr_place_leave(void);      /* from here on SIGTERM is no news */

#endif
