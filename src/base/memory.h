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
