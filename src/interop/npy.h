/* NumPy's .npy, version 1.0: a header in Python's notation, then the elements. Whole numbers in C order only. */
#ifndef GR_INTEROP_NPY_H
#define GR_INTEROP_NPY_H
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

enum { GR_NPY_DIMS_MAX = 8 };

typedef struct gr_npy {
    int32_t n_dims;
    int64_t size[GR_NPY_DIMS_MAX], n;       /* n: elements */
    char kind;                              /* 'b' boolean, 'i', 'u' */
    int32_t item_bytes;                     /* 1, 2, 4, 8 */
    const unsigned char *data;              /* [n] little endian, borrowed */
} gr_npy;

/* Any bytes are safe. Fails with FORMAT, UNSUPPORTED (floats, big endian, Fortran order, versions other than 1 and 2). */
grace_status gr_npy_parse(const char *where, const void *bytes, size_t n, gr_npy *out);
int64_t gr_npy_int(const gr_npy *npy, int64_t element);     /* u64 beyond int64 comes out negative */

/* Appends header and int32 elements, values [product of size]. Fails with MEMORY. */
grace_status gr_npy_print(const int32_t *values, const int64_t *size, int32_t n_dims, gr_buf *out);

#endif
