/* Templates of every construct against what Jinja2 makes of them (tests/golden/template), and the bounds of a rendering. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "text/template.h"

#define CASES GRACE_SOURCE_DIR "/tests/golden/template/cases.json"

static grace_status render_within(const char *text, const gr_json *variables, const gr_template_limits *limits, gr_buf *out) {
    gr_template *tmpl = NULL;
    grace_status st = gr_template_parse("t", text, strlen(text), &tmpl);
    if (!st) st = gr_template_render(tmpl, variables, limits, 0, out);
    gr_template_free(tmpl);
    return st;
}

static grace_status render(const char *text, const gr_json *variables, gr_buf *out) {
    gr_template_limits limits = gr_template_limits_default();
    return render_within(text, variables, &limits, out);
}

static void refuses_with(const char *text, grace_status status, const char *part) {
    gr_buf out = {0};
    gr_template_limits limits = {200000, 1 << 26, 1 << 16};
    grace_status st = render_within(text, NULL, &limits, &out);
    if (st != status || !strstr(grace_last_error(), part))
        fail_msg("%.200s: expected '%s', found %s '%s'", text, part, grace_status_name(st), st ? grace_last_error() : out.data);
    assert_int_equal(out.n, 0);
    gr_buf_free(&out);
}

/* ---- against the reference ---- */

static int check_case(const gr_json *one, const gr_json *variables) {
    const char *text = NULL, *expected = NULL;
    size_t n_expected = 0;
    gr_buf out = {0};
    assert_int_equal(gr_json_string(one, CASES, "template", &text), GRACE_OK);
    bool refused = !gr_json_is_string(gr_json_get(one, "text"), &expected, &n_expected);
    grace_status st = render(text, variables, &out);
    bool good = refused ? st != GRACE_OK : st == GRACE_OK && out.n == n_expected && memcmp(out.data, expected, n_expected) == 0;
    if (!good) print_error("%s\n  expected %s\n  found    %s\n", text, refused ? "a refusal" : expected, st ? grace_last_error() : out.data);
    gr_buf_free(&out);
    return !good;
}

static void every_template_gives_what_the_reference_gives(void **state) {
    (void)state;
    gr_json *file = NULL;
    int n = 0, n_bad = 0;
    assert_int_equal(gr_json_load(CASES, &file), GRACE_OK);
    const gr_json *groups = gr_json_get(file, "groups");
    for (const gr_json_member *m = gr_json_first(groups); m; m = gr_json_next(groups, m))
        for (size_t i = 0; i < gr_json_length(gr_json_value(m)); i++, n++) n_bad += check_case(gr_json_at(gr_json_value(m), i), gr_json_get(file, "variables"));
    gr_json_free(file);
    assert_true(n > 200);
    assert_int_equal(n_bad, 0);
}

static void a_template_renders_again_and_again(void **state) {
    (void)state;
    gr_template *tmpl = NULL;
    gr_template_limits limits = gr_template_limits_default();
    gr_buf out = {0};
    const char *text = "{% set ns = namespace(x=0) %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}";
    assert_int_equal(gr_template_parse("t", text, strlen(text), &tmpl), GRACE_OK);
    for (int i = 0; i < 3; i++) assert_int_equal(gr_template_render(tmpl, NULL, &limits, 0, &out), GRACE_OK);
    assert_string_equal(out.data, "333");
    gr_template_free(tmpl);
    gr_buf_free(&out);
}

static void the_date_is_that_of_the_caller(void **state) {
    (void)state;
    gr_template *tmpl = NULL;
    gr_template_limits limits = gr_template_limits_default();
    gr_buf out = {0};
    const char *text = "{{ strftime_now('%Y-%m') }}";
    assert_int_equal(gr_template_parse("t", text, strlen(text), &tmpl), GRACE_OK);
    assert_int_equal(gr_template_render(tmpl, NULL, &limits, 1718454896, &out), GRACE_OK);      /* the middle of June 2024, wherever one is */
    assert_string_equal(out.data, "2024-06");
    gr_template_free(tmpl);
    gr_buf_free(&out);
}

/* ---- errors and bounds ---- */

static void errors_name_the_line_and_what_was_found(void **state) {
    (void)state;
    refuses_with("a\n{% if x %}\n", GRACE_ERR_FORMAT, "t: line 2: expected 'endif', found 'the end'");
    refuses_with("a\nb\n{{ x y }}", GRACE_ERR_FORMAT, "t: line 3: expected '}}', found 'y'");
    refuses_with("\n{{ 1 | frob }}", GRACE_ERR_UNSUPPORTED, "t: line 2: there is no filter 'frob'");
    refuses_with("{% include 'x' %}", GRACE_ERR_UNSUPPORTED, "t: line 1: there is no tag 'include' here");
    refuses_with("{% macro f(x) %}\n{{ x.y.z }}{% endmacro %}\n\n{{ f({}) }}", GRACE_ERR_FORMAT, "t: line 2: 'dict object' has no attribute 'y'");
    refuses_with("x\n{{ raise_exception('roles must alternate') }}", GRACE_ERR_FORMAT, "t: line 2: the template refuses: roles must alternate");
    refuses_with("{{ 9223372036854775807 + 1 }}", GRACE_ERR_FORMAT, "a number with too many digits");
    refuses_with("{{ 999999999999999999 * 10 }}", GRACE_ERR_LIMIT, "an integer outside 64 bits");
    refuses_with("\xff", GRACE_ERR_FORMAT, "byte 0: the text is not valid UTF-8");
}

