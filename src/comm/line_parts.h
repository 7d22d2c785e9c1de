/* What the files of lines share: line_open.c connects, line.c moves messages. */
#ifndef GR_COMM_LINE_PARTS_H
#define GR_COMM_LINE_PARTS_H
#include "comm/comm.h"

/* Collective over world: connections, fd [n_lanes][n_peers], malloc'ed, non-blocking. On all ranks or on none. */
grace_status gr_line_connect(gr_comm *world, const int32_t *peers, int32_t n_peers, int32_t n_lanes, double deadline_s, int **fd);

#endif
