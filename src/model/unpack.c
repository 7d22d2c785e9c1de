/* From what files hold to what backends compute with. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/random_bf16.h"
#include "base/status.h"
#include "model/weights.h"

enum { FP8_BLOCK = 128, MXFP4_BLOCK = 32 };

static size_t value_bytes(grace_dtype dtype) { return dtype == GRACE_F32 ? 4 : dtype == GRACE_BF16 || dtype == GRACE_F16 ? 2 : 1; }
static int64_t row_step(const grace_tensor *t) { return t->row_step ? t->row_step : t->cols; }
static int64_t col_step(const grace_tensor *t) { return t->col_step ? t->col_step : 1; }
static bool has_blocks(const grace_tensor *t) { return t->dtype == GRACE_F8_E4M3 || t->dtype == GRACE_MXFP4; }

bool gr_tensor_is_plain(const grace_tensor *t) { return t->data && !has_blocks(t) && (t->rows == 1 || row_step(t) == t->cols) && col_step(t) == 1; }
grace_dtype gr_tensor_plain_dtype(const grace_tensor *t) { return has_blocks(t) ? GRACE_BF16 : t->dtype; }
size_t gr_tensor_plain_bytes(const grace_tensor *t) { return (size_t)(t->rows * t->cols) * value_bytes(gr_tensor_plain_dtype(t)); }

int64_t gr_mlp_plain_bytes(const gr_mlp_tensors *t) {
    const grace_tensor *const all[] = {&t->gate, &t->up, &t->down, &t->gate_bias, &t->up_bias, &t->down_bias};
    int64_t n = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) n += gr_tensor_exists(all[i]) ? (int64_t)gr_tensor_plain_bytes(all[i]) : 0;
    return n;
}

/* Sign, 4 bits of exponent with bias 7, 3 of fraction; no infinities, all ones is NaN. */
static float float_of_e4m3(uint8_t byte) {
    const int exponent = byte >> 3 & 15, fraction = byte & 7;
    const float size = exponent ? ldexpf((float)(8 + fraction), exponent - 10) : ldexpf((float)fraction, -9);
    return (byte & 0x7F) == 0x7F ? NAN : byte & 0x80 ? -size : size;
}

static void unpack_fp8(const grace_tensor *t, uint16_t *to) {
    float value[256];
    const int64_t across = (t->cols + FP8_BLOCK - 1) / FP8_BLOCK;
    for (int i = 0; i < 256; i++) value[i] = float_of_e4m3((uint8_t)i);
    for (int64_t r = 0; r < t->rows; r++) {
        const uint8_t *row = (const uint8_t *)t->data + r * t->cols;
        const float *scale = (const float *)t->scale + r / FP8_BLOCK * across;
        for (int64_t c = 0; c < t->cols; c++) to[r * t->cols + c] = gr_bf16_of_float(value[row[c]] * scale[c / FP8_BLOCK]);
    }
}

/* Two values a byte, the first in the low half: sign, 2 bits of exponent, 1 of fraction. */
static void unpack_mxfp4(const grace_tensor *t, uint16_t *to) {
    static const float value[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    for (int64_t r = 0; r < t->rows; r++) {
        const int64_t at = r * row_step(t);
        const uint8_t *row = (const uint8_t *)t->data + at / 2, *exponent = (const uint8_t *)t->scale + at / MXFP4_BLOCK;
        for (int64_t c = 0; c < t->cols; c++) {
            const float scale = exponent[c / MXFP4_BLOCK] == 255 ? NAN : ldexpf(1, exponent[c / MXFP4_BLOCK] - 127);
            to[r * t->cols + c] = gr_bf16_of_float(value[row[c / 2] >> (c % 2 ? 4 : 0) & 15] * scale);
        }
    }
}

static void unpack_random(const grace_tensor *t, uint16_t *to) {
    const grace_random *r = &t->random;
    const uint16_t constant = gr_bf16_of_float(r->constant);
    for (int64_t row = 0; row < t->rows; row++)
        for (int64_t col = 0; col < t->cols; col++) {
            const int64_t i = r->first + row * row_step(t) + col * col_step(t);
            to[row * t->cols + col] = r->scale > 0 ? gr_random_bf16(r->seed, (uint64_t)i, r->scale) : constant;
        }
}

static void unpack_steps(const grace_tensor *t, char *to) {
    const size_t size = value_bytes(t->dtype);
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t c = 0; c < t->cols; c++, to += size)
            memcpy(to, (const char *)t->data + (size_t)(r * row_step(t) + c * col_step(t)) * size, size);
}

void gr_tensor_unpack(const grace_tensor *t, void *to) {
    if (t->random.on) unpack_random(t, to);
    else if (t->dtype == GRACE_F8_E4M3) unpack_fp8(t, to);
    else if (t->dtype == GRACE_MXFP4) unpack_mxfp4(t, to);
    else unpack_steps(t, to);
}

grace_tensor gr_tensor_rows(const grace_tensor *t, int64_t first, int64_t n) {
    grace_tensor part = *t;
    const int64_t at = first * row_step(t);
    GR_ASSERT(t->dtype != GRACE_F8_E4M3 && first >= 0 && n >= 0 && first + n <= t->rows);
    part.rows = n;
    part.random.first += at;
    if (t->random.on) return part;
    part.data = (const char *)t->data + (t->dtype == GRACE_MXFP4 ? (size_t)at / 2 : (size_t)at * value_bytes(t->dtype));
    if (t->dtype == GRACE_MXFP4) part.scale = (const char *)t->scale + at / MXFP4_BLOCK;
    return part;
}
