/* Models without weights (model/folder.c, model.c, unpack.c, base/random_bf16.h): every tensor of the network is there, its values are a function of the
 * seed, the tensor's name and the place, and look as they should. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random_bf16.h"
#include "base/rng.h"
#include "model/folders.h"
#include "model/weights.h"

static const char *const configs[] = {"olmoe-1b-7b", "deepseek-v2-lite", "qwen3-30b-a3b"};

static grace_model *open_config(const char *name, uint64_t seed) {
    char path[512];
    grace_model *model = NULL;
    snprintf(path, sizeof path, "%s/models/configs/%s", GRACE_SOURCE_DIR, name);
    if (grace_model_open_random(path, seed, &model)) fail_msg("%s", grace_last_error());
    return model;
}

static double value_of(uint16_t bf16) {
    const uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

/* A token leaves all experts but the chosen ones alone: three matrices each. */
static void the_released_configs_have_the_released_sizes(void **state) {
    (void)state;
    const struct { int64_t all, idle; } expected[3] = {{6919161856, 16 * 56 * 3ll * 2048 * 1024}, {15706484224, 26 * 58 * 3ll * 2048 * 1408},
                                                       {30532122624, 48 * 120 * 3ll * 2048 * 768}};
    for (int i = 0; i < 3; i++) {
        grace_model *model = open_config(configs[i], 1);
        const grace_model_info *m = grace_model_describe(model);
        uint64_t seed = 0;
        assert_true(grace_model_is_random(model, &seed) && seed == 1);
        assert_int_equal(m->n_params, expected[i].all);
        assert_int_equal(m->n_params_active, expected[i].all - expected[i].idle);
        assert_int_equal(m->n_bytes, 2 * m->n_params);
        grace_model_close(model);
    }
}

static void any_place_has_the_value_of_the_sequence_before_it(void **state) {
    (void)state;
    const uint64_t seed = 0xFEDCBA9876543210u;
    gr_rng rng = gr_rng_seed(seed);
    for (uint64_t i = 0; i < 1000; i++) assert_true(gr_random_bits(seed, i) == gr_rng_next(&rng));
}

/* Of n = 2^20 values the mean is within 5 / sqrt(n) of 0, the variance within 5 sqrt(2 / n) of 1, and a normal has 31.7 % beyond 1, 4.6 % beyond 2. */
static void values_are_nearly_normal(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    double sum = 0, squares = 0, beyond[2] = {0};
    for (uint64_t i = 0; i < N; i++) {
        const double x = value_of(gr_random_bf16(7, i, 1));
        sum += x, squares += x * x;
        for (int k = 0; k < 2; k++) beyond[k] += fabs(x) > k + 1;
    }
    assert_true(fabs(sum / N) < 5 / sqrt(N) && fabs(squares / N - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(beyond[0] / N - 0.317) < 0.02 && fabs(beyond[1] / N - 0.046) < 0.02);
    assert_true(fabs(value_of(gr_random_bf16(7, 3, 0.25f)) - value_of(gr_random_bf16(7, 3, 1)) / 4) < 1e-9);     /* a power of two scales exactly */
}

static void matrices_are_scaled_by_their_columns_norms_are_ones_and_what_is_added_zeros(void **state) {
    (void)state;
    grace_model *model = open_config("deepseek-v2-lite", 3);
    const gr_model_tensors *t = gr_model_tensors_of(model);
    const gr_layer_tensors *first = &t->layers[0], *second = &t->layers[1];
    const struct { const grace_tensor *tensor; double scale; } matrices[] = {
        {&t->embed, 1}, {&t->head, sqrt(1 / 2048.0)}, {&first->kv_b, sqrt(1 / 512.0)}, {&first->dense.down, sqrt(1 / 10944.0)},
        {&second->router, sqrt(1 / 2048.0)}, {&second->experts[5].down, sqrt(1 / 1408.0)},
    };
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        const grace_tensor *m = matrices[i].tensor;
        assert_true(gr_tensor_exists(m) && !gr_tensor_is_plain(m) && gr_tensor_plain_dtype(m) == GRACE_BF16 && !m->data);
        assert_true(fabs((double)m->random.scale - matrices[i].scale) < 1e-6);
    }
    assert_true(!gr_tensor_exists(&first->router) && !gr_tensor_exists(&second->router_bias) && !gr_tensor_exists(&first->k));
    uint16_t norm[2048];
    gr_tensor_unpack(&second->mlp_norm, norm);
    for (int i = 0; i < 2048; i++) assert_true(value_of(norm[i]) == 1);
    grace_model_close(model);
}

