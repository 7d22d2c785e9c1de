#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "report/markup.h"
#include "report/svg.h"

static const char *const names[] = {"first", "base <&>", "last"};

static char *draw(const gr_bar_chart *chart) {
    gr_out out = {0};
    markup m;
    gr_svg_bars(&out, chart);
    assert_int_equal(out.st, GRACE_OK);
    if (!markup_check(out.buf.data, &m)) fail_msg("%s", m.problem);
    return out.buf.data;
}

static gr_bar_chart sample(const double *values) {
    return (gr_bar_chart){
        .title = "rows", .unit = "", .n_bars = 3, .n_series = 1, .names = names, .values = values, .reference = 1, .strong = 2, .width = 480};
}

/* The width attribute of the n-th rectangle. */
static double bar_width(const char *svg, int n) {
    const char *p = svg;
    while (n-- >= 0) p = strstr(p, "<rect ") + 6;
    return atof(strstr(p, "width=\"") + 7);
}

static void lengths_are_proportional_to_values(void **state) {
    (void)state;
    const double values[] = {4000, 2000, 1000};
    gr_bar_chart chart = sample(values);
    char *svg = draw(&chart);
    assert_true(fabs(bar_width(svg, 0) - 2 * bar_width(svg, 1)) <= 0.15);
    assert_true(fabs(bar_width(svg, 0) - 4 * bar_width(svg, 2)) <= 0.25);
    assert_true(158 + bar_width(svg, 0) + 7 + 5 * 7 <= 480);        /* its value beside it is inside the picture */
    assert_non_null(strstr(svg, ">4,000<"));
    assert_non_null(strstr(svg, "base &lt;&amp;&gt;"));
    free(svg);
}

static void a_value_not_measured_says_so(void **state) {
    (void)state;
    const double values[] = {NAN, 2000, 1000};
    gr_bar_chart chart = sample(values);
    char *svg = draw(&chart);
    assert_int_equal(count_of(svg, "not measured"), 1);
    assert_null(strstr(svg, "nan"));
    assert_int_equal(count_of(svg, "<rect"), 2);
    free(svg);
}

static void whiskers_appear_where_there_is_a_spread(void **state) {
    (void)state;
    const double values[] = {10, 20, 30}, spread[] = {NAN, 2, 0};
    gr_bar_chart chart = sample(values);
    chart.spread = spread;
    char *svg = draw(&chart);
    assert_int_equal(count_of(svg, "<path"), 1);
    free(svg);
}

static void stacked_series_have_a_legend_and_add_up(void **state) {
    (void)state;
    static const char *const series[] = {"route", "experts & all"};
    const double values[] = {1, 3, 2, 2, 0, 1};
    gr_bar_chart chart = sample(values);
    chart.n_series = 2;
    chart.series = series;
    chart.unit = "ms";
    char *svg = draw(&chart);
    assert_int_equal(count_of(svg, ">experts &amp; all<"), 1);
    assert_int_equal(count_of(svg, ">4 ms<"), 2);
    assert_int_equal(count_of(svg, "<rect"), 2 + 6);
    assert_true(fabs(bar_width(svg, 3) - 3 * bar_width(svg, 2)) <= 0.25);
    free(svg);
}

static void all_zero_and_huge_values_are_drawn(void **state) {
    (void)state;
    const double zero[] = {0, 0, 0}, huge[] = {1e15, 1, 1e15};
    for (int i = 0; i < 2; i++) {
        gr_bar_chart chart = sample(i ? huge : zero);
        char *svg = draw(&chart);
        assert_null(strstr(svg, "nan"));
        assert_null(strstr(svg, "inf"));
        free(svg);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_are_proportional_to_values),
        cmocka_unit_test(a_value_not_measured_says_so),
        cmocka_unit_test(whiskers_appear_where_there_is_a_spread),
        cmocka_unit_test(stacked_series_have_a_legend_and_add_up),
        cmocka_unit_test(all_zero_and_huge_values_are_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
