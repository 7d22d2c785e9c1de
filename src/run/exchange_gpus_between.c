/* What is between nodes: lines, with their boxes in host memory, or a wire. */
#ifdef GRACE_HAVE_CUDA
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "run/exchange_gpus.h"

#define LINE_BYTES_MAX ((size_t)8 << 30)        /* of boxes, host memory of a rank, that nobody asked for by name */
enum { BOX_STEP = 4096 };

/* ---- lines ---- */

static gr_line_room room_of(const gr_gpus *ex, const gr_gpus_lane *l, int way) {
    const bool there = way == GR_LINE_THERE;
    const int64_t n = (int64_t)l->wires.capacity * (!there && ex->base.opt.exact ? ex->top_k : 1);
    return (gr_line_room){gr_cuda_mail_bytes(n, there ? ex->top_k : 0, gr_cuda_packed_bytes(n, ex->base.opt.hidden)), l->wires.capacity, ex->top_k};
}

static size_t box_bytes(const gr_line_room *room) { return ((size_t)room->n_bytes + GR_LINE_HEAD_BYTES + BOX_STEP - 1) / BOX_STEP * BOX_STEP; }

/* Of all boxes of a rank. */
static size_t line_bytes(const gr_gpus *ex) {
    size_t bytes = 0;
    for (int32_t i = 0; i < 2 * ex->n_lanes; i++) {
        const gr_line_room room = room_of(ex, &ex->lanes[i / 2], i % 2);
        bytes += 2 * (size_t)ex->n_wires * box_bytes(&room);
    }
    return bytes;
}

static grace_status make_boxes(gr_gpus *ex, gr_line_box **boxes, const gr_line_room *room, char **at) {
    grace_status st = GRACE_OK;
    GR_CALLOC(*boxes, ex->n_wires);
    for (int32_t w = 0; w < ex->n_wires; w++, *at += box_bytes(room)) (*boxes)[w].head = (gr_line_head *)(void *)*at;
done:
    return st;
}

static grace_status alloc_lane_boxes(gr_gpus *ex, gr_gpus_lane *l) {
    grace_status st = GRACE_OK;
    const size_t n = (size_t)ex->n_wires;
    size_t bytes = 0;
    for (int way = 0; way < GR_LINE_WAYS; way++) {
        l->line.room[way] = room_of(ex, l, way);
        bytes += 2 * n * box_bytes(&l->line.room[way]);
    }
    GR_TRY(gr_gpus_pinned(&l->boxes, bytes));
    char *at = l->boxes;
    for (int way = 0; way < GR_LINE_WAYS; way++) {
        GR_TRY(make_boxes(ex, &l->line.out[way], &l->line.room[way], &at));
        GR_TRY(make_boxes(ex, &l->line.in[way], &l->line.room[way], &at));
    }
done:
    return st;
}

static grace_status alloc_boxes(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < ex->n_lanes; i++) GR_TRY(alloc_lane_boxes(ex, &ex->lanes[i]));
done:
    if (st) gr_fail_in(st, "boxes for rows between nodes, %zu MiB of host memory for up to %d rows a step (--batch-tokens)", line_bytes(ex) >> 20,
                       ex->base.opt.n_rows_max);
    return st;
}

static grace_status open_lines(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    gr_comm *world = ex->base.world;
    gr_line_lane lanes[GR_PARTS_MAX];
    GR_TRY(grace_comm_agree(world, alloc_boxes(ex)));
    for (int32_t i = 0; i < ex->n_lanes; i++) lanes[i] = ex->lanes[i].line;
    const gr_line_options opt = {ex->peer, ex->n_wires, ex->n_lanes, lanes, world->deadline_s, &ex->watch->stop};
    GR_TRY(gr_line_open(world, &opt, &ex->line));
done:
    return st;
}

/* ---- which ---- */

/* Ranks that share GPUs take turns on them, and a kernel that waits would hold its turn; where NCCL has better than sockets, it is better. */
static grace_status choose_lines(const gr_gpus *ex, const char *kind, bool *out) {
    grace_status st = GRACE_OK;
    int64_t good = !ex->shares && line_bytes(ex) <= LINE_BYTES_MAX && !(gr_wire_has_nccl() && gr_machine_has_fabric());
    GR_CHECK(strcmp(kind, "sockets") != 0 || !ex->shares, GRACE_ERR_UNSUPPORTED,
             "rows between nodes by sockets: ranks share a GPU, where a kernel that waits would hold the turn of others; expected a GPU a rank, or staged");
    if (strcmp(kind, "auto") == 0) GR_TRY(gr_comm_allreduce(ex->base.world, &good, 1, GR_MIN));
    *out = strcmp(kind, "sockets") == 0 || (strcmp(kind, "auto") == 0 && good);
done:
    return st;
}

grace_status gr_gpus_between_open(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    gr_comm *world = ex->base.world;
    const char *kind = ex->base.opt.wire ? ex->base.opt.wire : "auto";
    bool by_lines = false;
    GR_TRY(choose_lines(ex, kind, &by_lines));
    if (by_lines) return open_lines(ex);
    GR_TRY(gr_wire_open(world, kind, gr_cuda_of(ex->base.compute)->device, world->deadline_s, &ex->wire));
done:
    return st;
}
#endif
