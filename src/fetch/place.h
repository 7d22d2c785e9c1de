/* Where a file of a repository goes: below one folder, whatever links lie there. */
#ifndef GR_FETCH_PLACE_H
#define GR_FETCH_PLACE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct gr_place { int dir; char name[256], partial[256]; } gr_place;    /* the open folder of the file, its name in it, and with ".partial" */

/* name is relative and checked (listing.h). Folders on the way are made; one that is a link is refused. */
grace_status gr_place_open(const char *root, const char *name, gr_place *out);
void gr_place_close(gr_place *place);
/* The file that is there, for reading: *fd is -1 when there is none. */
grace_status gr_place_existing(const gr_place *place, int *fd);
grace_status gr_place_partial(const gr_place *place, int *fd);      /* for writing and reading; made when not there; IO while another has it */
grace_status gr_place_finish(const gr_place *place, int fd);        /* synced, renamed over the file */

#endif
