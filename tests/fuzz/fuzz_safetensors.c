/* Any bytes: a shard whose tensors lie in the file one after the other and are found by name, or one sentence. */
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static unsigned check_tensor(const gr_shard *shard, const gr_shard_tensor *t, const uint8_t *data, size_t n) {
    const uint8_t *from = t->data;
    unsigned sum = 0;
    GR_ASSERT(from >= data + 8 && t->n_bytes <= n - (size_t)(from - data));
    GR_ASSERT(gr_shard_find(shard, t->name) == t);
    for (size_t i = 0; i < t->n_bytes; i++) sum += from[i];      /* reading past the input crashes */
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    gr_shard shard = {0};
    volatile unsigned sum = 0;
    size_t n_bytes = 0;
    if (gr_shard_parse("fuzz", data, n, &shard)) {
        GR_ASSERT(shard.arena == NULL && grace_last_error()[0]);
        return 0;
    }
    for (int32_t i = 0; i < shard.n_tensors; i++) {
        sum += check_tensor(&shard, &shard.tensors[i], data, n);
        n_bytes += shard.tensors[i].n_bytes;
    }
    GR_ASSERT(n_bytes <= n - 8);        /* no byte belongs to two tensors */
    gr_shard_close(&shard);
    return 0;
}
