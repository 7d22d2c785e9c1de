#include "report/html.h"
#include "report/page.h"
#include "report/report.h"

/* The first rung, the baseline and the last one; none twice. */
static gr_maps maps_of(const gr_report_data *d, bool first) {
    const int32_t wanted[3] = {first || d->baseline < 0 ? 0 : d->baseline, d->baseline < 0 ? 0 : d->baseline, d->n_rungs - 1};
    gr_maps maps = {.n_nodes = d->n_nodes, .gpus_per_node = d->gpus_per_node, .n_layers = d->n_layers};
    for (int i = 0, last = -1; i < 3; i++) {
        const gr_report_rung *rung = &d->rungs[wanted[i]];
        if (wanted[i] == last) continue;
        maps.of[maps.n].name = rung->name, maps.of[maps.n].pair_rows = rung->pair_rows, maps.of[maps.n++].load = rung->load;
        last = wanted[i];
    }
    return maps;
}

static void put_page(gr_out *out, const gr_report_data *d) {
    gr_maps traffic = maps_of(d, false), load = maps_of(d, true);
    gr_html_begin(out, d->title);
    gr_page_head(out, d);
    gr_page_ladder(out, d);
    gr_page_times(out, d);
    gr_page_traffic(out, &traffic);
    gr_page_load(out, &load);
    gr_page_affinity(out, &d->plan);
    gr_page_knee(out, &d->plan);
    gr_page_replicas(out, &d->plan);
    gr_page_texts(out, d);
    gr_page_terms(out);
    gr_html_end(out);
}

grace_status gr_report_html(const gr_json *doc, gr_buf *buf) {
    grace_status st = GRACE_OK;
    gr_report_data *d = NULL;
    gr_out out = {0};
    GR_TRY(gr_report_data_build(doc, &d));
    put_page(&out, d);
    GR_TRY(out.st);
    GR_TRY(gr_buf_append(buf, out.buf.data, out.buf.n));
done:
    gr_out_free(&out);
    gr_report_data_free(d);
    return st;
}
