/* omni-infer's placement pattern as bytes; files go through interop.h. Any bytes are safe. */
#ifndef GR_INTEROP_OMNI_H
#define GR_INTEROP_OMNI_H
#include "interop/placement.h"

grace_status gr_omni_parse(const char *where, const void *bytes, size_t n, gr_placement *out);

#endif
