#include "ladder_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "bench.h"
#include "placements.h"
#include "report/report.h"

/* ---- rungs ---- */

gr_json *gr_ladder_add_rung(gr_ladder *ladder, const gr_rung *rung) {
    gr_json *o = gr_json_new_object();
    if (!ladder->rungs) ladder->rungs = gr_json_new_array(), ladder->all_identical = true;
    gr_json_set_string(o, "name", rung->name);
    gr_json_set_bool(o, "baseline", rung->baseline);
    gr_json_set_string(o, "exchange", gr_exchange_name(rung->exchange));
    gr_json_set_string(o, "route", gr_route_name(rung->route));
    gr_json_push(ladder->rungs, o);
    return o;
}

/* The stats of a run use the names the report reads. */
void gr_ladder_set_stats(gr_json *rung, const gr_json *stats) {
    for (const gr_json_member *m = gr_json_first(stats); m; m = gr_json_next(stats, m)) gr_json_set(rung, gr_json_key(m), gr_json_share(gr_json_value(m)));
}

void gr_ladder_set_times(gr_json *rung, double moe_us, double half_range_us, double wall_us) {
    gr_json_set_real(rung, "moe_us", moe_us);
    gr_json_set_real(rung, "moe_us_spread", half_range_us);
    gr_json_set_real(rung, "wall_us", wall_us);
}

void gr_ladder_set_identity(gr_ladder *ladder, gr_json *rung, const grace_plan *plan, const char *path, uint64_t hash) {
    int32_t replicas = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) replicas += plan->layers[l].n_slots - plan->n_experts;
    gr_json_set_string(rung, "plan", path);
    gr_json_set_int(rung, "replica_slots", replicas);
    gr_json_set_hex(rung, "logits_hash", hash);
    gr_json_set_bool(rung, "identical", hash == ladder->reference);
    if (hash != ladder->reference) ladder->all_identical = false;
}

/* docs/paper.md, Table 1: cross-node traffic against Occult, per cent, rung by rung. */
static gr_json *paper_json(void) {
    gr_json *o = gr_json_new_object(), *cross = gr_json_new_array();
    static const double printed[] = {-35.6, -50.7, -41.6, -41.8, -52.1};
    gr_json_push_real(cross, NAN);
    gr_json_push_real(cross, 0);
    for (size_t i = 0; i < sizeof printed / sizeof *printed; i++) gr_json_push_real(cross, printed[i]);
    gr_json_set(o, "cross", cross);
    return o;
}

grace_status gr_ladder_take_texts(gr_ladder *ladder, const grace_tokenizer *tok, const grace_engine *engine, const gr_request_list *batch) {
    grace_status st = GRACE_OK;
    char *prompt = NULL, *text = NULL;
    size_t n;
    int32_t next_domain = 0;
    ladder->texts = gr_json_new_array();
    for (int32_t i = 0; i < batch->n && next_domain < 3; i++) {
        const grace_result *r = grace_engine_result(engine, i);
        gr_json *o;
        if (batch->items[i].domain != next_domain || r->n_ids == 0) continue;
        GR_TRY(grace_tokenizer_decode(tok, batch->items[i].prompt, batch->items[i].n_prompt, 1, &prompt, &n));
        GR_TRY(grace_tokenizer_decode(tok, r->ids, r->n_ids, 1, &text, &n));
        o = gr_json_new_object();
        gr_json_set_string(o, "domain", ladder->domains[next_domain++]);
        gr_json_set_string(o, "prompt", prompt);
        gr_json_set_string(o, "generated", text);
        gr_json_push(ladder->texts, o);
        free(prompt);
        free(text);
        prompt = text = NULL;
    }
done:
    free(prompt);
    free(text);
    return st;
}

/* ---- the head and the end ---- */

static gr_json *model_json(const grace_model *model) {
    const grace_model_info *m = grace_model_describe(model);
    const char *dir = grace_model_dir(model), *slash = strrchr(dir, '/');
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "name", slash && slash[1] ? slash + 1 : dir);
    gr_json_set_string(o, "family", m->family);
    gr_json_set_int(o, "layers", m->n_moe_layers);
    gr_json_set_int(o, "experts", m->n_experts);
    gr_json_set_int(o, "top_k", m->top_k);
    gr_json_set_int(o, "params", m->n_params);
    return o;
}

static void set_shape(gr_json *o, const gr_ladder_head *head) {
    gr_json *cluster = gr_json_new_object(), *workload = gr_json_new_object();
    gr_json_set_int(cluster, "nodes", head->cluster.n_nodes);
    gr_json_set_int(cluster, "gpus_per_node", head->cluster.gpus_per_node);
    gr_json_set(o, "cluster", cluster);
    gr_json_set_int(workload, "sequences", head->sequences);
    gr_json_set_int(workload, "prefill", head->prefill);
    gr_json_set_int(workload, "decode", head->decode);
    gr_json_set(o, "workload", workload);
    gr_json_set_int(o, "repeat", head->repeat);
}

/* The last words of a text, on one line. */
static void print_tail(const char *text, size_t most) {
    size_t n = strlen(text);
    const char *at = n > most ? text + n - most : text;
    while (((unsigned char)*at & 0xC0) == 0x80) at++;      /* not inside a UTF-8 sequence */
    for (; *at; at++) putchar(*at == '\n' ? ' ' : *at);
}

