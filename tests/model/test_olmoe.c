#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/folders.h"
#include "model/weights.h"

static gr_tiny_model_options small(void) {
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    opt.hidden = 8, opt.width = 6, opt.n_heads = 2, opt.n_kv_heads = 1, opt.n_experts = 3, opt.vocab = 10;
    return opt;
}

static grace_status open_and_close(void) {
    grace_model *model = NULL;
    grace_status st = grace_model_open(dir, &model);
    assert_true((model != NULL) == (st == GRACE_OK));
    grace_model_close(model);
    return st;
}

static void assert_is(const grace_model *model, const grace_tensor *t, int64_t rows, int64_t cols, const char *format, ...) {
    char name[128];
    grace_tensor named;
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    assert_int_equal(grace_model_tensor(model, name, &named), GRACE_OK);
    assert_ptr_equal(t->data, named.data);
    assert_int_equal(t->dtype, named.dtype);
    assert_int_equal(t->rows, rows);
    assert_int_equal(t->cols, cols);
}

static void check_layer(const grace_model *model, const gr_layer_tensors *t, int l) {
    assert_is(model, &t->attn_norm, 1, 8, "model.layers.%d.input_layernorm.weight", l);
    assert_is(model, &t->mlp_norm, 1, 8, "model.layers.%d.post_attention_layernorm.weight", l);
    assert_is(model, &t->q, 8, 8, "model.layers.%d.self_attn.q_proj.weight", l);
    assert_is(model, &t->k, 4, 8, "model.layers.%d.self_attn.k_proj.weight", l);
    assert_is(model, &t->v, 4, 8, "model.layers.%d.self_attn.v_proj.weight", l);
    assert_is(model, &t->o, 8, 8, "model.layers.%d.self_attn.o_proj.weight", l);
    assert_is(model, &t->q_norm, 1, 8, "model.layers.%d.self_attn.q_norm.weight", l);
    assert_is(model, &t->k_norm, 1, 4, "model.layers.%d.self_attn.k_norm.weight", l);
    assert_is(model, &t->router, 3, 8, "model.layers.%d.mlp.gate.weight", l);
    for (int e = 0; e < 3; e++) {
        assert_is(model, &t->experts[e].gate, 6, 8, "model.layers.%d.mlp.experts.%d.gate_proj.weight", l, e);
        assert_is(model, &t->experts[e].up, 6, 8, "model.layers.%d.mlp.experts.%d.up_proj.weight", l, e);
        assert_is(model, &t->experts[e].down, 8, 6, "model.layers.%d.mlp.experts.%d.down_proj.weight", l, e);
    }
}

/* Grouped-query attention: 2 heads, 1 of keys and values. */
static void every_place_of_the_network_has_the_tensor_of_its_name(void **state) {
    (void)state;
    gr_tiny_model_options opt = small();
    grace_model *model = NULL;
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    assert_int_equal(grace_model_open(dir, &model), GRACE_OK);
    const gr_model_tensors *t = gr_model_tensors_of(model);
    for (int l = 0; l < opt.n_layers; l++) check_layer(model, &t->layers[l], l);
    assert_is(model, &t->embed, 10, 8, "model.embed_tokens.weight");
    assert_is(model, &t->final_norm, 1, 8, "model.norm.weight");
    assert_is(model, &t->head, 10, 8, "lm_head.weight");
    grace_model_close(model);
}

static void tied_embeddings_need_no_head_and_untied_ones_do(void **state) {
    (void)state;
    gr_tiny_model_options opt = small();
    grace_model *model = NULL;
    opt.tied = true;
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    assert_int_equal(grace_model_open(dir, &model), GRACE_OK);
    const gr_model_tensors *t = gr_model_tensors_of(model);
    assert_non_null(t->head.data);
    assert_ptr_equal(t->head.data, t->embed.data);
    assert_true(grace_model_describe(model)->tied_embeddings);
    grace_model_close(model);
    edit("config.json", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    assert_fails(open_and_close(), GRACE_ERR_FORMAT, "'lm_head.weight'", "1 shard has");
}

static void any_missing_tensor_is_named(void **state) {
    (void)state;
    gr_tiny_model_options opt = small();
    gr_tiny_tensor tensors[64];
    gr_tiny_list list = {tensors, 0};
    gr_tiny_network(&list, &opt);
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    for (int i = 0; i < list.n; i++) {
        char quoted[128], other[128];
        snprintf(quoted, sizeof quoted, "\"%.96s\"", tensors[i].name);
        snprintf(other, sizeof other, "\"?%.120s", quoted + 1);
        edit("model.safetensors", quoted, other);
        assert_fails(open_and_close(), GRACE_ERR_FORMAT, dir, tensors[i].name, "the network needs tensor");
        edit("model.safetensors", other, quoted);
    }
    assert_int_equal(open_and_close(), GRACE_OK);
}

/* The same bytes under another shape: a vector as a matrix, a matrix flattened. */
static void any_wrong_shape_is_named_with_both_shapes(void **state) {
    (void)state;
    gr_tiny_model_options opt = small();
    gr_tiny_tensor tensors[64];
    gr_tiny_list list = {tensors, 0};
    gr_tiny_network(&list, &opt);
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    for (int i = 0; i < list.n; i++) {
        const gr_tiny_tensor *t = &tensors[i];
        char right[192], wrong[192];
        const char *start = "\"%.96s\":{\"dtype\":\"BF16\",\"shape\":[%d%s%.0d]";
        snprintf(right, sizeof right, start, t->name, t->rows ? t->rows : t->cols, t->rows ? "," : "", t->rows ? t->cols : 0);
        snprintf(wrong, sizeof wrong, start, t->name, t->rows ? t->rows * t->cols : 1, t->rows ? "" : ",", t->rows ? 0 : t->cols);
        edit("model.safetensors", right, wrong);
        assert_fails(open_and_close(), GRACE_ERR_FORMAT, t->name, "has shape", "asks for");
        edit("model.safetensors", wrong, right);
    }
    assert_int_equal(open_and_close(), GRACE_OK);
}

static void a_config_that_asks_for_another_network_than_the_folder_has_is_refused(void **state) {
    (void)state;
    gr_tiny_model_options opt = small();
    const struct { const char *from, *to, *says; } cases[] = {
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "'model.layers.2."},
        {"\"num_experts\": 3", "\"num_experts\": 4", "[3, 8]"},
        {"\"intermediate_size\": 6", "\"intermediate_size\": 7", "[6, 8]"},
        {"\"hidden_size\": 8", "\"hidden_size\": 16", "[10, 8]"},
        {"\"num_key_value_heads\": 1", "\"num_key_value_heads\": 2", "k_proj"},
        {"\"vocab_size\": 10", "\"vocab_size\": 11", "[11, 8]"},
    };
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        edit("config.json", cases[i].from, cases[i].to);
        assert_fails(open_and_close(), GRACE_ERR_FORMAT, cases[i].says);
        edit("config.json", cases[i].to, cases[i].from);
    }
    assert_int_equal(open_and_close(), GRACE_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_place_of_the_network_has_the_tensor_of_its_name, enter, leave),
        cmocka_unit_test_setup_teardown(tied_embeddings_need_no_head_and_untied_ones_do, enter, leave),
        cmocka_unit_test_setup_teardown(any_missing_tensor_is_named, enter, leave),
        cmocka_unit_test_setup_teardown(any_wrong_shape_is_named_with_both_shapes, enter, leave),
        cmocka_unit_test_setup_teardown(a_config_that_asks_for_another_network_than_the_folder_has_is_refused, enter, leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
