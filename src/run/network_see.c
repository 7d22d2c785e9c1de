/* What tests and recorders see of a network, in host memory. */
#include "base/half.h"
#include "base/memory.h"
#include "run/network_parts.h"

static grace_status see(gr_network *net, const void *there, size_t bytes, size_t at) {
    return net->compute->ops->download(net->compute, (char *)net->seen + at, there, bytes);
}

static grace_status make_seen(gr_network *net) {
    grace_status st = GRACE_OK;
    const size_t choices = (size_t)net->info->top_k * (sizeof *net->experts + sizeof *net->weights), row = (size_t)net->info->hidden * sizeof(float);
    if (net->seen) return st;
    net->seen = malloc((size_t)net->n_rows_max * (choices > row ? choices : row));
    return net->seen ? st : gr_fail(GRACE_ERR_MEMORY, "no memory to look at %d rows", net->n_rows_max);
}

grace_status gr_see_gate(gr_network *net, const gr_step *step, int32_t moe) {
    grace_status st = GRACE_OK;
    const size_t n = (size_t)step->n_rows * (size_t)net->info->top_k * sizeof(int32_t);
    if (!net->on_gate) goto done;
    GR_TRY(make_seen(net));
    GR_TRY(see(net, net->experts, n, 0));
    GR_TRY(see(net, net->weights, n, n));
    net->on_gate(net->on_gate_user, moe, step, net->seen, (const float *)net->seen + n / sizeof(float));
done:
    return st;
}

/* bf16 widened in place, from the end. */
static void widen(void *rows, size_t n) {
    for (size_t i = n; i-- > 0;) ((float *)rows)[i] = gr_float_of_bf16(((const uint16_t *)rows)[i]);
}

grace_status gr_see_stream(gr_network *net, int32_t n_done, const gr_step *step) {
    grace_status st = GRACE_OK;
    const size_t n = (size_t)step->n_rows * (size_t)net->info->hidden, element = net->compute->ops->element;
    if (!net->on_stream) goto done;
    GR_TRY(make_seen(net));
    GR_TRY(see(net, net->x, n * element, 0));
    if (element == sizeof(uint16_t)) widen(net->seen, n);
    net->on_stream(net->on_stream_user, n_done, step, net->seen);
done:
    return st;
}
