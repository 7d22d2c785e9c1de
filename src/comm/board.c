#include "comm/board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/memory.h"

struct gr_board_post {
    _Alignas(64) _Atomic uint64_t round;    /* whose it is; 0: nothing was posted */
    uint64_t n;
    unsigned char bytes[GR_BOARD_ROOM];
};
_Static_assert(sizeof(gr_board_post) == 16384, "posts are apart, and few bytes share their number's cache line");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a lock would be another process's");

static size_t size_of(int32_t n_ranks) { return 2 * (size_t)n_ranks * sizeof(gr_board_post); }

static gr_board_post *post_of(const gr_board *b, int32_t rank) { return &b->posts[2 * rank + (int32_t)(b->round % 2)]; }

/* ---- the memory ---- */

static grace_status new_board(int32_t rank, int32_t n_ranks, gr_board **out) {
    grace_status st = GRACE_OK;
    GR_CALLOC(*out, 1);
    **out = (gr_board){.rank = rank, .n_ranks = n_ranks, .fd = -1};
done:
    return st;
}

static grace_status map(gr_board *b) {
    grace_status st = GRACE_OK;
    void *posts = mmap(NULL, size_of(b->n_ranks), PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
    GR_CHECK(posts != MAP_FAILED, GRACE_ERR_IO, "cannot map it: %s", strerror(errno));
    b->posts = posts;
done:
    return st;
}

/* Nobody else's has it: an attached rank can tell that it has found this one. */
static grace_status draw_name(char name[static GR_BOARD_NAME]) {
    grace_status st = GRACE_OK;
    uint64_t key[2];
    GR_CHECK(getrandom(key, sizeof key, 0) == sizeof key, GRACE_ERR_IO, "no random bytes: %s", strerror(errno));
    snprintf(name, GR_BOARD_NAME, "grace-%016llx%016llx", (unsigned long long)key[0], (unsigned long long)key[1]);
done:
    return st;
}

/* All of it is taken now: later nobody could say that there is too little. */
grace_status gr_board_create(int32_t n_ranks, gr_board_place *place, gr_board **out) {
    grace_status st = GRACE_OK;
    gr_board *b = NULL;
    char name[GR_BOARD_NAME] = "";
    GR_TRY(draw_name(name));
    GR_TRY(new_board(0, n_ranks, &b));
    b->fd = memfd_create(name, MFD_CLOEXEC);
    GR_CHECK(b->fd >= 0, GRACE_ERR_IO, "no shared memory: %s", strerror(errno));
    const int error = posix_fallocate(b->fd, 0, (off_t)size_of(n_ranks));
    GR_CHECK(error == 0, GRACE_ERR_IO, "no shared memory of %zu bytes: %s", size_of(n_ranks), strerror(error));
    GR_TRY(map(b));
    *place = (gr_board_place){.process = getpid(), .fd = b->fd};
    memcpy(place->name, name, sizeof name);
    *out = b;
    b = NULL;
done:
    gr_board_close(b);
    return st;
}

/* Where processes have other numbers (containers of one host name) the path leads nowhere, or to a file that is not ours to open. */
static grace_status open_place(const gr_board_place *place, int *fd) {
    grace_status st = GRACE_OK;
    char path[64], expected[80], found[80] = "";
    snprintf(path, sizeof path, "/proc/%lld/fd/%d", (long long)place->process, place->fd);
    snprintf(expected, sizeof expected, "/memfd:%.*s (deleted)", GR_BOARD_NAME, place->name);
    GR_CHECK(readlink(path, found, sizeof found - 1) > 0, GRACE_ERR_IO, "shared memory of rank 0: %s: %s", path, strerror(errno));
    GR_CHECK(strcmp(found, expected) == 0, GRACE_ERR_IO, "shared memory of rank 0: %s: expected %s, found %s", path, expected, found);
    *fd = open(path, O_RDWR | O_CLOEXEC);
    GR_CHECK(*fd >= 0, GRACE_ERR_IO, "shared memory of rank 0: %s: %s", path, strerror(errno));
done:
    return st;
}

grace_status gr_board_attach(int32_t rank, int32_t n_ranks, const gr_board_place *place, gr_board **out) {
    grace_status st = GRACE_OK;
    gr_board *b = NULL;
    GR_TRY(new_board(rank, n_ranks, &b));
    GR_TRY(open_place(place, &b->fd));
    GR_TRY(map(b));
    *out = b;
    b = NULL;
done:
    gr_board_close(b);
    return st;
}

void gr_board_close(gr_board *b) {
    if (!b) return;
    if (b->posts) munmap(b->posts, size_of(b->n_ranks));
    if (b->fd >= 0) close(b->fd);
    free(b);
}

/* ---- rounds ---- */

void gr_board_begin(gr_board *b, const void *bytes, size_t n) {
    GR_ASSERT(n <= GR_BOARD_ROOM);
    b->round++;
    gr_board_post *post = post_of(b, b->rank);
    post->n = n;
    if (n > 0) memcpy(post->bytes, bytes, n);
    atomic_store_explicit(&post->round, b->round, memory_order_release);
}

bool gr_board_has(const gr_board *b, int32_t rank) {
    return atomic_load_explicit(&post_of(b, rank)->round, memory_order_acquire) == b->round;
}

const void *gr_board_read(const gr_board *b, int32_t rank, size_t *n) {
    const gr_board_post *post = post_of(b, rank);
    *n = post->n;
    return post->bytes;
}
