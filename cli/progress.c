#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/status.h"
#include "cli.h"
#include "launch.h"

enum { BAR = 24 };
static const double QUIET_US = 2e6, REDRAW_US = 1e5;

gr_progress gr_progress_start(const char *label, const char *unit, double total) {
    double now = gr_now_us();
    return (gr_progress){label, unit, total, now, now, label && (isatty(STDERR_FILENO) == 1 || gr_launch_job().terminal)};
}

void gr_progress_update(gr_progress *p, double done) {
    double now = gr_now_us(), elapsed = now - p->started_us;
    if (!p->terminal || elapsed < QUIET_US || now - p->shown_us < REDRAW_US || done <= 0) return;
    double share = p->total > 0 && done < p->total ? done / p->total : 1, rate = done / (elapsed * 1e-6);
    int filled = (int)(share * BAR);
    p->shown_us = now;
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%  ", p->label, filled, "########################", BAR - filled, "", 100 * share);
    if (p->unit && rate >= 1) fprintf(stderr, "%.0f %s/s  ", rate, p->unit);
    fprintf(stderr, "%.0f s left \x1b[K", elapsed * 1e-6 * (1 - share) / share);
}

void gr_progress_end(gr_progress *p) {
    if (p->terminal && p->shown_us > p->started_us) fprintf(stderr, "\r\x1b[K");
}

static void show_load(void *user, int64_t done, int64_t total) {
    gr_progress *p = user;
    p->total = (double)total * 1e-6;
    gr_progress_update(p, (double)done * 1e-6);
}

grace_status gr_open_showing(const gr_session *s, const grace_engine_options *opt, grace_engine **out) {
    gr_progress progress = gr_progress_start(s->rank == 0 ? "loading" : NULL, "MB", 0);
    grace_engine_options shown = *opt;
    shown.on_load = show_load, shown.load_user = &progress;
    grace_status st = grace_engine_open(s->model, &shown, out);
    gr_progress_end(&progress);
    return st;
}

grace_status gr_run_showing(grace_engine *engine, const char *label, double tokens) {
    grace_status st = GRACE_OK;
    gr_progress progress = gr_progress_start(label, "tokens", tokens);
    for (bool more = true; more;) {
        GR_TRY(grace_engine_step(engine, &more));
        gr_progress_update(&progress, (double)grace_engine_n_rows(engine));
    }
    GR_TRY(grace_engine_run(engine));       /* nothing left to step: ends the trace */
done:
    gr_progress_end(&progress);
    return st;
}
