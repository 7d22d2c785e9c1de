#include "interop/follow.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static grace_status grow(int32_t **array, int32_t n, int32_t wanted) {
    grace_status st = GRACE_OK;
    int32_t *grown = realloc(*array, (size_t)wanted * sizeof *grown);
    GR_CHECK(grown, GRACE_ERR_MEMORY, "no memory for %d sequences or positions", wanted);
    memset(grown + n, 0, (size_t)(wanted - n) * sizeof *grown);
    *array = grown;
done:
    return st;
}

static grace_status reserve_position(gr_follow *f, int32_t position) {
    grace_status st = GRACE_OK;
    int32_t wanted = f->n_positions ? f->n_positions : 1024;
    if (position < f->n_positions) return st;
    while (wanted <= position) wanted *= 2;
    GR_TRY(grow(&f->head, f->n_positions, wanted));
    GR_TRY(grow(&f->tail, f->n_positions, wanted));
    f->n_positions = wanted;
done:
    return st;
}

static grace_status add_sequence(gr_follow *f) {
    grace_status st = GRACE_OK;
    if (f->n_sequences == f->capacity) {
        int32_t wanted = f->capacity ? 2 * f->capacity : 64;
        GR_CHECK(f->capacity <= INT32_MAX / 2, GRACE_ERR_LIMIT, "more than %d sequences", f->capacity);
        GR_TRY(grow(&f->next, f->capacity, wanted));
        GR_TRY(grow(&f->position, f->capacity, wanted));
        GR_TRY(grow(&f->moved, f->capacity, wanted));
        f->capacity = wanted;
    }
    f->n_sequences++;
done:
    return st;
}

/* Takes the first in the queue; -1: nobody waits. */
static int32_t take(gr_follow *f, int32_t position) {
    if (position == 0 || position >= f->n_positions || f->head[position] == 0) return -1;
    int32_t sequence = f->head[position] - 1;
    f->head[position] = f->next[sequence];
    if (f->head[position] == 0) f->tail[position] = 0;
    return sequence;
}

grace_status gr_follow_run(gr_follow *f, const char *where, int64_t position, int32_t n, int32_t *sequence) {
    grace_status st = GRACE_OK;
    GR_CHECK(position >= 0 && n >= 1 && position <= GR_FOLLOW_POSITION_MAX - n, GRACE_ERR_LIMIT, "%s: %d tokens at position %" PRId64
             ", positions go from 0 to %d", where, n, position, GR_FOLLOW_POSITION_MAX);
    int32_t found = take(f, (int32_t)position);
    if (found < 0) {
        GR_TRY(add_sequence(f));
        found = f->n_sequences - 1;
    }
    f->position[found] = (int32_t)position + n;
    f->moved[f->n_moved++] = found;
    GR_TRY(reserve_position(f, f->position[found]));
    *sequence = found;
done:
    return st;
}

void gr_follow_end_pass(gr_follow *f) {
    for (int32_t i = 0; i < f->n_moved; i++) {
        int32_t sequence = f->moved[i], position = f->position[sequence];
        f->next[sequence] = 0;
        if (f->tail[position]) f->next[f->tail[position] - 1] = sequence + 1;
        else f->head[position] = sequence + 1;
        f->tail[position] = sequence + 1;
    }
    f->n_moved = 0;
}

void gr_follow_free(gr_follow *f) {
    free(f->head), free(f->tail), free(f->next), free(f->position), free(f->moved);
    *f = (gr_follow){0};
}