static void print_texts(const gr_json *texts) {
    for (size_t i = 0; i < gr_json_length(texts); i++) {
        const char *domain = "", *prompt = "", *generated = "";
        const gr_json *t = gr_json_at(texts, i);
        gr_json_is_string(gr_json_get(t, "domain"), &domain, NULL);
        gr_json_is_string(gr_json_get(t, "prompt"), &prompt, NULL);
        gr_json_is_string(gr_json_get(t, "generated"), &generated, NULL);
        printf("%s%s: ...", i ? "" : "\n", domain);
        print_tail(prompt, 60);
        printf(" >>> ");
        print_tail(generated, 120);
        putchar('\n');
    }
}

static grace_status print_text(const gr_json *doc) {
    gr_buf text = {0};
    grace_status st = gr_report_ladder_text(doc, &text);
    if (!st) fwrite(text.data, 1, text.n, stdout);
    print_texts(gr_json_get(doc, "text"));
    gr_buf_free(&text);
    return st;
}

grace_status gr_ladder_finish(gr_ladder *ladder, const grace_model *model, const gr_ladder_head *head, const char *path, bool json) {
    grace_status st = GRACE_OK;
    gr_json *o = gr_json_new_object();
    char title[128];
    snprintf(title, sizeof title, "GRACE-MoE on %d nodes x %d ranks", head->cluster.n_nodes, head->cluster.gpus_per_node);
    gr_json_set_int(o, "grace_report", 1);
    gr_json_set_string(o, "title", title);
    gr_json_set(o, "model", model_json(model));
    set_shape(o, head);
    GR_TRY(gr_bench_origin(o, head->argc, head->argv, head->command, head->commit));
    gr_json_set(o, "rungs", ladder->rungs);
    ladder->rungs = NULL;
    gr_json_set_hex(o, "reference_hash", ladder->reference);
    gr_plan_parts(o, ladder->last_plan, ladder->profile);
    gr_json_set(o, "paper", paper_json());
    if (ladder->texts) gr_json_set(o, "text", ladder->texts);
    ladder->texts = NULL;
    GR_TRY(gr_json_save(o, path));
    if (json) {
        st = gr_print_json(o);
        o = NULL;
    } else {
        GR_TRY(print_text(o));
    }
    if (!st && !ladder->all_identical)
        st = gr_fail(GRACE_ERR_NUMERIC, "exact mode gave other logits than the single process; see 'identical' in %s", path);
done:
    gr_json_free(o);
    return st;
}

/* ---- reading ---- */

static grace_status find_name(const gr_json *o, const char *where, const char *key, const char *(*name)(int), int n, int *out) {
    grace_status st = GRACE_OK;
    const char *text;
    GR_TRY(gr_json_string(o, where, key, &text));
    for (*out = 0; *out < n && strcmp(text, name(*out)); ++*out) continue;
    GR_CHECK(*out < n, GRACE_ERR_FORMAT, "%s: '%s': unknown '%s'", where, key, text);
done:
    return st;
}

static const char *exchange_name(int i) { return gr_exchange_name((grace_exchange)i); }
static const char *route_name(int i) { return gr_route_name((grace_route)i); }

/* The last token of a sequence is drawn, not computed. */
static grace_status read_workload(const gr_json *doc, const char *where, grace_workload *out) {
    grace_status st = GRACE_OK;
    const gr_json *o;
    int64_t sequences, prefill, decode;
    GR_TRY(gr_json_object_in(doc, where, "workload", &o));
    GR_TRY(gr_json_int(o, where, "sequences", 1, 1 << 20, &sequences));
    GR_TRY(gr_json_int(o, where, "prefill", 1, 1 << 18, &prefill));
    GR_TRY(gr_json_int(o, where, "decode", 0, 1 << 18, &decode));
    *out = (grace_workload){.sequences = (int32_t)sequences, .prefill = (int32_t)prefill, .decode = decode ? (int32_t)decode - 1 : 0};
done:
    return st;
}

static grace_status read_run(const gr_json *o, const char *where, gr_ladder_run *out) {
    grace_status st = GRACE_OK;
    int exchange, route;
    GR_TRY(gr_json_string(o, where, "name", &out->name));
    GR_TRY(gr_json_string(o, where, "plan", &out->plan));
    GR_TRY(gr_json_real(o, where, "moe_us", &out->moe_us));
    GR_CHECK(out->moe_us > 0, GRACE_ERR_FORMAT, "%s: 'moe_us': expected a time, found %g", where, out->moe_us);
    GR_TRY(find_name(o, where, "exchange", exchange_name, 3, &exchange));
    GR_TRY(find_name(o, where, "route", route_name, GRACE_N_ROUTES, &route));
    out->exchange = (grace_exchange)exchange, out->route = (grace_route)route;
done:
    return st;
}

grace_status gr_ladder_read(const gr_json *doc, const char *where, gr_ladder_run *runs, int32_t *n, grace_workload *workload) {
    grace_status st = GRACE_OK;
    const gr_json *rungs;
    GR_TRY(read_workload(doc, where, workload));
    GR_TRY(gr_json_array(doc, where, "rungs", &rungs));
    const size_t found = gr_json_length(rungs);
    GR_CHECK(found >= 2 && found <= GR_LADDER_RUNGS_MAX, GRACE_ERR_FORMAT, "%s: expected 2 to %d rungs, found %zu", where, GR_LADDER_RUNGS_MAX, found);
    for (size_t i = 0; i < found; i++) GR_TRY(read_run(gr_json_at(rungs, i), where, &runs[i]));
    *n = (int32_t)found;
done:
    return st;
}

void gr_ladder_free(gr_ladder *ladder) {
    for (int i = 0; i < GR_LADDER_DOMAINS_MAX; i++) free(ladder->domains[i]);
    gr_json_free(ladder->rungs);
    gr_json_free(ladder->texts);
    grace_profile_free(ladder->profile);
    grace_plan_free(ladder->last_plan);
}