static void a_template_that_does_not_end_is_stopped(void **state) {
    (void)state;
    refuses_with("{% for a in range(999) %}{% for b in range(999) %}{% endfor %}{% endfor %}",
                 GRACE_ERR_LIMIT, "line 1: the template takes more than 200000 steps");
    refuses_with("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", GRACE_ERR_LIMIT, "nested deeper than");
    refuses_with("{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", GRACE_ERR_LIMIT, "bytes");
    refuses_with("{{ 'abcdefgh' * 99999999 }}", GRACE_ERR_LIMIT, "the template writes more than 65536 bytes");
    refuses_with("{{ [1, 2] * 999999999999 }}", GRACE_ERR_LIMIT, "");
    refuses_with("{{ '' * 999999999999 }}", GRACE_ERR_LIMIT, "steps");
    refuses_with("{% set ns = namespace(x=[]) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}", GRACE_ERR_LIMIT, "nested deeper than 64 levels");
    refuses_with("{% set ns = namespace(x=[1]) %}{% for i in range(50) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}", GRACE_ERR_LIMIT, "");
    refuses_with("{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(50) %}{% set ns.x = [ns.x, ns.x] %}"
                 "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
                 GRACE_ERR_LIMIT, "steps");
}

/* Each line walks over far more than its nodes: what an operation looks at is paid for, not only what it makes. */
static void work_without_output_is_paid_for(void **state) {
    (void)state;
    static const char *const bodies[] = {"x.startswith(x)", "x.endswith(('b', x))", "x.removeprefix(x)", "x.removesuffix(x)", "x|length", "d[x]",
                                         "('b' * 60).strip(x ~ 'b')"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        char text[256];
        snprintf(text, sizeof text, "{%% set x = 'a' * 60000 %%}{%% set d = {x: 1} %%}{%% for i in range(999) %%}{%% set b = %s %%}{%% endfor %%}", bodies[i]);
        refuses_with(text, GRACE_ERR_LIMIT, "steps");
    }
}

static void names_are_looked_up_for_steps_too(void **state) {
    (void)state;
    gr_buf text = {0};
    for (int i = 0; i < 4000; i++) gr_buf_printf(&text, "{%% set a%d = 1 %%}", i);
    gr_buf_printf(&text, "{%% for i in range(999) %%}{{ nothing }}{%% endfor %%}");
    gr_template_limits limits = {1200000, 1 << 26, 1 << 16};       /* 4000 assignments look at 8 million names, 999 look-ups at 4 million */
    gr_buf out = {0};
    assert_int_equal(render_within(text.data, NULL, &limits, &out), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "steps"));
    gr_buf_free(&text), gr_buf_free(&out);
}

static void keys_without_an_order_are_not_sorted(void **state) {
    (void)state;
    refuses_with("{{ {'nan'|float: 1, 2: 3}|tojson(sort_keys=true) }}", GRACE_ERR_FORMAT, "(nan) has no place in order");
    refuses_with("{{ {1: 1, 'a': 3}|tojson(sort_keys=true) }}", GRACE_ERR_FORMAT, "have no order");
}

static void deep_nesting_is_refused_when_parsed(void **state) {
    (void)state;
    static const char *const parts[][3] = {{"{{", "(", ")"}, {"", "{% if x %}", "{% endif %}"}, {"{{", " not", ""}, {"{{", "-", ""}, {"{{ x", "[x", "]"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        gr_buf text = {0};
        assert_int_equal(gr_buf_printf(&text, "%s", parts[i][0]), GRACE_OK);
        for (int k = 0; k < 5000; k++) assert_int_equal(gr_buf_printf(&text, "%s", parts[i][1]), GRACE_OK);
        for (int k = 0; k < 5000; k++) assert_int_equal(gr_buf_printf(&text, "%s", parts[i][2]), GRACE_OK);
        assert_int_equal(gr_buf_printf(&text, "%s", i == 1 ? "" : " x }}"), GRACE_OK);
        refuses_with(text.data, GRACE_ERR_LIMIT, "nested deeper than");
        gr_buf_free(&text);
    }
}

static void output_is_kept_as_it_was_when_a_rendering_fails(void **state) {
    (void)state;
    gr_buf out = {0};
    assert_int_equal(gr_buf_append(&out, "before", 6), GRACE_OK);
    assert_int_equal(render("some text {{ nothing.x }}", NULL, &out), GRACE_ERR_FORMAT);
    assert_int_equal(out.n, 6);
    assert_memory_equal(out.data, "before", 6);
    gr_buf_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_template_gives_what_the_reference_gives),
        cmocka_unit_test(a_template_renders_again_and_again),
        cmocka_unit_test(the_date_is_that_of_the_caller),
        cmocka_unit_test(errors_name_the_line_and_what_was_found),
        cmocka_unit_test(a_template_that_does_not_end_is_stopped),
        cmocka_unit_test(work_without_output_is_paid_for),
        cmocka_unit_test(names_are_looked_up_for_steps_too),
        cmocka_unit_test(keys_without_an_order_are_not_sorted),
        cmocka_unit_test(deep_nesting_is_refused_when_parsed),
        cmocka_unit_test(output_is_kept_as_it_was_when_a_rendering_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
