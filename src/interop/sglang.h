/* Recordings of SGLang's expert-distribution recorder, as bytes; files go through interop.h. Any bytes are safe. */
#ifndef GR_INTEROP_SGLANG_H
#define GR_INTEROP_SGLANG_H
#include <stddef.h>

#include "grace/trace.h"
#include "interop/torch.h"

#define GR_SGLANG_MODEL "SGLang recording"      /* they do not name the model */

grace_status gr_sglang_parse_trace(const char *where, const void *bytes, size_t n, grace_trace **out);
grace_status gr_sglang_parse_profile(const char *where, const void *bytes, size_t n, int32_t top_k, grace_profile **out);

/* Does the file have token by token records? */
bool gr_sglang_has_tokens(const gr_torch *file);

/* What of a file concerns us, shared by both readers. */
typedef struct gr_recording {
    gr_torch file;
    const char *where;
    const gr_pickle_list *records;      /* dicts, one a forward pass */
    int32_t n_layers, n_physical, n_experts;    /* layers of the model, dense ones too */
    int32_t *logical;                   /* [n_layers, n_physical] expert of a physical one */
    size_t n_bytes;                     /* of all files inside */
} gr_recording;

/* Opens a file with `records` and `last_physical_to_logical_map`. Close also after a failure. */
grace_status gr_recording_open(const char *where, const void *bytes, size_t n, gr_recording *out);
void gr_recording_close(gr_recording *recording);

/* The pass's tensor under key, of integers, with n_layers rows first and n_dims dimensions. *used adds up what the tensors of all passes take:
 * more than the file has means that passes share bytes, which no recording does, and is refused. */
grace_status gr_recording_tensor(const gr_recording *recording, size_t pass, const char *key, int32_t n_dims, size_t *used, gr_tensor *out);

/* The expert behind a physical id. FORMAT when there is no such id. */
grace_status gr_recording_expert(const gr_recording *recording, size_t pass, int32_t layer, int64_t physical, int32_t *expert);

#endif
