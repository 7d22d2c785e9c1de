#include "launch.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/status.h"

enum { RANKS_MAX = 1024, RANKS_A_CORE_MAX = 32, RANKS_A_CORE_WARN = 8, EXIT_NO_EXEC = 127 };     /* docs/launch.md says why */

static long n_cores(void) {
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? n : 1;
}

static long ranks_max(void) { return n_cores() < RANKS_MAX / RANKS_A_CORE_MAX ? n_cores() * RANKS_A_CORE_MAX : RANKS_MAX; }

grace_status gr_launch_parse(const char *text, int *n_ranks, int *n_nodes) {
    grace_status st = GRACE_OK;
    char *end = NULL;
    long nodes = 1, ranks = strtol(text, &end, 10);
    if (end != text && *end == 'x' && end[1] >= '0' && end[1] <= '9') {
        nodes = ranks;
        ranks = strtol(end + 1, &end, 10);
    }
    GR_CHECK(end != text && *end == '\0' && text[0] >= '0' && text[0] <= '9', GRACE_ERR_ARG, "ranks: expected a number or NODESxRANKS such as 2x2, found '%s'",
             text);
    GR_CHECK(nodes >= 1 && ranks >= 1 && nodes <= RANKS_MAX && ranks <= RANKS_MAX && nodes * ranks <= ranks_max(), GRACE_ERR_ARG,
             "ranks: expected 1 to %ld in all on %ld cores, found '%s'", ranks_max(), n_cores(), text);
    *n_nodes = (int)nodes;
    *n_ranks = (int)(nodes * ranks);
done:
    return st;
}

/* ---- the command ---- */

typedef struct command {
    char *argv[64 + 1];                 /* our own words; the program's arguments follow */
    int n;
    char self[PATH_MAX], wire_sh[PATH_MAX + 32], n_ranks[16], n_nodes[16], per_node[16];
} command;

static void add_words(command *c, const char *const *words) {
    for (; *words; words++) {
        GR_ASSERT(c->n < 64);
        c->argv[c->n++] = (char *)(uintptr_t)*words;
    }
}

#define ADD(c, ...) add_words((c), (const char *const[]){__VA_ARGS__, NULL})

static bool readable(const char *path) { return access(path, R_OK) == 0; }

/* Beside the sources: below GRACE_ROOT, or above the directory of this program (build/release/grace). */
static grace_status find_wire_sh(command *c) {
    grace_status st = GRACE_OK;
    const char *root = getenv("GRACE_ROOT");
    char dir[PATH_MAX];
    if (root) {
        snprintf(c->wire_sh, sizeof c->wire_sh, "%s/tools/wire.sh", root);
        if (readable(c->wire_sh)) return GRACE_OK;
    }
    memcpy(dir, c->self, sizeof dir);
    for (char *slash; (slash = strrchr(dir, '/'));) {
        *slash = '\0';
        snprintf(c->wire_sh, sizeof c->wire_sh, "%s/tools/wire.sh", dir);
        if (readable(c->wire_sh)) return GRACE_OK;
    }
    GR_CHECK(false, GRACE_ERR_IO, "tools/wire.sh is not above %s: set GRACE_ROOT to the source tree", c->self);
done:
    return st;
}

static bool in_path(const char *program) {
    char path[PATH_MAX];
    const char *dirs = getenv("PATH");
    while (dirs && *dirs) {
        int n = (int)strcspn(dirs, ":");
        snprintf(path, sizeof path, "%.*s/%s", n, dirs, program);
        if (access(path, X_OK) == 0) return true;
        dirs += n + (dirs[n] == ':');
    }
    return false;
}

/* mpirun's own banners say less than a rank's message, in ten lines; with GRACE_LOG=debug they are there. */
static bool quiet_mpirun(void) {
    const char *log = getenv("GRACE_LOG");
    return !log || strcmp(log, "debug") != 0;
}

