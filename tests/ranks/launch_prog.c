/* A command line as small as can be, for launch.sh: launch_prog --ranks X [--wire RATE] MODE
 * As a rank it prints its arguments and what stdin gave (rank 0), then exchanges, dies (kill) or waits to be ended (long). */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"
#include "launch.h"

static const char *value_of(int argc, char **argv, const char *name) {
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return NULL;
}

static void show(int argc, char **argv) {
    char line[64] = "";
    for (int i = 1; i < argc; i++) printf("[%s]", argv[i]);
    printf(" nodes: %d", gr_launch_job().n_nodes);
    printf(" stdin: %s\n", fgets(line, sizeof line, stdin) ? strtok(line, "\n") : "nothing");
    fflush(stdout);
}

static grace_status be_a_rank(int argc, char **argv) {
    grace_status st = GRACE_OK;
    gr_comm *c = NULL;
    const char *mode = argv[argc - 1];
    int64_t more = 1;
    GR_TRY(grace_comm_open(GRACE_TRANSPORT_AUTO, 0, 60, &c));
    if (c->rank == 0) show(argc, argv);
    gr_comm_at("dispatch", 5);
    while (more) {
        more = strcmp(mode, "ok") != 0;
        GR_TRY(gr_comm_allreduce(c, &more, 1, GR_MAX));
        if (c->rank == 1 && strcmp(mode, "kill") == 0) sleep(1), raise(SIGKILL);      /* the others wait for it by then */
    }
done:
    grace_comm_close(c);
    return st;
}

int main(int argc, char **argv) {
    int n_ranks, n_nodes, exit_code = 0;
    const char *ranks = value_of(argc, argv, "--ranks");
    grace_status st;
    if (grace_comm_launched()) st = be_a_rank(argc, argv);
    else if ((st = gr_launch_parse(ranks ? ranks : "", &n_ranks, &n_nodes)) == GRACE_OK)
        st = gr_launch_ranks(argc, argv, n_ranks, n_nodes, value_of(argc, argv, "--wire"), &exit_code);
    if (st != GRACE_OK) fprintf(stderr, "%s\n", grace_last_error());
    return st != GRACE_OK ? 1 : exit_code;
}
