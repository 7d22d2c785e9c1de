#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

grace_status gr_file_open(const char *path, int *out, size_t *n) {
    grace_status st = GRACE_OK;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);     /* a named pipe without a writer must not make us wait */
    GR_CHECK(fd >= 0, GRACE_ERR_IO, "%s: %s", path, strerror(errno));
    GR_CHECK(fstat(fd, &info) == 0, GRACE_ERR_IO, "%s: %s", path, strerror(errno));
    GR_CHECK(S_ISREG(info.st_mode), GRACE_ERR_IO, "%s: expected a regular file", path);
    *n = (size_t)info.st_size;
    *out = fd, fd = -1;
done:
    if (fd >= 0) close(fd);
    return st;
}

grace_status gr_file_read_at(const char *path, int fd, uint64_t at, void *to, size_t n) {
    grace_status st = GRACE_OK;
    for (char *p = to; n > 0;) {
        ssize_t done = pread(fd, p, n, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        GR_CHECK(done >= 0, GRACE_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
        GR_CHECK(done > 0, GRACE_ERR_IO, "%s: ends at byte %llu, it became shorter while it was read", path, (unsigned long long)at);
        p += done, at += (uint64_t)done, n -= (size_t)done;
    }
done:
    return st;
}

grace_status gr_file_map(const char *path, gr_file *out) {
    grace_status st = GRACE_OK;
    size_t n = 0;
    int fd = -1;
    GR_TRY(gr_file_open(path, &fd, &n));
    if (n == 0) {
        *out = (gr_file){"", 0};
        goto done;
    }
    void *data = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    GR_CHECK(data != MAP_FAILED, GRACE_ERR_IO, "%s: cannot map %zu bytes: %s", path, n, strerror(errno));
    *out = (gr_file){data, n};
done:
    if (fd >= 0) close(fd);
    return st;
}

void gr_file_unmap(gr_file *file) {
    if (file->n) munmap((void *)file->data, file->n);
    *file = (gr_file){0};
}

void gr_file_forget(const void *bytes, size_t n) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)bytes + page - 1) / page * page, end = ((uintptr_t)bytes + n) / page * page;
    if (first < end) madvise((char *)bytes + (first - (uintptr_t)bytes), end - first, MADV_DONTNEED);
}

grace_status gr_file_write(const char *path, int fd, const void *bytes, size_t n) {
    for (const char *p = bytes; n > 0;) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return gr_fail(GRACE_ERR_IO, "%s: cannot write: %s", path, done < 0 ? strerror(errno) : "no room");
        p += done;
        n -= (size_t)done;
    }
    return GRACE_OK;
}

/* Devices and pipes, such as /dev/stdout and /dev/null, are written to: replacing them would break the machine. */
static grace_status write_through(const char *path, const void *bytes, size_t n) {
    grace_status st = GRACE_OK;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    GR_CHECK(fd >= 0, GRACE_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    GR_TRY(gr_file_write(path, fd, bytes, n));
done:
    if (fd >= 0) close(fd);
    return st;
}

/* The mask can only be read by setting it; 077 leaks nothing to a thread that opens in between. */
mode_t gr_file_new_mode(void) {
    mode_t mask = umask(077);
    umask(mask);
    return 0666 & ~mask;
}

static grace_status write_beside_and_rename(const char *path, mode_t mode, const void *bytes, size_t n) {
    grace_status st = GRACE_OK;
    char temporary[PATH_MAX];
    int fd = -1, length = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    GR_CHECK(length > 0 && (size_t)length < sizeof temporary, GRACE_ERR_LIMIT, "%s: path is longer than %d bytes", path, PATH_MAX);
    fd = mkostemp(temporary, O_CLOEXEC);
    GR_CHECK(fd >= 0, GRACE_ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    GR_TRY(gr_file_write(path, fd, bytes, n));
    GR_CHECK(fchmod(fd, mode) == 0 && fsync(fd) == 0, GRACE_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    GR_CHECK(rename(temporary, path) == 0, GRACE_ERR_IO, "%s: cannot replace: %s", path, strerror(errno));
done:
    if (fd >= 0) close(fd);
    if (st && fd >= 0) unlink(temporary);
    return st;
}

grace_status gr_file_replace(const char *path, const void *bytes, size_t n) {
    struct stat info;
    char target[PATH_MAX];
    if (stat(path, &info)) return write_beside_and_rename(path, gr_file_new_mode(), bytes, n);
    if (!S_ISREG(info.st_mode)) return write_through(path, bytes, n);
    if (!realpath(path, target)) return gr_fail(GRACE_ERR_IO, "%s: %s", path, strerror(errno));      /* links stay links */
    return write_beside_and_rename(target, info.st_mode & 07777, bytes, n);
}

grace_status gr_path_join(char *out, size_t size, const char *dir, const char *name) {
    int n = snprintf(out, size, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= size) return gr_fail(GRACE_ERR_LIMIT, "%s/%s: path is longer than %zu bytes", dir, name, size);
    return GRACE_OK;
}