static grace_status build_head(command *c, int n_ranks, int n_nodes, const char *wire) {
    grace_status st = GRACE_OK;
    ssize_t n = readlink("/proc/self/exe", c->self, sizeof c->self - 1);
    GR_CHECK(n > 0, GRACE_ERR_IO, "cannot find this program: %s", strerror(errno));
    GR_CHECK(in_path("mpirun"), GRACE_ERR_UNSUPPORTED, "several ranks need mpirun, which is not in PATH (Debian: apt install openmpi-bin)");
    GR_CHECK(!wire || n_nodes == 2, GRACE_ERR_ARG, "a wire joins 2 nodes, found %d", n_nodes);
    snprintf(c->n_ranks, sizeof c->n_ranks, "%d", n_ranks);
    snprintf(c->n_nodes, sizeof c->n_nodes, "%d", n_nodes);
    snprintf(c->per_node, sizeof c->per_node, "%d", n_ranks / n_nodes);
    if (wire) {
        GR_TRY(find_wire_sh(c));
        ADD(c, "sh", c->wire_sh, "run", "--rate", wire, "--nodes", c->n_nodes, "--per-node", c->per_node, "--", c->self);
    } else {
        ADD(c, "mpirun");
        if (quiet_mpirun()) ADD(c, "-q");
        ADD(c, "-np", c->n_ranks, c->self);
    }
done:
    return st;
}

/* The arguments go on as they are; what the parent decided travels beside them (gr_launch_job). */
static char **build_argv(const command *c, int argc, char **argv) {
    char **all = calloc((size_t)c->n + (size_t)argc + 1, sizeof *all);
    if (!all) return NULL;
    memcpy(all, c->argv, (size_t)c->n * sizeof *all);
    for (int i = 1; i < argc; i++) all[c->n + i - 1] = argv[i];
    return all;
}

#define JOB_VARIABLE "GRACE_JOB"        /* "NODES TERMINAL WIRE", from the parent to its ranks */

gr_launched_job gr_launch_job(void) {
    const char *text = getenv(JOB_VARIABLE);
    gr_launched_job job = {0};
    int terminal = 0;
    if (!text || sscanf(text, "%9d %d %31s", &job.n_nodes, &terminal, job.wire) < 2 || job.n_nodes < 1) return (gr_launched_job){0};
    job.inside = true;
    job.terminal = terminal != 0;
    return job;
}

static void set_job(int n_nodes, const char *wire) {
    char text[64];
    snprintf(text, sizeof text, "%d %d %s", n_nodes, isatty(STDERR_FILENO) == 1, wire ? wire : "");
    setenv(JOB_VARIABLE, text, 1);
}

/* ---- the child ---- */

/* What Open MPI and OpenMP need with few cores, and as root (docs/launch.md says why). */
static void set_environment(int n_ranks) {
    const long n_threads = n_cores() > n_ranks ? n_cores() / n_ranks : 1;
    char threads[24];
    snprintf(threads, sizeof threads, "%ld", n_threads);
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
    setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
    setenv("OMP_NUM_THREADS", threads, 0);
    setenv("OMP_WAIT_POLICY", "passive", 0);
    if (!quiet_mpirun()) setenv("GRACE_MPIRUN_QUIET", "", 1);
    if (geteuid() != 0) return;
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
}

static void log_launch(const command *c, int n_ranks, const char *wire) {
    const char *threads = getenv("OMP_NUM_THREADS"), *policy = getenv("OMP_WAIT_POLICY");
    gr_log(GR_INFO, "launch", "%s: %d ranks, %s nodes, OMP_NUM_THREADS=%s, OMP_WAIT_POLICY=%s, mpi_yield_when_idle=1, oversubscribe, no binding%s%s%s",
           wire ? "tools/wire.sh" : "mpirun", n_ranks, c->n_nodes, threads ? threads : "?", policy ? policy : "?", wire ? ", wire " : "", wire ? wire : "",
           geteuid() == 0 ? ", as root" : "");
}

static volatile sig_atomic_t child_pid, passed_s;

/* mpirun takes a second signal within seconds as impatience, ends at once and leaves its session and shared memory behind. It is in a process group of
 * its own, so what a terminal or timeout(1) sends to ours does not reach it a second time, and what comes in the same moment is one wish. */
static void pass_on(int sig) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (child_pid <= 0 || (passed_s && now.tv_sec < passed_s + 2)) return;
    passed_s = (sig_atomic_t)now.tv_sec;
    kill((pid_t)child_pid, sig);
}

static void catch_signals(struct sigaction *old_int, struct sigaction *old_term) {
    struct sigaction act = {.sa_handler = pass_on, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &act, old_int);
    sigaction(SIGTERM, &act, old_term);
}

