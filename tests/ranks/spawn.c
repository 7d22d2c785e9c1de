/* spawn N PROGRAM ARGS: run it as N ranks over tcp, started by hand as docs/launch.md says, without mpirun. Ends like the first rank that failed. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* A port nobody uses, and the system gives to nobody else: it stays bound here. Since this process does not listen there, rank 0 may. */
static int hold_port(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) return -1;
    if (bind(fd, (struct sockaddr *)&a, n) != 0 || getsockname(fd, (struct sockaddr *)&a, &n) != 0) return -1;
    return ntohs(a.sin_port);
}

static void set_number(const char *name, int value) {
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

static pid_t start(int rank, char **argv) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    set_number("RANK", rank);
    execv(argv[0], argv);
    perror(argv[0]);
    _exit(127);
}

int main(int argc, char **argv) {
    int n_ranks = argc > 2 ? atoi(argv[1]) : 0, port = hold_port(), first = 0, status = 0;
    if (n_ranks < 1 || port < 0) return fprintf(stderr, "usage: spawn N PROGRAM ARGS\n"), 2;
    set_number("WORLD_SIZE", n_ranks);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    set_number("MASTER_PORT", port);
    for (int r = 0; r < n_ranks; r++)
        if (start(r, argv + 2) < 0) return perror("fork"), 1;
    while (wait(&status) > 0)
        if (status != 0 && first == 0) first = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return first;
}
