/* Runs grace as a user does: words in; exit code, stdout and stderr out. The tests of one file share a temporary folder, which is the
 * current directory of the tests and of everything they start; anything still running in it can be found.
 *
 *     GRACE(0, "run", "-m", MODEL, "-p", "hello", "-n", "4");        ends with code 0, or the test fails and shows what was said
 *     assert_string_equal(last.out, "...\n");
 *     GRACE(1, "run", "-m", "nothing", "-p", "hello");
 *     complains("nothing/config.json: No such file");                 one line on stderr, nothing on stdout */
#ifndef GR_TESTS_CLI_PROGRAM_H
#define GR_TESTS_CLI_PROGRAM_H
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "base/json.h"

#define MODEL GRACE_SOURCE_DIR "/models/tiny-olmoe"
#define SAMPLES MODEL "/samples"
#define MICRO(name) GRACE_SOURCE_DIR "/tests/golden/micro/" name
#define GOLDENS GRACE_SOURCE_DIR "/tests/golden/tiny-olmoe/goldens/goldens.json"
#define PROFILED GRACE_SOURCE_DIR "/tests/golden/tiny-olmoe/traces/prose"      /* a trace folder of that model */

/* ---- programs ---- */
typedef struct outcome { int code; char *out, *err; size_t n_out, n_err; double seconds; } outcome;

extern outcome last;                    /* of the program that ended last; code is 128 + the number of a signal that ended it */

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define GRACE(code, ...) ends_with((code), WORDS(GRACE_PROGRAM, __VA_ARGS__))
#define SHELL(code, script) ends_with((code), WORDS("sh", "-c", (script)))     /* $G is grace, $M the model */
enum { ANY_FAILURE = -1 };              /* as a code: any but 0 */
void ends_with(int code, const char *const *words);    /* runs, at most eight minutes */
pid_t start(const char *const *words);
void finish(pid_t pid, int code);

void says(const char *part);                            /* stderr has it */
void complains(const char *part);                       /* stderr is one line with it, stdout empty */
void complains_of_usage(const char *part);              /* and where to find help */
int count(const char *text, const char *part);
int n_running(const char *environment, pid_t *one);     /* processes in this folder; environment NULL, or "NAME=value" they must have */
gr_json *printed_json(void);                            /* stdout is one JSON object; the caller frees it */

/* ---- values in what was printed: the members on the way are there, or the test fails ---- */
const gr_json *member(const gr_json *object, const char *key);
const char *text_of(const gr_json *object, const char *key);
double number_of(const gr_json *object, const char *key);

/* ---- files in the folder ---- */
int folder_enter(void **state);         /* group setup and teardown */
int folder_leave(void **state);
void write_file(const char *name, const void *bytes, size_t n);
void write_text(const char *name, const char *text);
char *read_file(const char *path, size_t *n);           /* zero-terminated; the caller frees it */
int n_files(const char *pattern);                       /* a shell pattern */
/* The folder "m" with all files of the model, as links; what is damaged becomes a file of its own. */
void model_link(void);
void model_remove(const char *name);
void model_cut(const char *name, size_t n);             /* to its first n bytes */
void model_edit(const char *name, const char *from, const char *to);   /* the first `from`, of equal length in a shard */
void model_poke(const char *shard, const char *tensor, const void *bytes, size_t n);    /* over the tensor's first values */

#endif
