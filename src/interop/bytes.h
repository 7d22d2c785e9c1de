/* Little-endian numbers in bytes that may stand anywhere. */
#ifndef GR_INTEROP_BYTES_H
#define GR_INTEROP_BYTES_H
#include <stdint.h>

static inline uint64_t gr_le(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

static inline uint16_t gr_le16(const unsigned char *p) { return (uint16_t)gr_le(p, 2); }
static inline uint32_t gr_le32(const unsigned char *p) { return (uint32_t)gr_le(p, 4); }
static inline uint64_t gr_le64(const unsigned char *p) { return gr_le(p, 8); }

static inline void gr_put_le32(unsigned char *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (unsigned char)(v >> 8 * i);
}

#endif