static _Noreturn void exec_child(char **argv, const sigset_t *mask, pid_t parent) {
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigaction(SIGINT, &plain, NULL);
    sigaction(SIGTERM, &plain, NULL);
    sigprocmask(SIG_SETMASK, mask, NULL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);       /* a parent that is killed takes the job along */
    if (getppid() != parent) _exit(128 + SIGTERM);
    execvp(argv[0], argv);
    fprintf(stderr, "grace: cannot start %s: %s\n", argv[0], strerror(errno));
    _exit(EXIT_NO_EXEC);
}

/* ---- what mpirun leaves ---- */

enum { LEAVE_MS = 10000, LOOK_MS = 5 };

static bool has_children(void) {
    siginfo_t info;
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static bool all_gone(void) {
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
    return !has_children();
}

static void kill_children(void) {
    int pid;
    FILE *children = fopen("/proc/thread-self/children", "r");
    if (!children) return;
    while (fscanf(children, "%d", &pid) == 1) kill((pid_t)pid, SIGKILL);
    fclose(children);
}

/* mpirun may end before a rank that it has killed is gone, and ranks outlive an mpirun that was killed itself: they are our children then, since we are
 * their subreaper. The children of one that we kill follow in the next look. */
static void wait_for_ranks(void) {
    for (int ms = 0; !all_gone(); ms += LOOK_MS) {
        if (ms >= LEAVE_MS) kill_children();
        if (ms >= 2 * LEAVE_MS) {
            gr_log(GR_WARN, "launch", "mpirun ended; %d s later processes of it are still there", ms / 1000);
            return;
        }
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
}

/* mpirun was told to be quiet, so what no rank could say about itself is said here. */
static void explain(int status, int exit_code) {
    int sig = exit_code - 128;
    if (sig == SIGKILL || sig == SIGSEGV || sig == SIGABRT || sig == SIGBUS || sig == SIGILL || sig == SIGFPE)
        fprintf(stderr, "grace: %s was killed by signal %d (%s); the job was ended\n", WIFSIGNALED(status) ? "mpirun" : "a rank", sig, strsignal(sig));
    else if (exit_code > 2 && sig != SIGINT && sig != SIGTERM)
        fprintf(stderr, "grace: mpirun ended with code %d (GRACE_LOG=debug shows its messages)\n", exit_code);
}

static grace_status run_child(char **argv, int *exit_code) {
    grace_status st = GRACE_OK;
    struct sigaction old_int, old_term;
    sigset_t both, mask;
    int status = 0;
    const bool alone = !has_children();     /* a shell that started others and then became us (exec) leaves us its own: those are nobody's to end */
    sigemptyset(&both);
    sigaddset(&both, SIGINT);
    sigaddset(&both, SIGTERM);
    if (alone) prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigprocmask(SIG_BLOCK, &both, &mask);   /* none is lost between fork and knowing the child's id */
    pid_t parent = getpid();
    catch_signals(&old_int, &old_term);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) exec_child(argv, &mask, parent);
    child_pid = pid;
    sigprocmask(SIG_SETMASK, &mask, NULL);
    GR_CHECK(pid > 0, GRACE_ERR_IO, "cannot start a process: %s", strerror(errno));
    while (waitpid(pid, &status, 0) < 0) GR_CHECK(errno == EINTR, GRACE_ERR_IO, "cannot wait for mpirun: %s", strerror(errno));
    child_pid = 0;
    *exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (alone) wait_for_ranks();
    explain(status, *exit_code);
done:
    child_pid = 0;
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGTERM, &old_term, NULL);
    return st;
}

grace_status gr_launch_ranks(int argc, char **argv, int n_ranks, int n_nodes, const char *wire_or_null, int *exit_code) {
    grace_status st = GRACE_OK;
    command c = {.n = 0};
    char **all = NULL;
    GR_CHECK(n_nodes >= 1 && n_ranks % n_nodes == 0, GRACE_ERR_ARG, "%d ranks cannot be cut into %d equal nodes", n_ranks, n_nodes);
    GR_TRY(build_head(&c, n_ranks, n_nodes, wire_or_null));
    all = build_argv(&c, argc, argv);
    GR_CHECK(all != NULL, GRACE_ERR_MEMORY, "no memory for %d arguments", argc);
    set_environment(n_ranks);
    set_job(n_nodes, wire_or_null);
    if (n_ranks > RANKS_A_CORE_WARN * n_cores()) gr_log(GR_WARN, "launch", "%d ranks share %ld cores and take turns on them", n_ranks, n_cores());
    log_launch(&c, n_ranks, wire_or_null);
    GR_TRY(run_child(all, exit_code));
done:
    free(all);
    return st;
}
