#include "plan/cluster.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"

gr_cluster_name gr_cluster_text(grace_cluster cluster) {
    gr_cluster_name name;
    snprintf(name.text, sizeof name.text, "node:%" PRId32 " gpu:%" PRId32, cluster.n_nodes, cluster.gpus_per_node);
    return name;
}

grace_status gr_cluster_check(grace_cluster cluster) {
    grace_status st = GRACE_OK;
    GR_CHECK(cluster.n_nodes >= 1 && cluster.gpus_per_node >= 1, GRACE_ERR_ARG, "cluster '%s': expected at least one node and one gpu",
             gr_cluster_text(cluster).text);
    int64_t n_ranks = (int64_t)cluster.n_nodes * cluster.gpus_per_node;
    GR_CHECK(n_ranks <= GRACE_RANKS_MAX, GRACE_ERR_LIMIT, "cluster '%s' has %" PRId64 " ranks, the limit is %d", gr_cluster_text(cluster).text,
             n_ranks, GRACE_RANKS_MAX);
done:
    return st;
}

static const char *skip_spaces(const char *at) { return at + strspn(at, " "); }

/* Digits -> value, stopping far above any limit so that no length of input overflows. NULL: not a number. */
static const char *read_count(const char *at, int32_t *out) {
    int32_t value = 0;
    const char *start = at;
    for (; *at >= '0' && *at <= '9'; at++)
        if (value < 10 * GRACE_RANKS_MAX) value = value * 10 + (*at - '0');
    *out = value;
    return at > start ? at : NULL;
}

/* "word" then digits. */
static const char *read_field(const char *at, const char *word, int32_t *out) {
    size_t n = strlen(word);
    return strncmp(at, word, n) ? NULL : read_count(at + n, out);
}

static const char *read_long_form(const char *at, grace_cluster *out) {
    if (!(at = read_field(at, "node:", &out->n_nodes)) || *at != ' ') return NULL;
    return read_field(skip_spaces(at), "gpu:", &out->gpus_per_node);
}

static const char *read_short_form(const char *at, grace_cluster *out) {
    if (!(at = read_count(at, &out->n_nodes))) return NULL;
    return read_field(at, "x", &out->gpus_per_node);
}

grace_status grace_cluster_parse(const char *text, grace_cluster *out) {
    grace_status st = GRACE_OK;
    grace_cluster cluster;
    const char *end = read_long_form(skip_spaces(text), &cluster);
    if (!end) end = read_short_form(skip_spaces(text), &cluster);
    GR_CHECK(end && !*skip_spaces(end), GRACE_ERR_ARG, "cluster '%.60s': expected \"node:N gpu:G\" or \"NxG\"", text);
    GR_TRY(gr_cluster_check(cluster));
    *out = cluster;
done:
    return st;
}
