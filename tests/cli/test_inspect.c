/* grace inspect of models: the numbers agree with one another, with the plan, and at the edge between fitting and not. */
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"

#define RECORDINGS GRACE_SOURCE_DIR "/tests/interop/data/"

static double asked(const char *key, const char *const *words) {
    ends_with(0, words);
    gr_json *o = printed_json();
    double value = number_of(o, key);
    gr_json_free(o);
    return value;
}

#define ASKED(key, ...) asked((key), WORDS(GRACE_PROGRAM, "inspect", "--json", __VA_ARGS__))

static void the_architecture_is_named(void **state) {
    (void)state;
    GRACE(0, "inspect", "--json", MICRO("deepseek-v2-lite"));
    gr_json *o = printed_json();
    assert_string_equal(text_of(o, "attention"), "latent");
    assert_string_equal(text_of(o, "rope_scaling"), "yarn x 8");
    assert_true(number_of(o, "kv_latent") == 20 && number_of(o, "rope_dim") == 8 && number_of(o, "value_dim") == 18 && number_of(o, "dense_layers") == 1);
    assert_true(number_of(o, "shared_width") == 40 && number_of(o, "kv_token_bytes") == 3 * (20 + 8) * 4);      /* layers x (latent + rope key) x float */
    gr_json_free(o);
    GRACE(0, "inspect", MICRO("gpt-oss"));
    assert_non_null(strstr(last.out, "window             8\n"));
    assert_non_null(strstr(last.out, "attention          grouped queries\n"));
    assert_non_null(strstr(last.out, "rope_scaling       yarn x 8\n"));
    assert_non_null(strstr(last.out, "(0.01562 GiB)"));                             /* 16384 tokens of cache */
}

static void advice_names(const char *part, const char *const *words) {
    ends_with(0, words);
    gr_json *o = printed_json();
    const gr_json *list = member(o, "reduce");
    bool there = false;
    for (size_t i = 0; i < gr_json_length(list); i++) {
        const char *text = "";
        gr_json_is_string(gr_json_at(list, i), &text, NULL);
        there = there || strstr(text, part);
    }
    if (!there) fail_msg("expected '%s' in:\n%s", part, last.out);
    gr_json_free(o);
}

#define ADVICE(part, ...) advice_names((part), WORDS(GRACE_PROGRAM, "inspect", "--json", __VA_ARGS__))

/* A quarter of the experts and all of the rest: 8 layers of 64 experts of three matrices of 48 x 192 values in two bytes. */
static void ranks_share_the_experts(void **state) {
    (void)state;
    const double experts = 2.0 * 8 * 64 * 3 * 48 * 192, all = ASKED("bytes", MODEL);
    assert_true(ASKED("rank_weight_bytes", MODEL) == all);
    assert_true(ASKED("rank_weight_bytes", MODEL, "--cluster", "2x2") == all - 0.75 * experts);
    assert_true(ASKED("rank_weight_bytes", MODEL, "--cluster", "node:1 gpu:5") == all - experts * 51 / 64);      /* 13 of 64 on the fullest */
}

/* 12288 bytes of cache a token; weights of 34025856 bytes. */
static void it_fits_to_the_byte(void **state) {
    (void)state;
    char gib[32];
    const double need = 34025856 + 160 * 12288.0;
    snprintf(gib, sizeof gib, "%.17g", need * 0x1p-30);
    assert_true(ASKED("left_bytes", MODEL, "--kv-tokens", "150", "--memory", gib) == 0);        /* a started page counts whole */
    assert_true(ASKED("left_kv_tokens", MODEL, "--kv-tokens", "150", "--memory", gib) == 10);
    snprintf(gib, sizeof gib, "%.17g", (need - 1) * 0x1p-30);
    assert_true(ASKED("missing_bytes", MODEL, "--kv-tokens", "150", "--memory", gib) == 1);
    ADVICE("KV cache: 144 tokens at most", MODEL, "--kv-tokens", "150", "--memory", gib);
}

static void the_way_out_is_named(void **state) {
    (void)state;
    char gib[32];
    ADVICE("more memory a rank: attention, dense layers, embeddings, 5714304 bytes", MODEL, "--memory", "0.001");
    snprintf(gib, sizeof gib, "%.17g", (5714304 + 16 * 12288 + 20 * 442368.0) * 0x1p-30);       /* 20 experts a rank */
    ADVICE("4 ranks or more, without copies", MODEL, "--kv-tokens", "16", "--memory", gib);
    assert_true(ASKED("left_bytes", MODEL, "--kv-tokens", "16", "--memory", gib, "--cluster", "2x2") == 4 * 442368);
    GRACE(0, "inspect", MODEL, "--memory", gib);
    assert_non_null(strstr(last.out, "fits               no\n"));
    assert_non_null(strstr(last.out, "reduce             4 ranks or more, without copies, and a smaller KV cache\n"));
}

static void copies_of_a_plan_count(void **state) {
    (void)state;
    GRACE(0, "plan", PROFILED, "--cluster", "2x2", "-o", "plan.json");
    GRACE(0, "inspect", MODEL, "--plan", "plan.json", "--json");
    gr_json *o = printed_json();
    double copies = number_of(o, "rank_replica_bytes");
    assert_true(copies > 0 && copies == 3 * 48 * 192 * 2.0 * (int)(copies / (3 * 48 * 192 * 2)));        /* whole experts */
    assert_string_equal(text_of(o, "planner"), "grace");
    gr_json_free(o);
    GRACE(1, "inspect", MODEL, "--plan", "plan.json", "--cluster", "1x2");
    complains("plan is for cluster node:2 gpu:2, this run has node:1 gpu:2");
    GRACE(1, "inspect", MICRO("olmoe"), "--plan", "plan.json");
    complains("plan is for");
}

