/* main() of a fuzz target in ordinary builds: every file of tests/fuzz/corpus/NAME/, then that file cut short and with one byte changed,
 * each in memory that ends where the input ends. An input is decided by its file and number alone, so a slow machine tries fewer of them but
 * never other ones. With arguments: only these files, as they are. The input under which the program dies is left in a file. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "support/guard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
extern void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

#define FINDING GRACE_BINARY_DIR "/fuzz-" GRACE_FUZZ_NAME "-finding"
enum { CUT_MAX = 4096, N_FLIPS_MAX = 4096 };
static const double budget_us = 1.5e6;     /* for all files together */
static const uint64_t seed = 20240607;

static const uint8_t *current;             /* what the target is reading, for report_death() */
static size_t current_n;

/* ---- when the target dies ---- */

static void report_death(void) {
    static const char text[] = "fuzz/" GRACE_FUZZ_NAME ": the input that did this is in " FINDING "\n";
    int fd = open(FINDING, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (!current || fd < 0) return;
    if (write(fd, current, current_n) == (ssize_t)current_n && write(STDERR_FILENO, text, sizeof text - 1) < 0) return;
    close(fd);
}

static void on_signal(int number) {
    report_death();
    signal(number, SIG_DFL);
    raise(number);
}

static void watch_for_death(void) {
    static const int deadly[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    if (__sanitizer_set_death_callback) {
        __sanitizer_set_death_callback(report_death);
        return;
    }
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) signal(deadly[i], on_signal);
}

/* ---- inputs ---- */

static void feed(const uint8_t *bytes, size_t n) {
    const uint8_t *p = guard_copy(bytes, n);
    current = p;
    current_n = n;
    LLVMFuzzerTestOneInput(p, n);
    current = NULL;
    guard_free(p, n);
}

/* The first bytes, of every length up to CUT_MAX and of lengths spread over the rest. */
static size_t cut_at(size_t turn, size_t n) {
    if (turn < CUT_MAX || n <= CUT_MAX) return turn;
    return CUT_MAX + (size_t)((uint64_t)(n - CUT_MAX) * (turn - CUT_MAX) / CUT_MAX);
}

/* Position of flip number `turn`: a walk by golden section, so that any number of first turns is spread over the file. */
static size_t flip_at(size_t turn, size_t n) { return (size_t)((uint64_t)(uint32_t)(turn * 0x9E3779B1u) * n >> 32); }

static void feed_cut(const gr_file *file, size_t turn) { feed(file->data, cut_at(turn, file->n)); }

/* One byte changed in place and changed back: half of the time one bit, otherwise any value. */
static void feed_flipped(uint8_t *copy, size_t n, size_t turn) {
    gr_rng rng = gr_rng_seed(seed + turn);
    size_t at = flip_at(turn, n);
    uint8_t before = copy[at];
    copy[at] = gr_rng_below(&rng, 2) ? before ^ (uint8_t)(1u << gr_rng_below(&rng, 8)) : (uint8_t)gr_rng_next(&rng);
    feed(copy, n);
    copy[at] = before;
}

/* Cuts and flips take turns until all are done or the time of this file is over. */
static size_t feed_mutations(const gr_file *file, double us) {
    size_t n_cuts = file->n < 2 * CUT_MAX ? file->n : 2 * CUT_MAX, n_flips = file->n < N_FLIPS_MAX ? file->n : N_FLIPS_MAX, fed = 0;
    size_t n_turns = n_cuts > n_flips ? n_cuts : n_flips;
    double end = gr_now_us() + us;
    uint8_t *copy = malloc(file->n + 1);
    if (!copy) abort();
    memcpy(copy, file->data, file->n);
    for (size_t turn = 0; turn < n_turns && gr_now_us() < end; turn++) {
        /* short cuts first would spend a small budget on empty files: odd turns count from the other end */
        if (turn < n_cuts) feed_cut(file, turn % 2 ? n_cuts - 1 - turn / 2 : turn / 2), fed++;
        if (turn < n_flips) feed_flipped(copy, file->n, turn), fed++;
    }
    free(copy);
    return fed;
}

static int replay_file(const char *path, double us, size_t *n_fed) {
    gr_file file = {0};
    if (gr_file_map(path, &file)) {
        fprintf(stderr, "%s\n", grace_last_error());
        return 1;
    }
    feed(file.data, file.n);
    *n_fed += 1 + (us > 0 ? feed_mutations(&file, us) : 0);
    gr_file_unmap(&file);
    return 0;
}

static int is_input(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static int replay_corpus(const char *dir) {
    struct dirent **entries = NULL;
    char path[4096];
    int n = scandir(dir, &entries, is_input, alphasort), bad = 0;
    size_t n_fed = 0;
    if (n <= 0) fprintf(stderr, "%s: expected at least one input, found none\n", dir);
    for (int i = 0; i < n; i++) {
        bad |= gr_path_join(path, sizeof path, dir, entries[i]->d_name) || replay_file(path, budget_us / n, &n_fed);
        free(entries[i]);
    }
    free(entries);
    printf("fuzz/%s: %d files, %zu inputs, seed %" PRIu64 "\n", GRACE_FUZZ_NAME, n > 0 ? n : 0, n_fed, seed);
    return bad || n <= 0;
}

int main(int argc, char **argv) {
    int bad = 0;
    size_t n_fed = 0;
    watch_for_death();
    if (argc < 2) return replay_corpus(GRACE_SOURCE_DIR "/tests/fuzz/corpus/" GRACE_FUZZ_NAME);
    for (int i = 1; i < argc; i++) bad |= replay_file(argv[i], 0, &n_fed);
    return bad;
}
