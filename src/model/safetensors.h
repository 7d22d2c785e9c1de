/* One safetensors file: names -> tensors that lie in it. Knows nothing of networks.
 *
 * File: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets: [begin, end]}, __metadata__}, then data.
 * Everything is checked when the file is parsed, so that a tensor handed out lies inside the file, whole and alone. */
#ifndef GR_MODEL_SAFETENSORS_H
#define GR_MODEL_SAFETENSORS_H
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"

enum { GR_SHARD_DIMS_MAX = 8, GR_SHARD_HEADER_MAX = 100 * 1000 * 1000 };    /* the header limit of the format's own reader */

typedef struct gr_shard_tensor {
    const char *name;
    const char *dtype;                      /* the format's own word: "BF16" */
    const void *data;                       /* [n_bytes] in the file; aligned only if the writer did */
    size_t n_bytes;
    int64_t shape[GR_SHARD_DIMS_MAX];
    int32_t n_dims;
} gr_shard_tensor;

typedef struct gr_shard {
    const char *path;                       /* as given, for messages */
    gr_shard_tensor *tensors;               /* [n_tensors] sorted by name */
    int32_t n_tensors;
    gr_arena *arena;                        /* path, names and tensors */
    gr_file file;                           /* empty when the bytes were the caller's */
} gr_shard;

/* bytes [n] are borrowed until close; path names them in messages. Reads the header only. Fails with FORMAT, LIMIT, UNSUPPORTED (dtype). */
grace_status gr_shard_parse(const char *path, const void *bytes, size_t n, gr_shard *out);
/* The same for a mapped file, which close unmaps. Fails with IO too. */
grace_status gr_shard_open(const char *path, gr_shard *out);
void gr_shard_close(gr_shard *shard);       /* accepts a zeroed one */

const gr_shard_tensor *gr_shard_find(const gr_shard *shard, const char *name);     /* NULL: none */

#endif
