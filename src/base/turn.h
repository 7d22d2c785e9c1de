/* A token's turn, by which it is dealt to one of an expert's copies (docs/adr/0003). Integers only: CPU, GPU and simulator agree. */
#ifndef GR_BASE_TURN_H
#define GR_BASE_TURN_H
#include "base/hash.h"

enum { GR_TURNS = 64 };     /* weights are quantised to 1/64 */

/* A pure function of (sequence id, layer, expert, position), so that no state is kept anywhere. */
GR_HOST_DEVICE static inline int32_t gr_router_turn(int32_t sequence, int32_t layer, int32_t expert, int32_t position) {
    return (int32_t)((gr_mix32((uint32_t)sequence, (uint32_t)layer, (uint32_t)expert) + (uint32_t)position) % GR_TURNS);
}

GR_HOST_DEVICE static inline int32_t gr_turns_reversed(int32_t t) {     /* 6 bits read backwards */
    int32_t r = 0;
    for (int bit = 0; bit < 6; bit++) r |= (t >> bit & 1) << (5 - bit);
    return r;
}

#endif
