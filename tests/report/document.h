/* A small ladder document of 1 node x 2 GPUs, and ways to make others of it by replacing text. */
#ifndef TESTS_REPORT_DOCUMENT_H
#define TESTS_REPORT_DOCUMENT_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

static const char small_document[] =
    "{\"grace_report\":1,\"title\":\"T\",\"model\":{\"name\":\"m\",\"family\":\"f\",\"layers\":1,\"experts\":4,\"top_k\":2,\"params\":100},"
    "\"cluster\":{\"nodes\":2,\"gpus_per_node\":1},\"workload\":{\"sequences\":4,\"prefill\":8,\"decode\":2},"
    "\"command\":\"c\",\"commit\":\"abc\",\"machine\":\"pc\",\"date\":\"today\",\"reference_hash\":\"beef\","
    "\"rungs\":["
    "{\"name\":\"A\",\"baseline\":true,\"plan\":\"p\",\"exchange\":\"flat\",\"route\":\"primary\",\"rows_cross_node\":30,\"rows_intra_node\":0,"
    "\"bytes_cross_node\":300,\"bytes_intra_node\":0,\"load_max_over_mean\":1.5,\"load_std\":2,\"idle_model_us\":10,\"idle_measured_us\":null,\"moe_"
    "us\":1000,"
    "\"moe_us_spread\":5,\"wall_us\":2000,\"identical\":true,\"logits_hash\":\"beef\",\"pair_rows\":[[1,10],[20,2]],\"load\":[[6,2]],\"replica_"
    "slots\":0,"
    "\"time_us\":{\"route\":1,\"dispatch\":2,\"experts\":3,\"combine\":4}},"
    "{\"name\":\"B\",\"rows_cross_node\":15,\"rows_intra_node\":0,\"load_max_over_mean\":1,\"load_std\":0,\"idle_model_us\":0,\"moe_us\":500,"
    "\"load\":[[4,4]]}],"
    "\"knee\":{\"chosen\":1,\"points\":[{\"delta\":1,\"r\":0.5,\"size_std\":0.5,\"utility\":0.4},{\"delta\":2,\"r\":1,\"size_std\":1,\"utility\":0.5}"
    "]},"
    "\"replicas\":[{\"layer\":0,\"experts\":[3,1],\"primary_rank\":0,\"hosts\":[[0,1],[1]]}],"
    "\"affinity\":{\"layer\":0,\"n\":4,\"order\":[2,0,3,1],\"groups\":[1,3],\"ranks\":[0,1],\"values\":[0,1,2,3,1,0,4,5,2,4,0,6,3,5,6,0]},"
    "\"paper\":{\"cross\":[0,-52.1]},"
    "\"text\":[{\"domain\":\"d\",\"prompt\":\"P\",\"generated\":\"G\"}]}";

/* small_document with the first `from` replaced; the test fails when there is none. The caller frees. */
static inline char *document_text(const char *from, const char *to) {
    const char *at = strstr(small_document, from);
    if (!at) {
        fprintf(stderr, "no '%s' in the small document\n", from);
        abort();
    }
    size_t n = sizeof small_document + strlen(to);
    char *text = malloc(n);
    snprintf(text, n, "%.*s%s%s", (int)(at - small_document), small_document, to, at + strlen(from));
    return text;
}

static inline gr_json *document_with(const char *from, const char *to) {
    gr_json *doc = NULL;
    char *text = document_text(from, to);
    if (gr_json_parse("test", text, strlen(text), &doc)) {
        fprintf(stderr, "%s\n", grace_last_error());
        abort();
    }
    free(text);
    return doc;
}

static inline gr_json *small(void) { return document_with("\"T\"", "\"T\""); }

#endif
