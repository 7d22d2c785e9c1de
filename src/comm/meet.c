#include "comm/meet.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

struct gr_meeting {
    _Atomic int32_t *n_here;        /* shared, 0 to begin with */
    char name[GR_MEETING_NAME];     /* to be forgotten; "": not ours, or forgotten */
};

static grace_status map(int fd, const char *name, gr_meeting *m) {
    grace_status st = GRACE_OK;
    void *page = mmap(NULL, sizeof *m->n_here, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    GR_CHECK(page != MAP_FAILED, GRACE_ERR_IO, "shared memory %s: %s", name, strerror(errno));
    m->n_here = page;
done:
    return st;
}

static grace_status open_place(const char *name, int flags, gr_meeting **out) {
    grace_status st = GRACE_OK;
    gr_meeting *m = NULL;
    const int fd = shm_open(name, O_RDWR | flags, 0600);
    GR_CHECK(fd >= 0, GRACE_ERR_IO, "shared memory %s: %s", name, strerror(errno));
    GR_CALLOC(m, 1);
    if (flags & O_CREAT) strcpy(m->name, name);
    if (flags & O_CREAT) GR_CHECK(ftruncate(fd, sizeof *m->n_here) == 0, GRACE_ERR_IO, "shared memory %s: %s", name, strerror(errno));
    GR_TRY(map(fd, name, m));
    *out = m;
    m = NULL;
done:
    if (fd >= 0) close(fd);
    gr_meeting_close(m);
    return st;
}

grace_status gr_meeting_create(char name[GR_MEETING_NAME], gr_meeting **out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);        /* a process that was killed with the same id may have left a name */
    snprintf(name, GR_MEETING_NAME, "/grace-%ld-%lld-%09ld", (long)getpid(), (long long)now.tv_sec, now.tv_nsec);
    return open_place(name, O_CREAT | O_EXCL, out);
}

grace_status gr_meeting_attach(const char *name, gr_meeting **out) { return open_place(name, 0, out); }

void gr_meeting_forget(gr_meeting *m) {
    if (!m || !*m->name) return;
    shm_unlink(m->name);
    m->name[0] = 0;
}

bool gr_meeting_wait(gr_meeting *m, int32_t n, double deadline_s) {
    const double start_us = gr_now_us();
    atomic_fetch_add(m->n_here, 1);
    while (atomic_load(m->n_here) < n) {
        if (gr_now_us() - start_us > 1e6 * deadline_s) return false;
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    return true;
}

void gr_meeting_close(gr_meeting *m) {
    if (!m) return;
    gr_meeting_forget(m);
    if (m->n_here) munmap((void *)m->n_here, sizeof *m->n_here);
    free(m);
}
