/* Placements as JSON text, for fuzzing and tests; files go through interop.h. Any text is safe. */
#ifndef GR_INTEROP_PLACE_JSON_H
#define GR_INTEROP_PLACE_JSON_H
#include "interop/placement.h"

grace_status gr_sglang_parse(const char *where, const char *text, size_t n, int32_t n_ranks, const gr_layer_map *map, gr_placement *out);
grace_status gr_flat_parse(const char *where, const char *text, size_t n, int32_t n_ranks, gr_placement *out);
grace_status gr_ascend_parse(const char *where, const char *text, size_t n, gr_placement *out);

#endif
