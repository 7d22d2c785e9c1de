#include "fetch/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FOLDER = O_RDONLY | O_DIRECTORY | O_CLOEXEC };

/* The folder `name` of `dir`, which is closed. A link in its place could lead anywhere. */
static grace_status step_into(int *dir, const char *name) {
    grace_status st = GRACE_OK;
    GR_CHECK(mkdirat(*dir, name, 0777) == 0 || errno == EEXIST, GRACE_ERR_IO, "%s: cannot make the folder: %s", name, strerror(errno));
    int next = openat(*dir, name, FOLDER | O_NOFOLLOW);
    GR_CHECK(next >= 0, GRACE_ERR_IO, "%s: expected a folder that is no link: %s", name, strerror(errno));
    close(*dir);
    *dir = next;
done:
    return st;
}

grace_status gr_place_open(const char *root, const char *name, gr_place *out) {
    grace_status st = GRACE_OK;
    int dir = -1;
    GR_CHECK(mkdir(root, 0777) == 0 || errno == EEXIST, GRACE_ERR_IO, "%s: cannot make the folder: %s", root, strerror(errno));
    dir = open(root, FOLDER);
    GR_CHECK(dir >= 0, GRACE_ERR_IO, "%s: %s", root, strerror(errno));
    for (const char *slash; (slash = strchr(name, '/')); name = slash + 1) {
        snprintf(out->name, sizeof out->name, "%.*s", (int)(slash - name), name);
        GR_TRY(step_into(&dir, out->name));
    }
    GR_ASSERT(strlen(name) + 9 <= sizeof out->partial);
    snprintf(out->name, sizeof out->name, "%s", name);
    snprintf(out->partial, sizeof out->partial, "%s.partial", name);
    out->dir = dir;
    dir = -1;
done:
    if (dir >= 0) close(dir);
    return st;
}

void gr_place_close(gr_place *place) { close(place->dir); }

static grace_status open_regular(const gr_place *place, const char *name, int flags, int *fd) {
    grace_status st = GRACE_OK;
    struct stat info;
    *fd = openat(place->dir, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    if (*fd < 0 && errno == ENOENT && !(flags & O_CREAT)) return st;
    GR_CHECK(*fd >= 0, GRACE_ERR_IO, "%s: %s", name, errno == ELOOP ? "a link lies there" : strerror(errno));
    GR_CHECK(fstat(*fd, &info) == 0 && S_ISREG(info.st_mode), GRACE_ERR_IO, "%s: expected a regular file", name);
done:
    if (st && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return st;
}

grace_status gr_place_existing(const gr_place *place, int *fd) { return open_regular(place, place->name, O_RDONLY, fd); }

/* Locked as long as it is open: two downloads would write through each other's bytes. */
grace_status gr_place_partial(const gr_place *place, int *fd) {
    grace_status st = open_regular(place, place->partial, O_RDWR | O_CREAT, fd);
    if (st || flock(*fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return st;
    close(*fd);
    *fd = -1;
    return gr_fail(GRACE_ERR_IO, "%s: another process is downloading it", place->partial);
}

grace_status gr_place_finish(const gr_place *place, int fd) {
    grace_status st = GRACE_OK;
    GR_CHECK(fsync(fd) == 0, GRACE_ERR_IO, "%s: cannot write: %s", place->partial, strerror(errno));
    GR_CHECK(renameat(place->dir, place->partial, place->dir, place->name) == 0, GRACE_ERR_IO, "%s: cannot put it in place: %s", place->name, strerror(errno));
done:
    return st;
}
