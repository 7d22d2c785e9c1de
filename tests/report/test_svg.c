#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "report/markup.h"
#include "report/svg.h"

static void assert_colour(gr_colour c, int r, int g, int b) {
    assert_int_equal(c.r, r);
    assert_int_equal(c.g, g);
    assert_int_equal(c.b, b);
}

static void extremes_get_the_extreme_colours_and_beyond_is_clamped(void **state) {
    (void)state;
    assert_colour(gr_colour_sequential(0), 0xF4, 0xF7, 0xFA);
    assert_colour(gr_colour_sequential(-3), 0xF4, 0xF7, 0xFA);
    assert_colour(gr_colour_sequential(1), 0x0B, 0x2E, 0x59);
    assert_colour(gr_colour_sequential(INFINITY), 0x0B, 0x2E, 0x59);
    assert_colour(gr_colour_diverging(0), 0x1B, 0x5F, 0x98);
    assert_colour(gr_colour_diverging(0.5), 0xF5, 0xF5, 0xF4);
    assert_colour(gr_colour_diverging(1), 0xB5, 0x4C, 0x0B);
    assert_colour(gr_colour_sequential(NAN), 0xE9, 0xEC, 0xEF);
}

static double grey(gr_colour c) { return 0.299 * c.r + 0.587 * c.g + 0.114 * c.b; }

/* Readable without colour: printed in grey, more is darker. */
static void lightness_is_monotone(void **state) {
    (void)state;
    for (int i = 0; i < 100; i++) {
        assert_true(grey(gr_colour_sequential(i / 100.0)) > grey(gr_colour_sequential((i + 1) / 100.0)));
        double t = i / 200.0, u = (i + 1) / 200.0;
        assert_true(grey(gr_colour_diverging(t)) <= grey(gr_colour_diverging(u)));
        assert_true(grey(gr_colour_diverging(1 - t)) <= grey(gr_colour_diverging(1 - u)));
    }
    assert_true(gr_colour_is_dark(gr_colour_sequential(1)));
    assert_false(gr_colour_is_dark(gr_colour_sequential(0)));
}

static void ticks_are_round_numbers_inside_the_span(void **state) {
    (void)state;
    const double spans[][2] = {{0, 1}, {0.437, 0.61}, {-3, 17}, {0, 123456}, {1e-7, 3e-7}, {5, 5}};
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
        double first, step = gr_svg_ticks(spans[i][0], spans[i][1], 5, &first);
        double digit = step / pow(10, floor(log10(step) + 1e-9));
        assert_true(fabs(digit - 1) < 1e-6 || fabs(digit - 2) < 1e-6 || fabs(digit - 5) < 1e-6);
        assert_true(first >= spans[i][0] - step * 1e-6);
        assert_true(first - step < spans[i][0]);
        double n = spans[i][1] > spans[i][0] ? (spans[i][1] - spans[i][0]) / step : 0;
        assert_true(n <= 5.000001);
    }
}

static gr_line_chart sample(void) {
    static const double x[] = {0.5, 1, 2, 4}, y[] = {0.4, 0.5, 0.55, 0.57};
    static const char *const names[] = {"a", "b <&> \"c\" 'd'", "c", "d"};
    return (gr_line_chart){.title = "U < S & 'more'", .x_title = "S", .y_title = "U", .n_points = 4, .x = x, .y = y, .names = names, .marked = 1,
                           .mark_label = "r = 0.15 <knee>", .chord = true, .width = 600, .height = 300};
}

static char *draw(const gr_line_chart *chart) {
    gr_out out = {0};
    gr_svg_line(&out, chart);
    assert_int_equal(out.st, GRACE_OK);
    return out.buf.data;
}

static void a_curve_is_well_formed_and_escapes_its_words(void **state) {
    (void)state;
    gr_line_chart chart = sample();
    markup m;
    char *svg = draw(&chart);
    if (!markup_check(svg, &m)) fail_msg("%s", m.problem);
    assert_non_null(strstr(svg, "U &lt; S &amp; &#39;more&#39;"));
    assert_non_null(strstr(svg, "b &lt;&amp;&gt; &quot;c&quot; &#39;d&#39;"));
    assert_non_null(strstr(svg, "r = 0.15 &lt;knee&gt;"));
    assert_int_equal(count_of(svg, "<circle"), 5);
    free(svg);
}

/* x runs from 52 to 584 with 6 % of air on both sides of 0.5 .. 4. */
static void the_mark_sits_on_its_point(void **state) {
    (void)state;
    gr_line_chart chart = sample();
    char expected[64], *svg = draw(&chart);
    double air = 0.06 * 3.5, x = 52 + 532 * (1 - 0.5 + air) / (3.5 + 2 * air);
    snprintf(expected, sizeof expected, "<circle class=\"mark\" cx=\"%.1f\"", x);
    assert_non_null(strstr(svg, expected));
    free(svg);
}

static void empty_and_single_point_curves_are_drawn(void **state) {
    (void)state;
    markup m;
    for (int n = 0; n < 2; n++) {
        gr_line_chart chart = sample();
        chart.n_points = n;
        char *svg = draw(&chart);
        if (!markup_check(svg, &m)) fail_msg("%s", m.problem);
        assert_null(strstr(svg, "nan"));
        assert_null(strstr(svg, "inf"));
        assert_null(strstr(svg, "class=\"mark\""));
        free(svg);
    }
}

static void the_same_numbers_give_the_same_bytes(void **state) {
    (void)state;
    gr_line_chart chart = sample();
    char *a = draw(&chart), *b = draw(&chart);
    assert_string_equal(a, b);
    free(a);
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(extremes_get_the_extreme_colours_and_beyond_is_clamped),
        cmocka_unit_test(lightness_is_monotone),
        cmocka_unit_test(ticks_are_round_numbers_inside_the_span),
        cmocka_unit_test(a_curve_is_well_formed_and_escapes_its_words),
        cmocka_unit_test(the_mark_sits_on_its_point),
        cmocka_unit_test(empty_and_single_point_curves_are_drawn),
        cmocka_unit_test(the_same_numbers_give_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
