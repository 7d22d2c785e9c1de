#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { ALIGN = 64, CHUNK = 64 * 1024, ROOM_MIN = 16 };

typedef struct chunk { struct chunk *next; size_t used, size; } chunk;     /* followed by its bytes */

struct gr_arena { chunk *head; };

gr_arena *gr_arena_new(void) { return calloc(1, sizeof(gr_arena)); }

void gr_arena_free(gr_arena *arena) {
    if (!arena) return;
    for (chunk *c = arena->head, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(arena);
}

static size_t align_up(size_t n) { return (n + ALIGN - 1) & ~(size_t)(ALIGN - 1); }

static chunk *add_chunk(gr_arena *arena, size_t n) {
    size_t size = n > CHUNK ? n : CHUNK;
    chunk *c = NULL;
    if (posix_memalign((void **)&c, ALIGN, align_up(sizeof *c) + size)) return NULL;
    c->next = arena->head;
    c->used = 0;
    c->size = size;
    arena->head = c;
    return c;
}

void *gr_arena_alloc(gr_arena *arena, size_t n, size_t size) {
    if (size && n > (SIZE_MAX / 2) / size) return NULL;
    size_t bytes = n * size;
    bytes = align_up(bytes > 0 ? bytes : 1);
    chunk *c = arena->head;
    if (!c || c->size - c->used < bytes) c = add_chunk(arena, bytes);
    if (!c) return NULL;
    void *p = (char *)c + align_up(sizeof *c) + c->used;
    c->used += bytes;
    return memset(p, 0, bytes);
}

/* Room that is doubled stops at INT32_MAX until more is asked for, so that the capacity may be an int32_t. */
void *gr_grown(void *array, size_t element, size_t n, size_t *capacity) {
    size_t room = *capacity > SIZE_MAX / 2 ? SIZE_MAX : 2 * *capacity;
    if (array && n <= *capacity) return array;
    if (room > INT32_MAX && n <= INT32_MAX) room = INT32_MAX;
    if (room < ROOM_MIN) room = ROOM_MIN;
    *capacity = room < n ? n : room;
    return *capacity > (SIZE_MAX / 2) / element ? NULL : realloc(array, *capacity * element);
}

static grace_status reserve(gr_buf *buf, size_t n) {
    grace_status st = GRACE_OK;
    GR_CHECK(n < SIZE_MAX / 2 - buf->n, GRACE_ERR_MEMORY, "no memory for a text of %zu + %zu bytes", buf->n, n);
    GR_RESERVE(buf->data, buf->n + n + 1, buf->capacity);
done:
    return st;
}

grace_status gr_buf_append(gr_buf *buf, const void *bytes, size_t n) {
    grace_status st = reserve(buf, n);
    if (st) return st;
    if (n) memcpy(buf->data + buf->n, bytes, n);
    buf->n += n;
    buf->data[buf->n] = 0;
    return GRACE_OK;
}

grace_status gr_buf_printf(gr_buf *buf, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    grace_status st = n < 0 ? gr_fail(GRACE_ERR_ARG, "bad text format '%s'", format) : reserve(buf, (size_t)n);
    if (!st) {
        vsnprintf(buf->data + buf->n, (size_t)n + 1, format, again);
        buf->n += (size_t)n;
    }
    va_end(args);
    va_end(again);
    return st;
}

void gr_buf_free(gr_buf *buf) {
    free(buf->data);
    *buf = (gr_buf){0};
}
