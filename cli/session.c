#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "cli.h"
#include "launch.h"

/* --nodes cuts the N ranks of "--ranks N"; beside "--ranks NxG" it can only repeat it. */
static grace_status count_ranks(const gr_run_options *opt, int *n_ranks, int *n_nodes) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_launch_parse(opt->ranks, n_ranks, n_nodes));
    if (opt->n_nodes == 0) goto done;
    GR_CHECK(!strchr(opt->ranks, 'x') || *n_nodes == opt->n_nodes, GRACE_ERR_ARG, "--ranks %s asks for %d nodes, --nodes for %d", opt->ranks,
             *n_nodes, opt->n_nodes);
    *n_nodes = opt->n_nodes;
done:
    return st;
}

/* What the ranks would refuse too, once they all run: a plan for other ranks or another model, more ranks than experts. The configuration is enough. */
static grace_status check_ranks(const gr_run_options *opt, int n_ranks, int n_nodes) {
    grace_status st = GRACE_OK;
    const grace_cluster cluster = {n_nodes, n_ranks / n_nodes};
    grace_model *model = NULL;
    grace_plan *plan = NULL;
    int32_t ids[GRACE_LAYERS_MAX];
    if (n_ranks % n_nodes != 0) goto done;      /* gr_launch_ranks() says so */
    GR_TRY(grace_model_open_random(opt->model, 0, &model));
    const grace_model_info *m = grace_model_describe(model);
    GR_TRY(opt->plan ? grace_plan_load(opt->plan, &plan) : grace_plan_contiguous(m->n_moe_layers, m->n_experts, m->top_k, cluster, &plan));
    grace_model_layer_ids(m, ids);
    GR_TRY(grace_plan_check(plan, 0, m->n_moe_layers, ids, m->n_experts, m->top_k, cluster));
done:
    grace_plan_free(plan);
    grace_model_close(model);
    return st;
}

bool gr_session_relaunch(const gr_run_options *opt, int argc, char **argv, int *exit_code) {
    int n_ranks, n_nodes;
    if (!opt->ranks || grace_comm_launched()) return false;     /* in a job, gr_session_open() judges --ranks */
    *exit_code = 1;
    grace_status st = count_ranks(opt, &n_ranks, &n_nodes);
    if (!st) st = check_ranks(opt, n_ranks, n_nodes);
    if (!st) st = gr_launch_ranks(argc, argv, n_ranks, n_nodes, opt->wire, exit_code);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return true;
}

static grace_status open_files(gr_run_options *opt, gr_session *s) {
    grace_status st = GRACE_OK;
    GR_TRY(opt->random ? grace_model_open_random(opt->model, opt->random_seed, &s->model) : grace_model_open(opt->model, &s->model));
    if (!opt->random) GR_TRY(grace_tokenizer_open(opt->model, &s->tokenizer));
    if (opt->plan) GR_TRY(grace_plan_load(opt->plan, &s->plan));
    if (opt->route_trace) GR_TRY(grace_trace_open(opt->route_trace, &s->route_trace, NULL));
done:
    return st;
}

static grace_status check_job(gr_run_options *opt) {
    grace_status st = GRACE_OK;
    gr_launched_job job = gr_launch_job();
    if (job.inside) opt->n_nodes = job.n_nodes;
    GR_CHECK(!opt->ranks || job.inside, GRACE_ERR_ARG,
             "--ranks %s starts a job, but this process is in one already: leave it out, --nodes cuts the job's ranks", opt->ranks);
done:
    return st;
}

grace_status gr_session_open(gr_run_options *opt, gr_session *s) {
    grace_status st = GRACE_OK, job = check_job(opt);
    *s = (gr_session){.n_ranks = 1};
    GR_TRY(grace_comm_open(opt->transport, opt->n_nodes, opt->deadline_s, &s->comm));
    s->rank = grace_comm_rank(s->comm);
    s->n_ranks = grace_cluster_ranks(grace_comm_cluster(s->comm));
    GR_TRY(grace_comm_agree(s->comm, job ? job : open_files(opt, s)));
    opt->engine.comm = s->comm;
    opt->engine.plan = s->plan;
    opt->engine.route_trace = s->route_trace;
    gr_interrupt_catch();
done:
    return st;
}

/* A failure all ranks know of is rank 0's to tell. One that befell this rank alone, in a run or waiting for a peer, it tells itself. */
static void tell(const gr_session *s, grace_status st) {
    const char *message = grace_last_error();
    bool alone = s->n_ranks > 1 && (s->running || st == GRACE_ERR_COMM);
    bool named = strncmp(message, "rank ", 5) == 0;     /* the transport and agreements name a rank themselves */
    if (alone && !named) fprintf(stderr, "grace: rank %d: %s\n", s->rank, message);
    else if (alone || s->rank == 0) fprintf(stderr, "grace: %s\n", message);
}

int gr_session_close(gr_session *s, grace_status st) {
    gr_interrupt_release();
    if (st) tell(s, st);
    if (st && s->running && s->n_ranks > 1) grace_comm_abort(s->comm, 1);
    grace_plan_free(s->plan);
    grace_trace_close(s->route_trace);
    grace_tokenizer_close(s->tokenizer);
    grace_model_close(s->model);
    grace_comm_close(s->comm);
    return st ? 1 : 0;
}
