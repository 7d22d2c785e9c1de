/* Files: mapped for reading, replaced whole when written. */
#ifndef GR_BASE_FILE_H
#define GR_BASE_FILE_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"

typedef struct gr_file { const void *data; size_t n; } gr_file;    /* n = 0: data is a valid empty string */

/* Map a regular file read-only. Fails with IO (message has path and reason). */
grace_status gr_file_map(const char *path, gr_file *out);
void gr_file_unmap(gr_file *file);                              /* accepts a zeroed one */
/* Let go of the memory of n bytes of a mapped file that were read for the last time; whole pages only, and reading them again still works. */
void gr_file_forget(const void *bytes, size_t n);

/* A regular file for reading at any place; *n is its size now. Fails with IO. The caller closes *out. */
grace_status gr_file_open(const char *path, int *out, size_t *n);
/* n bytes from byte `at` on. Fails with IO, also when the file ends before. */
grace_status gr_file_read_at(const char *path, int fd, uint64_t at, void *to, size_t n);

/* All n bytes to fd, which PATH names in messages. Fails with IO. */
grace_status gr_file_write(const char *path, int fd, const void *bytes, size_t n);
/* The permissions open() would give a new file: 0666 less the umask. */
mode_t gr_file_new_mode(void);

/* PATH gets exactly these bytes or stays as it was: written beside it, synced, renamed. Links are followed, permissions kept;
 * devices and pipes are written to. Fails with IO, LIMIT. */
grace_status gr_file_replace(const char *path, const void *bytes, size_t n);

/* "dir/name" into out. Fails with LIMIT. */
grace_status gr_path_join(char *out, size_t size, const char *dir, const char *name);

#endif
