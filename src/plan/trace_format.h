/* The bytes of a trace file: prefix, JSON header, blocks. docs/formats.md tells the same story in words. */
#ifndef GR_PLAN_TRACE_FORMAT_H
#define GR_PLAN_TRACE_FORMAT_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/hash.h"
#include "grace/trace.h"

#define GR_TRACE_MAGIC "GRtrace\n"      /* 8 bytes; the newline shows a file that went through a text conversion */

enum {
    GR_TRACE_VERSION = 2,               /* written; 1 is read too: no phases, token ids and weights */
    GR_TRACE_PREFIX_BYTES = 24,         /* magic, version, header length, checksum */
    GR_TRACE_BLOCK_BYTES = 32,          /* type, sizes, items, two checksums */
    GR_TRACE_SEQUENCE_BYTES = 12,       /* id, home, domain */
    GR_TRACE_SEGMENT_BYTES = 20,        /* sequence, position, tokens, step, phase */
    GR_TRACE_SEGMENT_BYTES_V1 = 16,     /* ... without phase */
    GR_TRACE_TOTALS_BYTES = 16,         /* tokens, sequences */
    GR_TRACE_HEADER_MAX = 1 << 20,
    GR_TRACE_RAW_MAX = 64 << 20,        /* of a block before compression: what a reader must be ready to hold */
};

/* What precedes every payload. Both checksums are seeded with the one before them (the header check of the last block, the file header's
 * checksum for the first): a block that is missing or out of place does not verify. */
typedef struct gr_trace_block {
    char type;                          /* 'S' sequences, 'T' tokens, 'E' end */
    uint32_t raw_bytes, stored_bytes;   /* before and after compression */
    uint32_t n_items;                   /* sequences, segments, 0 */
    uint64_t payload_check;             /* of the stored bytes */
    uint64_t header_check;              /* of the 24 bytes before it: a damaged size is not mistaken for a short file */
} gr_trace_block;

static inline void gr_put_u32(unsigned char *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (unsigned char)(v >> 8 * i);
}

static inline void gr_put_u64(unsigned char *p, uint64_t v) {
    gr_put_u32(p, (uint32_t)v);
    gr_put_u32(p + 4, (uint32_t)(v >> 32));
}

static inline uint32_t gr_get_u32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t gr_get_u64(const unsigned char *p) { return gr_get_u32(p) | (uint64_t)gr_get_u32(p + 4) << 32; }

/* The checksum at byte 16 of a file: over the 16 bytes before it and the JSON text. */
static inline uint64_t gr_trace_header_check(const unsigned char *prefix, const void *json, size_t n) {
    return gr_hash64(json, n, gr_hash64(prefix, 16, 0));
}

/* Both write or read the 32 bytes at p; put fills in the checksums of b. */
static inline void gr_trace_put_block(unsigned char *p, gr_trace_block *b, uint64_t chain) {
    b->payload_check = gr_hash64(p + GR_TRACE_BLOCK_BYTES, b->stored_bytes, chain);
    memset(p, 0, 4);
    p[0] = (unsigned char)b->type;
    gr_put_u32(p + 4, b->raw_bytes);
    gr_put_u32(p + 8, b->stored_bytes);
    gr_put_u32(p + 12, b->n_items);
    gr_put_u64(p + 16, b->payload_check);
    b->header_check = gr_hash64(p, 24, chain);
    gr_put_u64(p + 24, b->header_check);
}

static inline gr_trace_block gr_trace_get_block(const unsigned char *p) {
    return (gr_trace_block){
        .type = (char)p[0],
        .raw_bytes = gr_get_u32(p + 4),
        .stored_bytes = gr_get_u32(p + 8),
        .n_items = gr_get_u32(p + 12),
        .payload_check = gr_get_u64(p + 16),
        .header_check = gr_get_u64(p + 24),
    };
}

/* Bytes of an expert id, of a token id, of a gate weight; 0: the trace has none. */
static inline int gr_trace_expert_bytes(int32_t n_experts) { return n_experts <= 256 ? 1 : 2; }
static inline int gr_trace_id_bytes(int32_t vocab) { return vocab == 0 ? 0 : vocab <= 65536 ? 2 : 4; }
static inline int gr_trace_weight_bytes(grace_trace_weights weights) { return weights == GRACE_WEIGHTS_F16 ? 2 : weights == GRACE_WEIGHTS_U8; }

/* Bytes of one token in a block: experts, id, weights. */
static inline size_t gr_trace_token_bytes(const grace_trace_info *info) {
    size_t n_values = (size_t)info->n_layers * (size_t)info->top_k;
    return n_values * (size_t)(gr_trace_expert_bytes(info->n_experts) + gr_trace_weight_bytes(info->weights)) + (size_t)gr_trace_id_bytes(info->vocab);
}

/* "none", "u8", "f16" in a header. */
static const char *const gr_trace_weights_names[GRACE_N_WEIGHTS] = {"none", "u8", "f16"};

#endif
