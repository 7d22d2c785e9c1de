/* Processes of one machine that wait for each other once, at an end: in shared memory, not over a transport, for which a wait in vain is the end of the job.
 * One creates the place, gives its name to the others, and has it forgotten when all are there, so that nothing is left behind whatever happens to them. */
#ifndef GR_COMM_MEET_H
#define GR_COMM_MEET_H
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { GR_MEETING_NAME = 48 };
typedef struct gr_meeting gr_meeting;

/* Local. IO where the machine has no shared memory for it. */
grace_status gr_meeting_create(char name[GR_MEETING_NAME], gr_meeting **out);
grace_status gr_meeting_attach(const char *name, gr_meeting **out);
void gr_meeting_forget(gr_meeting *m);      /* the name; the place stays as long as somebody has it open. NULL, or one that did not create: nothing */

/* Says that this process is there, once, and waits until n are; false: not all of them by the deadline. */
bool gr_meeting_wait(gr_meeting *m, int32_t n, double deadline_s);
void gr_meeting_close(gr_meeting *m);       /* accepts NULL */

#endif
