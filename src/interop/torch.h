/* A file of torch.save: a ZIP with data.pkl and one file of raw elements for each storage. */
#ifndef GR_INTEROP_TORCH_H
#define GR_INTEROP_TORCH_H
#include <stdbool.h>

#include "interop/pickle.h"
#include "interop/zip.h"

typedef struct gr_torch {
    const char *where;
    gr_zip zip;
    gr_pickle pickle;
    size_t folder_n;                /* every entry's name begins with the folder's of entries[data_pkl] */
    const char *folder;
} gr_torch;

/* Any bytes are safe; they and WHERE must outlive the result. Fails as gr_zip_open() and gr_pickle_parse() do. */
grace_status gr_torch_open(const char *where, const void *bytes, size_t n, gr_torch *out);
void gr_torch_close(gr_torch *file);        /* accepts a zeroed one */

typedef struct gr_tensor {
    const unsigned char *data;      /* element 0 of the storage, which may stand at any address; borrowed from the file */
    gr_dtype dtype;
    int32_t n_dims;
    int64_t offset, n, size[GR_TENSOR_DIMS_MAX], stride[GR_TENSOR_DIMS_MAX];    /* in elements; none lies outside the data */
} gr_tensor;

/* The tensor under a dict's key. n_dims_min..max: how many dimensions it may have. Fails with FORMAT (absent, no tensor, storage missing or
 * too short), LIMIT (file names). */
grace_status gr_torch_tensor(const gr_torch *file, const gr_pickle_value *dict, const char *key, int32_t n_dims_min, int32_t n_dims_max,
                             gr_tensor *out);

bool gr_tensor_is_integer(const gr_tensor *t);
int64_t gr_tensor_int(const gr_tensor *t, int64_t element);      /* element: offset + sum of index * stride; of an integer tensor */
double gr_tensor_real(const gr_tensor *t, int64_t element);

#endif
