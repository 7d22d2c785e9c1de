/* All tensors of a model folder by name, over its shards. */
#ifndef GR_MODEL_FOLDER_H
#define GR_MODEL_FOLDER_H
#include <stdbool.h>
#include <stdint.h>

#include "grace/model.h"

typedef struct gr_folder gr_folder;

/* Map DIR/model.safetensors or, when there is none, the shards that DIR/model.safetensors.index.json names; a tensor is taken from the
 * shard the index gives for it. Reads headers only. Fails with IO, FORMAT, LIMIT, UNSUPPORTED. The caller closes. */
grace_status gr_folder_open(const char *dir, gr_folder **out);
/* A folder that has whatever is asked for below, in BF16 and made from the seed and the tensor's name (grace_model_open_random()); nothing is read, and
 * there is nothing that gr_folder_tensor() or gr_folder_has() could find. */
grace_status gr_folder_open_random(const char *dir, uint64_t seed, gr_folder **out);
void gr_folder_close(gr_folder *folder);                    /* accepts NULL */

/* Any tensor of at most two dimensions, borrowed until close. Fails with MISMATCH (none of that name), UNSUPPORTED (dtype, dimensions). */
grace_status gr_folder_tensor(const gr_folder *folder, const char *name, grace_tensor *out);

bool gr_folder_has(const gr_folder *folder, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A tensor the network needs: the name comes from the format, the shape must be exactly [n], or [rows, cols]; a matrix of fp8 comes with the scales
 * of its blocks, named NAME_scale_inv. Fails with FORMAT (absent, another shape), UNSUPPORTED. */
grace_status gr_folder_vector(gr_folder *folder, int64_t n, grace_tensor *out, const char *format, ...) __attribute__((format(printf, 4, 5)));
grace_status gr_folder_matrix(gr_folder *folder, int64_t rows, int64_t cols, grace_tensor *out, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* A matrix that no checkpoint has in fp8 and that is read row by row or as it lies in the file: a router, biases of all experts. */
grace_status gr_folder_plain(gr_folder *folder, int64_t rows, int64_t cols, grace_tensor *out, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* n matrices in one tensor [n, rows, cols]: *out has n * rows rows. */
grace_status gr_folder_stack(gr_folder *folder, int64_t n, int64_t rows, int64_t cols, grace_tensor *out, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
/* The same from NAME_blocks [n, rows, cols / 32, 16] and NAME_scales [n, rows, cols / 32]. */
grace_status gr_folder_mxfp4(gr_folder *folder, int64_t n, int64_t rows, int64_t cols, grace_tensor *out, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

int64_t gr_folder_n_bytes(const gr_folder *folder);         /* of all tensors; of a random folder's, of those that were asked for */
int64_t gr_folder_n_needed(const gr_folder *folder);        /* values of all tensors that gr_folder_vector, _matrix, _plain, _stack and _mxfp4 gave out */
void gr_folder_log_unneeded(const gr_folder *folder);       /* how many were not given out, and the first of them */

#endif
