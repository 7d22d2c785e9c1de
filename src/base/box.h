/* What lies in front of a message in a box (comm/line.h): threads of a transport and kernels of a device see the same memory. */
#ifndef GR_BASE_BOX_H
#define GR_BASE_BOX_H
#include <stdint.h>

enum { GR_LINE_HEAD_BYTES = 128 };

/* Who fills the box writes `number` last, for all to see. */
typedef struct gr_line_head {
    uint32_t number;                    /* 0: no message yet */
    int32_t rows, entries;              /* what the message says of itself */
    uint32_t unused;
    int64_t n_bytes;                    /* behind the head */
} gr_line_head;

#endif
