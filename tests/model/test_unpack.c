/* What files store is what backends get: every fp8 and 4-bit value, scales, steps. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/weights.h"

static double value_of(const uint16_t *bf16, int64_t i) {
    const uint32_t bits = (uint32_t)bf16[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

/* e4m3: (-1)^s 2^(e-7) (1 + f/8), 2^-6 f/8 where e is 0. */
static double e4m3(int byte) {
    const int e = byte >> 3 & 15, f = byte & 7;
    return (byte & 128 ? -1 : 1) * (e ? exp2(e - 7) * (1 + f / 8.0) : exp2(-6) * f / 8);
}

static void every_fp8_value_times_a_power_of_two_is_exact(void **state) {
    (void)state;
    uint8_t bytes[256];
    uint16_t out[256];
    const float scale[2] = {0.25f, 4};
    for (int i = 0; i < 256; i++) bytes[i] = (uint8_t)i;
    const grace_tensor t = {.data = bytes, .rows = 1, .cols = 256, .dtype = GRACE_F8_E4M3, .scale = scale};
    assert_int_equal(gr_tensor_plain_dtype(&t), GRACE_BF16);
    assert_int_equal(gr_tensor_plain_bytes(&t), sizeof out);
    gr_tensor_unpack(&t, out);
    for (int i = 0; i < 256; i++) {
        if ((i & 127) == 127) assert_true(isnan(value_of(out, i)));
        else assert_true(value_of(out, i) == e4m3(i) * (double)scale[i / 128]);
    }
}

/* 200 x 130 values are 2 x 2 blocks; rounding to 8 significant bits moves a product by 2^-8 of it at most, and the float product before by 2^-24. */
static void a_block_has_the_scale_of_its_rows_and_columns(void **state) {
    (void)state;
    enum { ROWS = 200, COLS = 130 };
    const float scale[4] = {0.1f, 0.7f, 3.3f, 11};
    uint8_t *bytes = malloc(ROWS * COLS);
    uint16_t *out = malloc(2 * ROWS * COLS);
    gr_rng rng = gr_rng_seed(5);
    for (int i = 0; i < ROWS * COLS; i++) bytes[i] = (uint8_t)gr_rng_below(&rng, 126);
    const grace_tensor t = {.data = bytes, .rows = ROWS, .cols = COLS, .dtype = GRACE_F8_E4M3, .scale = scale};
    gr_tensor_unpack(&t, out);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) {
            const double expected = e4m3(bytes[r * COLS + c]) * (double)scale[r / 128 * 2 + c / 128];
            assert_true(fabs(value_of(out, r * COLS + c) - expected) <= (exp2(-8) + exp2(-23)) * fabs(expected));
        }
    free(bytes);
    free(out);
}

/* [4, 64]: every other row, from row 1 on. */
static void four_bit_values_come_two_a_byte_with_a_power_of_two_for_32(void **state) {
    (void)state;
    static const double values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    uint8_t bytes[4 * 32], exponent[4 * 2] = {1, 2, 120, 127, 3, 4, 130, 254};
    uint16_t out[2 * 64];
    gr_rng rng = gr_rng_seed(6);
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)gr_rng_below(&rng, 256);
    const grace_tensor all = {.data = bytes, .rows = 4, .cols = 64, .dtype = GRACE_MXFP4, .scale = exponent};
    grace_tensor odd = gr_tensor_rows(&all, 1, 3);
    odd.rows = 2, odd.row_step = 128;
    gr_tensor_unpack(&odd, out);
    for (int r = 0; r < 2; r++)
        for (int c = 0; c < 64; c++) {
            const int row = 2 * r + 1, code = bytes[row * 32 + c / 2] >> (c % 2 ? 4 : 0) & 15;
            const double expected = (code & 8 ? -1 : 1) * values[code & 7] * exp2(exponent[row * 2 + c / 32] - 127);
            if (fabs(expected) < exp2(127) * 2) assert_true(value_of(out, r * 64 + c) == expected);
        }
}

static void steps_pick_columns_rows_and_turns(void **state) {
    (void)state;
    const float x[6] = {1, 2, 3, 4, 5, 6};      /* [2, 3] */
    float out[6];
    const grace_tensor plain = {.data = x, .rows = 2, .cols = 3}, turned = {.data = x, .rows = 3, .cols = 2, .row_step = 1, .col_step = 3};
    const grace_tensor odd = {.data = x, .rows = 1, .cols = 3, .col_step = 2}, row = gr_tensor_rows(&plain, 1, 1);
    assert_true(gr_tensor_is_plain(&plain) && gr_tensor_is_plain(&row) && !gr_tensor_is_plain(&turned) && !gr_tensor_is_plain(&odd));
    gr_tensor_unpack(&turned, out);
    assert_memory_equal(out, ((float[]){1, 4, 2, 5, 3, 6}), sizeof out);
    gr_tensor_unpack(&odd, out);
    assert_memory_equal(out, ((float[]){1, 3, 5}), 3 * sizeof *out);
    assert_ptr_equal(row.data, x + 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fp8_value_times_a_power_of_two_is_exact),
        cmocka_unit_test(a_block_has_the_scale_of_its_rows_and_columns),
        cmocka_unit_test(four_bit_values_come_two_a_byte_with_a_power_of_two_for_32),
        cmocka_unit_test(steps_pick_columns_rows_and_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
