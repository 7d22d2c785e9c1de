/* What is said of a recording when SIGINT or SIGTERM ends the process that writes it. */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "plan/trace.h"

enum { N_SIGNALS = 2 };
static const int signals[N_SIGNALS] = {SIGINT, SIGTERM};
static struct sigaction before[N_SIGNALS];
static volatile sig_atomic_t caught[N_SIGNALS];

/* In a signal handler: no printf. A message that cannot be written has nobody left to read it. */
static void say(const char *text) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) { }
}

static void restore(int i) {
    if (caught[i]) sigaction(signals[i], &before[i], NULL);
    caught[i] = 0;
}

/* Whoever was there before ends the process: a rank's last line (comm/place.h), or the default. The signal comes again when this returns. */
static void leave(int sig) {
    const char *kept = NULL;
    if (gr_trace_leave(&kept)) {
        say(kept ? "grace: interrupted; recorded so far, up to the last whole block: " : "grace: interrupted before a block was recorded, no trace is left");
        say(kept ? kept : "");
        say("\n");
    }
    restore(sig == signals[0] ? 0 : 1);
    raise(sig);
}

void gr_interrupt_catch(void) {
    const struct sigaction act = {.sa_handler = leave};
    for (int i = 0; i < N_SIGNALS; i++) {
        caught[i] = sigaction(signals[i], NULL, &before[i]) == 0 && before[i].sa_handler != SIG_IGN;
        if (caught[i]) sigaction(signals[i], &act, NULL);
    }
}

void gr_interrupt_release(void) {
    for (int i = 0; i < N_SIGNALS; i++) restore(i);
}
