#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>


#include "base/hash.h"
#include "base/rng.h"

static void content_hashes_are_xxh3_as_published(void **state) {
    (void)state;
    assert_true(gr_hash64("", 0, 0) == 0x2D06800538D394C2u);        /* xxhash 0.8, XXH3_64bits of nothing */
    assert_true(gr_hash64("xxh3", 4, 0) != gr_hash64("xxh4", 4, 0));
}

static void the_seed_chains_pieces_and_keeps_their_order(void **state) {
    (void)state;
    uint64_t ab = gr_hash64("b", 1, gr_hash64("a", 1, 0)), ba = gr_hash64("a", 1, gr_hash64("b", 1, 0));
    assert_true(ab != ba);
    assert_true(ab == gr_hash64("b", 1, gr_hash64("a", 1, 0)));
    assert_true(gr_hash64("", 0, 1) != gr_hash64("", 0, 2));
}

static void any_changed_bit_changes_the_hash(void **state) {
    (void)state;
    uint8_t bytes[300] = {0};
    uint64_t before = gr_hash64(bytes, sizeof bytes, 7);
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(gr_hash64(bytes, sizeof bytes, 7) != before);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* Every backend must repeat these: computed once from the formula in hash.h with arbitrary-precision integers. */
static void mix32_gives_the_agreed_values(void **state) {
    (void)state;
    static const uint32_t golden[][4] = {
        {0x0u, 0x0u, 0x0u, 0x170DB109u}, {0x1u, 0x0u, 0x0u, 0xD2CA9709u}, {0x0u, 0x1u, 0x0u, 0x55536363u}, {0x0u,
        0x0u, 0x1u, 0x1F31457Eu}, {0x3Fu, 0xFu, 0x7u, 0x5806283Bu}, {0xFFFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFFu,
        0xA6238B94u}, {0x75BCD15u, 0x1Au, 0x3Fu, 0x49CEFED8u},
    };
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++)
        assert_int_equal(gr_mix32(golden[i][0], golden[i][1], golden[i][2]), golden[i][3]);
}

/* The router takes turns modulo 64: over small numbers, as sequence, layer and expert are, every turn must be about as frequent. With 63 degrees of
 * freedom chi-square has mean 63 and deviation 11.2; 120 is five deviations, and the input is fixed. */
static void turns_are_spread_evenly_over_small_numbers(void **state) {
    (void)state;
    int count[64] = {0}, n = 0;
    double chi2 = 0;
    for (uint32_t sequence = 0; sequence < 32; sequence++)
        for (uint32_t layer = 0; layer < 16; layer++)
            for (uint32_t expert = 0; expert < 64; expert++) count[gr_mix32(sequence, layer, expert) % 64]++, n++;
    for (int i = 0; i < 64; i++) chi2 += (count[i] - n / 64.0) * (count[i] - n / 64.0) / (n / 64.0);
    assert_true(chi2 < 120);
}

static void each_argument_of_mix32_matters(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(99);
    int n_equal = 0;
    for (int i = 0; i < 1000; i++) {
        uint32_t a = (uint32_t)gr_rng_next(&rng), b = (uint32_t)gr_rng_next(&rng), c = (uint32_t)gr_rng_next(&rng), h = gr_mix32(a, b, c);
        n_equal += (gr_mix32(a + 1, b, c) == h) + (gr_mix32(a, b + 1, c) == h) + (gr_mix32(a, b, c + 1) == h) + (gr_mix32(b, a, c) == h);
    }
    assert_int_equal(n_equal, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(content_hashes_are_xxh3_as_published),
        cmocka_unit_test(the_seed_chains_pieces_and_keeps_their_order),
        cmocka_unit_test(any_changed_bit_changes_the_hash),
        cmocka_unit_test(mix32_gives_the_agreed_values),
        cmocka_unit_test(turns_are_spread_evenly_over_small_numbers),
        cmocka_unit_test(each_argument_of_mix32_matters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
