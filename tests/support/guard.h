/* A copy of some bytes that ends where memory ends: reading one byte past it crashes, with or without a sanitizer. */
#ifndef GR_TESTS_SUPPORT_GUARD_H
#define GR_TESTS_SUPPORT_GUARD_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static inline size_t guard_span(size_t n) {        /* whole pages for n bytes, at least one */
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (n + page - (n == 0 ? 0 : 1)) / page * page;
}

/* The copy is [p, p + n); p[n] is on an unmapped page, also when n is 0. guard_free() it with the same n. */
static inline const uint8_t *guard_copy(const void *bytes, size_t n) {
    size_t span = guard_span(n), page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *base = mmap(NULL, span + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + span, page, PROT_NONE)) {
        perror("guard_copy");
        abort();
    }
    if (n) memcpy(base + span - n, bytes, n);
    return base + span - n;
}

static inline void guard_free(const uint8_t *p, size_t n) {
    if (p) munmap((void *)(uintptr_t)(p + n - guard_span(n)), guard_span(n) + (size_t)sysconf(_SC_PAGESIZE));
}

#endif
