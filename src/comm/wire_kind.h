/* A kind of wire, to the inside: what gr_wire_open() opens, and what the kinds share. */
#ifndef GR_COMM_WIRE_KIND_H
#define GR_COMM_WIRE_KIND_H
#include "comm/wire.h"

typedef struct gr_wire_ops {
    const char *name;
    grace_status (*move)(gr_wire *w, const gr_wire_piece *pieces, int32_t n, struct CUstream_st *stream);
    grace_status (*check)(gr_wire *w);
    void (*abort)(gr_wire *w);          /* NULL: no move waits on a device for a peer */
    void (*close)(gr_wire *w);          /* frees w */
} gr_wire_ops;

struct gr_wire {
    const gr_wire_ops *ops;
    gr_comm *world;
    double deadline_s;
    bool broken;
};

/* Collective, on the current device. What fails on one rank before the others could wait for it is agreed upon. */
grace_status gr_wire_nccl_open(gr_comm *world, double deadline_s, gr_wire **out);
grace_status gr_wire_staged_open(gr_comm *world, double deadline_s, gr_wire **out);
grace_status gr_wire_nccl_load(void);   /* UNSUPPORTED where the build or the machine has none */

#ifdef GRACE_HAVE_CUDA
#include <cuda_runtime_api.h>

grace_status gr_wire_cuda(cudaError_t error, const char *what);     /* as gr_cuda_status() */
#endif
const char *gr_wire_here(const gr_wire *w, char *text, size_t size);    /* "rank 3: dispatch of layer 7: " into text */

#endif
