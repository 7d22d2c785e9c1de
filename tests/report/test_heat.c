#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "report/markup.h"
#include "report/svg.h"

static char *draw(const gr_heat_map *map) {
    gr_out out = {0};
    markup m;
    gr_svg_heat(&out, map);
    assert_int_equal(out.st, GRACE_OK);
    if (!markup_check(out.buf.data, &m)) fail_msg("%s", m.problem);
    return out.buf.data;
}

static gr_heat_map sample(const double *values, int32_t n) {
    return (gr_heat_map){.title = "rows",
                         .row_title = "from",
                         .col_title = "to",
                         .legend = "rows",
                         .n_rows = n,
                         .n_cols = n,
                         .values = values,
                         .hi = 10,
                         .power = 1,
                         .cell_width = 40,
                         .cell_height = 40};
}

/* What follows the fill of the n-th rectangle. */
static const char *fill_of(const char *svg, int n) {
    while (n-- >= 0) svg = strstr(svg, "<rect ") + 6;
    return strstr(svg, "fill=\"") + 6;
}

static void the_smallest_and_largest_cells_get_the_ends_of_the_scale(void **state) {
    (void)state;
    const double values[] = {0, 10, NAN, 99};
    gr_heat_map map = sample(values, 2);
    char *svg = draw(&map);
    assert_memory_equal(fill_of(svg, 0), "#f4f7fa", 7);
    assert_memory_equal(fill_of(svg, 1), "#0b2e59", 7);
    assert_memory_equal(fill_of(svg, 2), "#e9ecef", 7);
    assert_memory_equal(fill_of(svg, 3), "#0b2e59", 7);
    map.diverging = true;
    free(svg);
    svg = draw(&map);
    assert_memory_equal(fill_of(svg, 0), "#1b5f98", 7);
    assert_memory_equal(fill_of(svg, 1), "#b54c0b", 7);
    free(svg);
}

static void numbers_are_written_where_all_fit_and_stay_readable(void **state) {
    (void)state;
    const double values[] = {0, 10, 5, 5};
    const char *cells[] = {"0", "10<", "5", "5"};
    gr_heat_map map = sample(values, 2);
    map.cells = cells;
    char *svg = draw(&map);
    assert_non_null(strstr(svg, "fill=\"#ffffff\">10&lt;</text>"));
    assert_non_null(strstr(svg, "fill=\"" GR_SVG_INK "\">0</text>"));
    free(svg);
    cells[2] = "a text much wider than its cell";
    svg = draw(&map);
    assert_null(strstr(svg, ">10&lt;</text>"));
    assert_int_equal(count_of(svg, "<title>10&lt;</title>"), 1);
    assert_int_equal(count_of(svg, "<title>a text much wider than its cell</title>"), 1);
    free(svg);
}

static void borders_stand_between_groups(void **state) {
    (void)state;
    const double values[16] = {0};
    const int32_t groups[] = {1, 3};
    gr_heat_map map = sample(values, 4);
    map.row_groups = map.col_groups = groups;
    map.n_row_groups = map.n_col_groups = 2;
    char *svg = draw(&map);
    assert_int_equal(count_of(svg, "<line"), 2);
    assert_non_null(strstr(svg, "x1=\"52.0\" y1=\"64.0\" x2=\"52.0\" y2=\"224.0\""));     /* 12 + one cell of 40 */
    free(svg);
}

/* The paths of a large map, painted back into cells by their subpaths. */
static void paint(const char *svg, int32_t n, int *shade) {
    int colour = 0;
    for (const char *p = strstr(svg, "<path fill"); p; p = strstr(p, "<path fill"), colour++) {
        p = strstr(p, " d=\"") + 4;
        while (*p == 'M') {
            int col, row, width, back, used = 0;
            assert_int_equal(sscanf(p, "M%d %dh%dv1h-%dz%n", &col, &row, &width, &back, &used), 4);
            assert_int_equal(width, back);
            for (int i = 0; i < width; i++) {
                assert_int_equal(shade[row * n + col + i], -1);
                shade[row * n + col + i] = colour;
            }
            p += used;
        }
    }
}

static void a_large_map_paints_every_cell_once_in_the_order_of_its_values(void **state) {
    (void)state;
    enum { N = 64 };
    static double values[N * N];
    static int shade[N * N];
    for (int i = 0; i < N * N; i++) {
        values[i] = (double)(i * 2654435761u % 1000) / 100;
        shade[i] = -1;
    }
    gr_heat_map map = sample(values, N);
    map.cell_width = map.cell_height = 6;
    char *svg = draw(&map);
    paint(svg, N, shade);
    for (int i = 0; i < N * N; i++) {
        int expected = (int)lround(values[i] / 10 * 47) - 1;        /* -1: the background */
        assert_int_equal(shade[i], expected);
    }
    free(svg);
}

static void the_file_of_a_large_map_stays_small(void **state) {
    (void)state;
    enum { N = 128 };
    static double values[N * N];
    for (int i = 0; i < N * N; i++) values[i] = i % 11;
    gr_heat_map map = sample(values, N);
    map.cell_width = map.cell_height = 3;
    char *svg = draw(&map);
    assert_true(strlen(svg) < 20 * N * N);
    free(svg);
}

static void a_map_without_a_span_is_drawn(void **state) {
    (void)state;
    const double values[] = {5, 5, 5, 5};
    gr_heat_map map = sample(values, 2);
    map.lo = map.hi = 5;
    char *svg = draw(&map);
    assert_null(strstr(svg, "nan"));
    free(svg);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_smallest_and_largest_cells_get_the_ends_of_the_scale),
        cmocka_unit_test(numbers_are_written_where_all_fit_and_stay_readable),
        cmocka_unit_test(borders_stand_between_groups),
        cmocka_unit_test(a_large_map_paints_every_cell_once_in_the_order_of_its_values),
        cmocka_unit_test(the_file_of_a_large_map_stays_small),
        cmocka_unit_test(a_map_without_a_span_is_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
