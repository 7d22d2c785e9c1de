#include "report/html.h"
#include "report/page.h"
#include "report/report.h"

static void put_page(gr_out *out, const gr_report_data *d) {
    gr_html_begin(out, d->title);
    gr_page_head(out, d);
    gr_page_ladder(out, d);
    gr_page_times(out, d);
    gr_page_traffic(out, d);
    gr_page_load(out, d);
    gr_page_affinity(out, d);
    gr_page_knee(out, d);
    gr_page_replicas(out, d);
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
