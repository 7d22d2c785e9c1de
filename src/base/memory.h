/* Memory: checked zeroed arrays, and arenas for things that live and die together. */
#ifndef GR_BASE_MEMORY_H
#define GR_BASE_MEMORY_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/status.h"

/* ptr = zeroed array of n elements (n = 0 gives a valid pointer); leaves through done with MEMORY. free() it. */
#define GR_CALLOC(ptr, n)                                                                                         \
    do {                                                                                                          \
        size_t gr_n_ = (size_t)(n);                                                                               \
        (ptr) = calloc(gr_n_ ? gr_n_ : 1, sizeof *(ptr));                                                         \
        GR_CHECK((ptr) != NULL, GRACE_ERR_MEMORY, "no memory for %zu elements of %zu bytes", gr_n_, sizeof *(ptr)); \
    } while (0)

/* Room for n elements in an array that grows, NULL with capacity 0 at first: at least twice the room, so that an append costs constant time on average.
 * capacity: an integer of any type. Leaves through done with MEMORY, the array as it was. free() it. */
#define GR_RESERVE(ptr, n, capacity)                                                                              \
    do {                                                                                                          \
        size_t gr_room_ = (size_t)(capacity);                                                                     \
        void *gr_there_ = gr_grown((ptr), sizeof *(ptr), (size_t)(n), &gr_room_);                                 \
        GR_CHECK(gr_there_ != NULL, GRACE_ERR_MEMORY, "no memory for %zu elements of %zu bytes", gr_room_, sizeof *(ptr)); \
        (ptr) = gr_there_;                                                                                        \
        (capacity) = (__typeof__(capacity))gr_room_;                                                              \
    } while (0)

/* The array with room for n elements, which may have moved; NULL: there is no memory for *capacity, the array is as it was. */
void *gr_grown(void *array, size_t element, size_t n, size_t *capacity);

typedef struct gr_arena gr_arena;

gr_arena *gr_arena_new(void);                                   /* NULL: no memory */
void gr_arena_free(gr_arena *arena);                            /* accepts NULL */
void *gr_arena_alloc(gr_arena *arena, size_t n, size_t size);   /* zeroed, 64-byte aligned; NULL: no memory */

/* ptr = zeroed array of n elements that lives as long as the arena. */
#define GR_ARENA_ARRAY(arena, ptr, n)                                                                             \
    do {                                                                                                          \
        (ptr) = gr_arena_alloc((arena), (size_t)(n), sizeof *(ptr));                                              \
        GR_CHECK((ptr) != NULL, GRACE_ERR_MEMORY, "no memory for %zu elements of %zu bytes", (size_t)(n), sizeof *(ptr)); \
    } while (0)

/* A growing byte string; text is always zero-terminated after the first append. */
typedef struct gr_buf { char *data; size_t n, capacity; } gr_buf;

grace_status gr_buf_append(gr_buf *buf, const void *bytes, size_t n);
grace_status gr_buf_printf(gr_buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
void gr_buf_free(gr_buf *buf);

#endif
