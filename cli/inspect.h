/* What grace inspect's files share. */
#ifndef GRACE_CLI_INSPECT_H
#define GRACE_CLI_INSPECT_H
#include "cli.h"

typedef struct gr_inspect_options {
    const char *path;
    const char *cluster, *plan;     /* a model's: where its ranks' memory is asked for, or NULL */
    int64_t memory;                 /* bytes a rank has; 0: not asked */
    int64_t kv_tokens;              /* of a rank */
    bool on_cuda;                   /* whose KV cache is bf16 */
    bool json;
} gr_inspect_options;

/* One list of facts serves both outputs. Frees it. */
grace_status gr_print_facts(const gr_inspect_options *a, gr_json *facts);
grace_status gr_inspect_model(const gr_inspect_options *opt);       /* inspect_model.c */

#endif