static void a_tensor_differs_from_its_neighbours_and_by_seed_and_not_by_run(void **state) {
    (void)state;
    enum { N = 1408 * 2048 };
    grace_model *models[] = {open_config("deepseek-v2-lite", 3), open_config("deepseek-v2-lite", 3), open_config("deepseek-v2-lite", 4)};
    uint16_t *values[4];
    for (int i = 0; i < 4; i++) {
        const gr_model_tensors *t = gr_model_tensors_of(models[i % 3]);
        assert_non_null(values[i] = malloc(N * sizeof(uint16_t)));
        gr_tensor_unpack(&t->layers[2].experts[i < 3 ? 9 : 10].gate, values[i]);
    }
    assert_memory_equal(values[0], values[1], N * sizeof(uint16_t));
    assert_true(memcmp(values[0], values[2], 64) != 0 && memcmp(values[0], values[3], 64) != 0);
    assert_true(grace_model_describe(models[0])->fingerprint == grace_model_describe(models[1])->fingerprint);
    assert_true(grace_model_describe(models[0])->fingerprint != grace_model_describe(models[2])->fingerprint);
    for (int i = 0; i < 4; i++) free(values[i]);
    for (int i = 0; i < 3; i++) grace_model_close(models[i]);
}

static void rows_of_a_random_tensor_are_rows_of_the_whole(void **state) {
    (void)state;
    const grace_tensor whole = {.rows = 40, .cols = 24, .dtype = GRACE_BF16, .random = {.on = true, .scale = 0.5f, .seed = 11}};
    uint16_t all[40 * 24], part[8 * 24], turned[24 * 8];
    grace_tensor rows = gr_tensor_rows(&whole, 13, 8), across = rows;
    across.rows = 24, across.cols = 8, across.row_step = 1, across.col_step = 24;
    gr_tensor_unpack(&whole, all);
    gr_tensor_unpack(&rows, part);
    gr_tensor_unpack(&across, turned);
    assert_memory_equal(part, all + 13 * 24, sizeof part);
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 24; c++) assert_int_equal(turned[c * 8 + r], part[r * 24 + c]);
}

static void a_folder_without_config_or_with_a_bad_one_is_refused_as_ever(void **state) {
    (void)state;
    grace_model *model = NULL;
    assert_fails(grace_model_open_random(dir, 1, &model), GRACE_ERR_IO, dir, "config.json");
    write_text("config.json", "{\"model_type\": \"llama\"}");
    assert_fails(grace_model_open_random(dir, 1, &model), GRACE_ERR_UNSUPPORTED, "model_type", "llama");
    assert_null(model);
}

static void a_random_model_has_no_tensors_by_name(void **state) {
    (void)state;
    grace_model *model = open_config("olmoe-1b-7b", 1);
    grace_tensor t;
    assert_fails(grace_model_tensor(model, "lm_head.weight", &t), GRACE_ERR_MISMATCH, "lm_head.weight");
    grace_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_released_configs_have_the_released_sizes),
        cmocka_unit_test(any_place_has_the_value_of_the_sequence_before_it),
        cmocka_unit_test(values_are_nearly_normal),
        cmocka_unit_test(matrices_are_scaled_by_their_columns_norms_are_ones_and_what_is_added_zeros),
        cmocka_unit_test(a_tensor_differs_from_its_neighbours_and_by_seed_and_not_by_run),
        cmocka_unit_test(rows_of_a_random_tensor_are_rows_of_the_whole),
        cmocka_unit_test_setup_teardown(a_folder_without_config_or_with_a_bad_one_is_refused_as_ever, enter, leave),
        cmocka_unit_test(a_random_model_has_no_tensors_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
