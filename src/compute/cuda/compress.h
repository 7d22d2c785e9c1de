/* Rows packed for a wire between nodes, bit for bit (docs/compression.md). Of a bf16 value, sign and mantissa (8 bits) go as they are; the exponent
 * goes as a code
 * of 3 or 4 bits: its distance from the row's base, or "elsewhere", and such exponents follow. Base and width are those that make the row smallest; a row that
 * would not get smaller goes as it is. Normal values of any scale take 11.3 bits.
 *
 * Packed: a table of 8 bytes a row, then the rows' bodies, each on 16 bytes. All of it depends on the rows alone.
 *   table[row]   uint32 where its body is, in 16 bytes from the start; uint16 exponents elsewhere; uint8 base; uint8 width (0: as it is)
 *   body         sign << 7 | mantissa, a byte a value; the codes of 8 values in `width` bytes, the first lowest; exponents elsewhere, a byte each; zeros
 *
 * Every call queues work on the stream, needs no number from the device, waits for nothing and may be captured in a graph. Fail with LIMIT, ARG, and
 * with UNSUPPORTED
 * for what CUDA says. */
#ifndef GR_COMPUTE_CUDA_COMPRESS_H
#define GR_COMPUTE_CUDA_COMPRESS_H
#include "compute/cuda/exchange.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { GR_CUDA_PACKED_WIDTH_MAX = 65528, GR_CUDA_BALE_STATE = 257 };      /* hidden; words of a wire's state */

/* Of one wire: dense rows [n_rows, hidden] bf16 and their packed form, room for gr_cuda_packed_bytes(n_rows, hidden); both on 16 bytes. */
typedef struct gr_cuda_bale { void *rows; char *packed; int32_t n_rows; } gr_cuda_bale;

typedef struct gr_cuda_bales {
    int32_t n_wires, hidden;            /* hidden a multiple of 8 */
    const int32_t *n_sent;              /* device [n_wires][2]: the first of two is a wire's rows, of which n_rows is then a bound; NULL: n_rows are the rows */
    uint64_t *state;                    /* device [n_wires][GR_CUDA_BALE_STATE], zeroed once, of calls on one stream: few rows (up to 1024 of a wire, 2048 in
                                         * all) are packed in one launch; NULL: in three, as many are */
    gr_cuda_bale wire[GR_CUDA_WIRES_MAX];
} gr_cuda_bales;

/* The most that n_rows rows take, whatever they hold: 8 bytes a row, and at most 8 in all, more than they took. */
int64_t gr_cuda_packed_bytes(int64_t n_rows, int32_t hidden);

/* rows -> packed; n_bytes [n_wires] gets what they take. n_bytes is memory the device writes: pinned, when the host wants to know. */
grace_status gr_cuda_compress(const gr_cuda_bales *bales, int64_t *n_bytes, gr_cuda_stream stream);
/* packed -> rows. Of bytes that no compress wrote, rows are garbage; nothing outside is touched. */
grace_status gr_cuda_expand(const gr_cuda_bales *bales, gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
