/* The demo's chain for a model of every family: text to trace, plan, the ladder's rungs on 2 x 2 ranks with one process's logits, report. */
#include "program.h"

static void climbs_the_ladder(void **state) {
    const char *model = *state;
    const char *const words[] = {GRACE_SOURCE_DIR "/tools/demo.sh", "--grace", GRACE_PROGRAM, "--model", model, "--tokens", "256", "--sequences", "4", "--out",
                                 "out", NULL};
    ends_with(0, words);
    assert_non_null(strstr(last.out, "7 of 7 rungs give the logits of one process bit for bit"));
    assert_non_null(strstr(last.out, "times are of memory shared by all ranks"));
    assert_int_equal(n_files("out/report.html"), 1);
    assert_int_equal(n_files("out/plans/rung-*.json"), 7);
}

#define climbs(model) {.name = model, .test_func = climbs_the_ladder, .initial_state = MICRO(model)}

int main(void) {
    const struct CMUnitTest tests[] = {
        climbs("olmoe-gqa"), climbs("deepseek-v2-lite"), climbs("deepseek-v3-fp8"), climbs("gpt-oss"),
        climbs("mixtral"),   climbs("qwen2-moe"),        climbs("qwen3-moe-sparse"),
    };
    return _cmocka_run_group_tests("demo", tests, sizeof tests / sizeof *tests, folder_enter, folder_leave);
}