static void recordings_of_others_are_read(void **state) {
    (void)state;
    GRACE(0, "inspect", RECORDINGS "per_token.pt", "--json");
    gr_json *o = printed_json();
    assert_string_equal(text_of(o, "kind"), "trace");
    assert_string_equal(text_of(o, "layer_ids"), "1-2");
    assert_true(number_of(o, "tokens") > 0 && number_of(o, "tokens") == number_of(o, "tokens_prefill") + number_of(o, "tokens_decode"));
    gr_json_free(o);
    GRACE(0, "inspect", RECORDINGS "stat.pt", "--json");
    o = printed_json();
    assert_string_equal(text_of(o, "kind"), "loads");
    assert_true(number_of(o, "pairs") > 0 && number_of(o, "moe_layers") == 2);
    gr_json_free(o);
    GRACE(0, "inspect", GRACE_SOURCE_DIR "/bench/routing/deepseek-v2-lite");
    assert_non_null(strstr(last.out, "layer_ids          1-26\n"));
}

static void a_folder_says_why_it_is_none_of_them(void **state) {
    (void)state;
    mkdir("neither", 0777);
    GRACE(1, "inspect", "neither");
    complains("no config.json, so it is no model: neither: expected topk.u8 or topk.u16 in the folder, found neither");
    assert_int_equal(symlink("config.json", "neither/config.json"), 0);         /* a circle: unreadable for root too */
    GRACE(1, "inspect", "neither");
    complains("neither/config.json: ");
    says("Too many levels of symbolic links");
}

/* Of a model in bf16 all sizes are those with the weights; of one in MXFP4 those of its ranks. */
static void the_configuration_is_enough(void **state) {
    (void)state;
    static const char *const keys[] = {"parameters", "active", "rank_weight_bytes", "kv_token_bytes", "rank_bytes", "left_bytes", "bytes"};
    static const char *const folders[] = {MODEL, MICRO("gpt-oss")};
    for (size_t f = 0; f < 2; f++) {
        char script[512];
        snprintf(script, sizeof script, "rm -rf bare && mkdir bare && cp %s/config.json bare", folders[f]);
        SHELL(0, script);
        for (size_t i = 0; i < sizeof keys / sizeof *keys - f; i++)
            assert_true(ASKED(keys[i], "bare", "--cluster", "1x2", "--memory", "1") == ASKED(keys[i], folders[f], "--cluster", "1x2", "--memory", "1"));
    }
    GRACE(0, "inspect", "bare");
    assert_non_null(strstr(last.out, "weights            none here: parameters and bytes are those of config.json, in bf16\n"));
    assert_null(strstr(last.out, "fingerprint"));
    GRACE(0, "inspect", MODEL);
    assert_null(strstr(last.out, "none here"));
    SHELL(0, "cp " MODEL "/config.json " MODEL "/model.safetensors.index.json bare");
    GRACE(1, "inspect", "bare");
    complains("model-00001-of-00003.safetensors");
    GRACE(0, "plan", PROFILED, "--cluster", "2x2", "-o", "plan.json");
    SHELL(0, "rm bare/model.safetensors.index.json");
    assert_true(ASKED("rank_replica_bytes", "bare", "--plan", "plan.json") == ASKED("rank_replica_bytes", MODEL, "--plan", "plan.json"));
}

static void a_gpus_cache_is_half(void **state) {
    (void)state;
    char gib[32];
    const double need = 34025856 + 160 * 6144.0;
    snprintf(gib, sizeof gib, "%.17g", need * 0x1p-30);
    assert_true(ASKED("kv_token_bytes", MODEL, "--device", "cuda") == 6144 && ASKED("kv_token_bytes", MODEL, "--device", "cpu") == 12288);
    assert_true(ASKED("left_bytes", MODEL, "--kv-tokens", "150", "--memory", gib, "--device", "cuda") == 0);
    assert_true(ASKED("left_kv_tokens", MODEL, "--kv-tokens", "150", "--memory", gib, "--device", "cuda") == 10);
    snprintf(gib, sizeof gib, "%.17g", (need - 1) * 0x1p-30);
    ADVICE("KV cache: 144 tokens at most", MODEL, "--kv-tokens", "150", "--memory", gib, "--device", "cuda");
    GRACE(64, "inspect", MODEL, "--device", "gpu");
    complains_of_usage("--device: expected cpu or cuda, found 'gpu'");
}

static void odd_questions_are_refused(void **state) {
    (void)state;
    GRACE(1, "inspect", MODEL, "--cluster", "2y2");
    complains("2y2");
    GRACE(1, "inspect", PROFILED, "--memory", "1");
    complains("ask about a model, this is none");
    GRACE(64, "inspect", MODEL, "--memory", "-1");
    complains_of_usage("--memory: expected a number");
    GRACE(64, "inspect", MODEL, "--kv-tokens", "0");
    complains_of_usage("--kv-tokens: expected an integer");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_architecture_is_named),
        cmocka_unit_test(ranks_share_the_experts),
        cmocka_unit_test(it_fits_to_the_byte),
        cmocka_unit_test(the_way_out_is_named),
        cmocka_unit_test(copies_of_a_plan_count),
        cmocka_unit_test(recordings_of_others_are_read),
        cmocka_unit_test(a_folder_says_why_it_is_none_of_them),
        cmocka_unit_test(the_configuration_is_enough),
        cmocka_unit_test(a_gpus_cache_is_half),
        cmocka_unit_test(odd_questions_are_refused),
    };
    return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
