/* What torch.save leaves in data.pkl, read by a machine that can build values and nothing else: it knows the opcodes of pickle protocol 2 that
 * torch.save writes, and of all the world's functions and classes torch._utils._rebuild_tensor_v2, torch.*Storage and collections.OrderedDict,
 * by name. It runs no code, follows no reference by recursion and takes memory in proportion to its input. */
#ifndef GR_INTEROP_PICKLE_H
#define GR_INTEROP_PICKLE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { GR_TENSOR_DIMS_MAX = 8 };

typedef enum gr_dtype { GR_U8, GR_I8, GR_I16, GR_I32, GR_I64, GR_BOOL, GR_F32, GR_F64 } gr_dtype;

typedef enum gr_pickle_kind {
    GR_PICKLE_NONE, GR_PICKLE_BOOL, GR_PICKLE_INT, GR_PICKLE_REAL, GR_PICKLE_TEXT, GR_PICKLE_TUPLE, GR_PICKLE_LIST, GR_PICKLE_DICT,
    GR_PICKLE_GLOBAL, GR_PICKLE_STORAGE, GR_PICKLE_TENSOR,
} gr_pickle_kind;

/* 16 bytes; what does not fit is in the pickle's tables under `index`. */
typedef struct gr_pickle_value {
    gr_pickle_kind kind;
    uint32_t n;                         /* bytes of a text */
    union { int64_t integer; double real; const char *text; size_t index; };      /* text: in the input, not terminated */
} gr_pickle_value;

typedef struct gr_pickle_list { gr_pickle_value *items; size_t n, capacity; } gr_pickle_list;      /* of a dict: key, value, key, value */

typedef struct gr_pickle_storage { gr_dtype dtype; gr_pickle_value key; int64_t n; } gr_pickle_storage;     /* elements in the file data/KEY */

typedef struct gr_pickle_tensor {       /* sizes and strides in elements; every element lies inside the storage, and no more of them than it has */
    size_t storage;                     /* index */
    int32_t n_dims;
    int64_t offset, n, size[GR_TENSOR_DIMS_MAX], stride[GR_TENSOR_DIMS_MAX];
} gr_pickle_tensor;

typedef struct gr_pickle {
    gr_pickle_value root;
    gr_pickle_list *lists;              /* of tuples, lists and dicts */
    gr_pickle_storage *storages;
    gr_pickle_tensor *tensors;
    size_t n_lists, n_storages, n_tensors, lists_capacity, storages_capacity, tensors_capacity;
} gr_pickle;

/* Any bytes are safe; texts point into them. Fails with FORMAT, UNSUPPORTED (an opcode or a name that torch.save does not write), MEMORY. */
grace_status gr_pickle_parse(const char *where, const void *bytes, size_t n, gr_pickle *out);
void gr_pickle_free(gr_pickle *pickle);     /* accepts a zeroed one */

int gr_dtype_bytes(gr_dtype dtype);
const char *gr_pickle_kind_name(gr_pickle_kind kind);
bool gr_pickle_is_text(const gr_pickle_value *value, const char *text);

/* The value of a text key; NULL when it is absent or the object is no dict. Of two equal keys the later counts, as in Python. */
const gr_pickle_value *gr_pickle_get(const gr_pickle *pickle, const gr_pickle_value *dict, const char *key);
/* Tuples and lists; n is 0 for anything else. */
const gr_pickle_list *gr_pickle_items(const gr_pickle *pickle, const gr_pickle_value *list);

#endif
