/* TensorRT-LLM's load balancer configuration as text; files go through interop.h. Any text is safe. */
#ifndef GR_INTEROP_TRTLLM_H
#define GR_INTEROP_TRTLLM_H
#include "interop/placement.h"

/* The YAML that we and PyYAML write for it: keys at the left margin, layers indented, lists as [a, b] (over several lines too) or "- a" lines. */
grace_status gr_trtllm_parse(const char *where, const char *text, size_t n, int32_t n_ranks, gr_placement *out);

#endif
