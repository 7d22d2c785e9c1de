/* What the files of lines share: line_open.c connects, line.c moves messages. */
#ifndef GR_COMM_LINE_PARTS_H
#define GR_COMM_LINE_PARTS_H
#include "comm/line.h"

/* Collective over world: connections, fd [n_lanes][n_peers], malloc'ed, non-blocking. On all ranks or on none. */
grace_status gr_line_connect(gr_comm *world, const int32_t *peers, int32_t n_peers, int32_t n_lanes, double deadline_s, int **out);

/* What stands before a message on its way. Ranks of a job are of one kind of machine. */
enum { GR_LINE_MESSAGE = 0x47524c31, GR_LINE_BYE = 0x47524c30 };
typedef struct gr_line_frame { uint32_t kind, number; int32_t way, rows, entries; uint32_t unused; int64_t n_bytes; } gr_line_frame;
_Static_assert(sizeof(gr_line_frame) == GR_LINE_FRAME_BYTES, "as it is counted");

/* Whether it announces message `number` of `way`, one that fits; else COMM: what it says instead, behind the name of who sent it. */
grace_status gr_line_expect(const gr_line_frame *f, int32_t way, uint32_t number, const gr_line_room *room);

#endif
