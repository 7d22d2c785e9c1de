/* Model folders that are missing something or lie: code 1 and one sentence that names the file, what was expected and what was found. */
#include "program.h"

#define SHARD_1 "model-00001-of-00003.safetensors"
#define SHARD_2 "model-00002-of-00003.safetensors"
#define ROUTER "model.layers.0.mlp.gate.weight"

static int fresh_copy(void **state) {
    (void)state;
    model_link();
    return 0;
}

static void refused(const char *part) {
    GRACE(1, "run", "-m", "m", "-p", "hello", "-n", "2", "--json");
    complains(part);
}

static void a_copy_made_of_links_works(void **state) {
    (void)state;
    GRACE(0, "run", "-m", "m", "-p", "hello", "-n", "2", "--json");
    GRACE(0, "inspect", "m/");
}

static void a_missing_folder_or_file_is_named(void **state) {
    (void)state;
    GRACE(1, "run", "-m", "nothing", "-p", "hello");
    complains("nothing/config.json: No such file or directory");
    GRACE(1, "inspect", "nothing");
    complains("nothing: No such file or directory");
    model_remove("tokenizer.json");
    refused("m/tokenizer.json: No such file or directory");
    model_remove(SHARD_2);
    refused("m/" SHARD_2 ": No such file or directory");
    model_remove("model.safetensors.index.json");
    refused("m: expected model.safetensors or model.safetensors.index.json, found neither");
}

static void a_truncated_shard_says_how_much_is_missing(void **state) {
    (void)state;
    model_cut(SHARD_2, 5000000);
    refused("m/" SHARD_2);
    says("cut short");
    model_cut(SHARD_2, 500);
    refused("m/" SHARD_2);
    model_cut(SHARD_2, 0);
    refused("m/" SHARD_2);
}

static void tensors_that_are_not_what_the_configuration_says_are_refused(void **state) {
    (void)state;
    model_edit(SHARD_1, "\"dtype\":\"BF16\"", "\"dtype\":\"I16\" ");
    refused("has dtype I16, expected F32, BF16 or F16");
    model_link();
    model_edit(SHARD_1, "\"shape\":[4096,192]", "\"shape\":[192,4096]");
    refused("has shape [192, 4096], config.json asks for [4096, 192]");
    model_link();
    model_edit("config.json", "\"num_experts\": 64", "\"num_experts\": 65");
    refused("65");
}

static void offsets_outside_the_file_are_refused(void **state) {
    (void)state;
    model_edit(SHARD_1, "\"data_offsets\":[0,1572864]", "\"data_offsets\":[9,9999999]");
    refused("'data_offsets'");
    says("m/" SHARD_1);
}

static void a_configuration_that_changes_the_mathematics_is_refused(void **state) {
    (void)state;
    static const struct { const char *from, *to, *message; } cases[] = {
        {"\"olmoe\"", "\"mamba\"", "m/config.json: 'model_type' is \"mamba\", this build supports \"olmoe\""},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"longrope\", \"factor\": 4}", "m/config.json: 'rope_scaling'"},
        {"\"silu\"", "\"gelu\"", "m/config.json: 'hidden_act' is \"gelu\""},
        {"\"num_experts_per_tok\": 8", "\"num_experts_per_tok\": 800", "num_experts_per_tok"},
        {"\"hidden_size\": 192", "\"hidden_size\": \"wide\"", "'hidden_size': expected an integer, found a string"},
        {"\"hidden_size\": 192,", "", "'hidden_size': expected an integer, found nothing"},
        {"{", "", "m/config.json: no valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        model_edit("config.json", cases[i].from, cases[i].to);
        refused(cases[i].message);
        model_link();
    }
}

static void a_damaged_tokenizer_is_refused(void **state) {
    (void)state;
    model_cut("tokenizer.json", 1000);
    refused("tokenizer.json: no valid JSON");
    model_link();
    model_edit("tokenizer.json", "\"BPE\"", "\"WordPiece\"");
    refused("WordPiece");
}

static void router_logits_that_are_not_numbers_stop_the_run(void **state) {
    (void)state;
    model_poke(SHARD_1, ROUTER, (const uint16_t[]){0x7FC0}, 2);         /* the first weight is a NaN */
    refused("layer 0: router logit of row 0, expert 0 is nan, expected a finite number");
    write_text("text.txt", "hello hello hello hello hello hello hello hello\n");
    GRACE(1, "profile", "-m", "m", "text.txt", "--window", "8", "-o", "nan.trace");
    complains("router logit");
    assert_int_equal(n_files("nan.trace*"), 0);
}

#define DAMAGED(test) cmocka_unit_test_setup(test, fresh_copy)

int main(void) {
    const struct CMUnitTest tests[] = {
        DAMAGED(a_copy_made_of_links_works),
        DAMAGED(a_missing_folder_or_file_is_named),
        DAMAGED(a_truncated_shard_says_how_much_is_missing),
        DAMAGED(tensors_that_are_not_what_the_configuration_says_are_refused),
        DAMAGED(offsets_outside_the_file_are_refused),
        DAMAGED(a_configuration_that_changes_the_mathematics_is_refused),
        DAMAGED(a_damaged_tokenizer_is_refused),
        DAMAGED(router_logits_that_are_not_numbers_stop_the_run),
    };
    return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
