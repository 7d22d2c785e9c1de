#include "program.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

extern char **environ;

enum { LIMIT_S = 500 };

outcome last;

static double started_us;

/* ---- start and finish ---- */

static bool ends_in(const char *word, const char *end) {
    size_t n = strlen(word), m = strlen(end);
    return n >= m && strcmp(word + n - m, end) == 0;
}

/* Does it start several ranks? The demo does, without saying so. */
static bool of_ranks(const char *const *words) {
    for (; *words; words++)
        if (strncmp(*words, "--ranks", 7) == 0 || strcmp(*words, GRACE_MPIRUN) == 0 || ends_in(*words, "/tools/demo.sh")) return true;
    return false;
}

/* The environment for processes without Open MPI: under the address sanitizer leaks are looked for in these (ranks/CMakeLists.txt). */
static char **plain_environment(void) {
    size_t n = 0, kept = 0;
    while (environ[n]) n++;
    char **env = calloc(n + 1, sizeof *env);
    assert_non_null(env);
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "ASAN_OPTIONS=", 13) != 0) env[kept++] = environ[i];
    return env;
}

/* In a group of its own, so that a job that hangs can be ended with all its ranks. */
pid_t start(const char *const *words) {
    char **env = of_ranks(words) ? NULL : plain_environment();
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    pid_t pid = 0;
    assert_int_equal(posix_spawn_file_actions_init(&files), 0);
    assert_int_equal(posix_spawnattr_init(&attr), 0);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, ".out", O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, ".err", O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
    started_us = gr_now_us();
    int failed = posix_spawnp(&pid, words[0], &files, &attr, (char *const *)(uintptr_t)words, env ? env : environ);
    if (failed) fail_msg("%s: %s", words[0], strerror(failed));
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    free(env);
    return pid;
}

static int wait_for(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (gr_now_us() - started_us > LIMIT_S * 1e6) {
            kill(-pid, SIGKILL);
            waitpid(pid, &status, 0);
            fail_msg("still running after %d s", LIMIT_S);
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void finish(pid_t pid, int code) {
    free(last.out);
    free(last.err);
    last = (outcome){0};
    last.code = wait_for(pid);
    last.seconds = (gr_now_us() - started_us) * 1e-6;
    last.out = read_file(".out", &last.n_out);
    last.err = read_file(".err", &last.n_err);
    bool as_expected = code == ANY_FAILURE ? last.code != 0 : last.code == code;
    if (!as_expected) print_error("expected exit code %d, found %d; stdout:\n%sstderr:\n%s", code, last.code, last.out, last.err);
    assert_true(as_expected);
}

void ends_with(int code, const char *const *words) { finish(start(words), code); }

/* ---- what was said ---- */

int count(const char *text, const char *part) {
    int n = 0;
    for (const char *at = text; (at = strstr(at, part)); at += strlen(part)) n++;
    return n;
}

void says(const char *part) {
    if (!strstr(last.err, part)) fail_msg("expected '%s' in:\n%s", part, last.err);
}

void complains(const char *part) {
    says(part);
    if (strncmp(last.err, "grace: ", 7) != 0 || count(last.err, "\n") != 1) fail_msg("expected one line of grace, found:\n%s", last.err);
    assert_string_equal(last.out, "");
}

void complains_of_usage(const char *part) {
    says(part);
    if (strncmp(last.err, "grace", 5) != 0) fail_msg("expected a message of grace, found:\n%s", last.err);
    says("--help");
    assert_string_equal(last.out, "");
}

gr_json *printed_json(void) {
    gr_json *object = NULL;
    if (gr_json_parse("stdout", last.out, last.n_out, &object)) fail_msg("%s in:\n%s", grace_last_error(), last.out);
    return object;
}

const gr_json *member(const gr_json *object, const char *key) {
    const gr_json *value = gr_json_get(object, key);
    if (!value) fail_msg("expected a member '%s'", key);
    return value;
}

const char *text_of(const gr_json *object, const char *key) {
    const char *text = NULL;
    if (!gr_json_is_string(member(object, key), &text, NULL)) fail_msg("'%s': expected a string", key);
    return text;
}

double number_of(const gr_json *object, const char *key) {
    double value = 0;
    if (!gr_json_is_real(member(object, key), &value)) fail_msg("'%s': expected a number", key);
    return value;
}

/* ---- processes that run here ---- */

static bool has_environment(pid_t pid, const char *wanted) {
    char path[64], text[1 << 16];
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = '\0';
    for (const char *at = text; at < text + n; at += strlen(at) + 1)
        if (strcmp(at, wanted) == 0) return true;
    return false;
}

static bool runs_here(pid_t pid, const char *here) {
    char path[64], cwd[4096];
    snprintf(path, sizeof path, "/proc/%d/cwd", pid);
    ssize_t n = readlink(path, cwd, sizeof cwd - 1);        /* fails for a process that has ended */
    if (n < 0) return false;
    cwd[n] = '\0';
    return strcmp(cwd, here) == 0;
}

int n_running(const char *environment, pid_t *one) {
    char here[4096];
    int n = 0;
    DIR *proc = opendir("/proc");
    assert_non_null(proc);
    assert_non_null(getcwd(here, sizeof here));
    for (struct dirent *entry; (entry = readdir(proc));) {
        pid_t pid = (pid_t)atoi(entry->d_name);
        if (pid <= 0 || pid == getpid() || !runs_here(pid, here) || (environment && !has_environment(pid, environment))) continue;
        if (one) *one = pid;
        n++;
    }
    closedir(proc);
    return n;
}
