#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "grace/sim.h"

static void a_model_is_priced_by_its_own_numbers(void **state) {
    (void)state;
    grace_model_info m = {.family = "olmoe", .n_layers = 2, .n_moe_layers = 2, .hidden = 8, .vocab = 100,
                          .n_heads = 2, .n_kv_heads = 1, .head_dim = 4, .v_dim = 4,
                          .n_experts = 4, .top_k = 2, .expert_width = 6, .n_params = 5000, .n_bytes = 10000};
    grace_shape s = grace_shape_of_model(&m);
    assert_true(s.weight_bytes == 2 && s.head_params == 800 && s.dense_params == 5000 - 2 * 4 * 3 * 8 * 6 - 1600);
    assert_true(s.kv_values == 2 * 2 * 4 && s.attention_values == 2 * 2 * (4 + 4));
    m.kv_rank = 12, m.rope.dim = 2;
    assert_true(grace_shape_of_model(&m).kv_values == 2 * (12 + 2) && grace_shape_of_model(&m).attention_values == 2 * 2 * (12 + 12 + 2));
    m.tied_embeddings = true;
    assert_true(grace_shape_of_model(&m).dense_params == 5000 - 2 * 4 * 3 * 8 * 6 - 800);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_model_is_priced_by_its_own_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
