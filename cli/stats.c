#include <stdio.h>
#include <stdlib.h>

#include "cli.h"

static const char *const stage_names[GRACE_N_STAGES] = {"cross", "node"};
static const char *const link_names[GRACE_N_LINKS] = {"self", "intra", "cross"};
static const char *const time_names[GRACE_N_TIMES] = {"attention", "gate", "route", "dispatch", "experts", "combine", "logits"};

const char *gr_time_name(int which) { return time_names[which]; }

gr_json *gr_links_json(const grace_link_count counts[GRACE_N_STAGES][GRACE_N_LINKS]) {
    gr_json *stages = gr_json_new_object();
    for (int s = 0; s < GRACE_N_STAGES; s++) {
        gr_json *links = gr_json_new_object();
        for (int l = 0; l < GRACE_N_LINKS; l++) {
            gr_json *c = gr_json_new_object();
            gr_json_set_int(c, "rows", counts[s][l].rows);
            gr_json_set_int(c, "bytes_payload", counts[s][l].bytes_payload);
            gr_json_set_int(c, "bytes_wire", counts[s][l].bytes_wire);
            gr_json_set(links, link_names[l], c);
        }
        gr_json_set(stages, stage_names[s], links);
    }
    return stages;
}

static grace_link_count total(const grace_stats *s, int link) {
    grace_link_count sum = {0};
    for (int stage = 0; stage < GRACE_N_STAGES; stage++) {
        const grace_link_count *both[] = {&s->dispatch[stage][link], &s->combine[stage][link]};
        for (int i = 0; i < 2; i++) {
            sum.rows += both[i]->rows;
            sum.bytes_payload += both[i]->bytes_payload;
            sum.bytes_wire += both[i]->bytes_wire;
        }
    }
    return sum;
}

gr_json *gr_matrix_json(const int64_t *values, int32_t rows, int32_t cols) {
    gr_json *out = gr_json_new_array();
    for (int32_t r = 0; r < rows; r++) {
        gr_json *row = gr_json_new_array();
        for (int32_t c = 0; c < cols; c++) gr_json_push_int(row, values[(int64_t)r * cols + c]);
        gr_json_push(out, row);
    }
    return out;
}

/* Rows and bytes of both directions over links of one kind. */
static void set_totals(gr_json *o, const grace_stats *s) {
    const grace_link_count cross = total(s, GRACE_LINK_CROSS), intra = total(s, GRACE_LINK_INTRA);
    gr_json_set_int(o, "rows_cross_node", cross.rows);
    gr_json_set_int(o, "rows_intra_node", intra.rows);
    gr_json_set_int(o, "bytes_cross_node", cross.bytes_payload);
    gr_json_set_int(o, "bytes_intra_node", intra.bytes_payload);
    gr_json_set_int(o, "bytes_wire_cross_node", cross.bytes_wire);
    gr_json_set_int(o, "bytes_wire_intra_node", intra.bytes_wire);
}

static void set_times(gr_json *o, const grace_stats *s) {
    gr_json *times = gr_json_new_object();
    for (int i = 0; i < GRACE_N_TIMES; i++) gr_json_set_real(times, time_names[i], s->time_us[i]);
    gr_json_set_real(o, "moe_us", s->moe_us);
    gr_json_set(o, "time_us", times);
}

static void set_measured(gr_json *o, const char *key, double us) {
    if (us >= 0) gr_json_set_real(o, key, us);
    else gr_json_set_null(o, key);
}

gr_json *gr_stats_json(const grace_stats *s) {
    gr_json *o = gr_json_new_object();
    gr_json_set_int(o, "ranks", s->n_ranks);
    gr_json_set_int(o, "nodes", s->n_nodes);
    gr_json_set_int(o, "steps", s->n_steps);
    gr_json_set_int(o, "tokens", s->n_tokens);
    set_totals(o, s);
    gr_json_set_real(o, "load_max_over_mean", s->load_max_over_mean);
    gr_json_set_real(o, "load_std", s->load_std);
    gr_json_set_real(o, "idle_us", s->idle_model_us);
    gr_json_set_real(o, "idle_model_us", s->idle_model_us);
    set_measured(o, "idle_measured_us", s->idle_measured_us);
    gr_json_set_int(o, "idle_pairs", s->idle_pairs);
    gr_json_set_real(o, "pair_us", s->pair_us);
    set_times(o, s);
    gr_json_set_int(o, "moved_requests", s->moved_requests);
    gr_json_set_int(o, "moved_kv_rows", s->moved_kv_rows);
    gr_json_set_int(o, "moved_kv_bytes", s->moved_kv_bytes);
    gr_json_set_real(o, "move_us", s->move_us);
    gr_json_set_int(o, "replica_bytes_max", s->replica_bytes_max);
    gr_json_set_int(o, "kv_tokens_displaced", s->kv_tokens_displaced);
    gr_json_set(o, "dispatch", gr_links_json(s->dispatch));
    gr_json_set(o, "combine", gr_links_json(s->combine));
    gr_json_set(o, "pair_rows", gr_matrix_json(s->pair_rows, s->n_ranks, s->n_ranks));
    gr_json_set(o, "load", gr_matrix_json(s->load, s->n_layers, s->n_ranks));
    return o;
}

static void subtract_links(grace_link_count from[GRACE_N_STAGES][GRACE_N_LINKS], const grace_link_count what[GRACE_N_STAGES][GRACE_N_LINKS]) {
    for (int s = 0; s < GRACE_N_STAGES; s++)
        for (int l = 0; l < GRACE_N_LINKS; l++) {
            from[s][l].rows -= what[s][l].rows;
            from[s][l].bytes_payload -= what[s][l].bytes_payload;
            from[s][l].bytes_wire -= what[s][l].bytes_wire;
        }
}

gr_json *gr_stats_between_json(const grace_stats *before, const grace_stats *after) {
    gr_json *o = gr_json_new_object();
    grace_stats d = *after;
    subtract_links(d.dispatch, before->dispatch);
    subtract_links(d.combine, before->combine);
    for (int i = 0; i < GRACE_N_TIMES; i++) d.time_us[i] -= before->time_us[i];
    d.moe_us -= before->moe_us;
    gr_json_set_int(o, "steps", after->n_steps - before->n_steps);
    gr_json_set_int(o, "tokens", after->n_tokens - before->n_tokens);
    set_totals(o, &d);
    gr_json_set_real(o, "idle_us", after->idle_model_us - before->idle_model_us);
    gr_json_set_int(o, "idle_pairs", after->idle_pairs - before->idle_pairs);
    set_times(o, &d);
    gr_json_set(o, "dispatch", gr_links_json(d.dispatch));
    gr_json_set(o, "combine", gr_links_json(d.combine));
    return o;
}

grace_status gr_print_json(gr_json *object) {
    char *text = NULL;
    grace_status st = gr_json_write(object, 1, &text, NULL);
    if (!st) puts(text);
    free(text);
    gr_json_free(object);
    return st;
}
