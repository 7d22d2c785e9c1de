/* Records the routing of a run as a trace: every rank keeps the choices of its rows for a step, rank 0 writes them all. */
#ifndef GR_RUN_RECORD_H
#define GR_RUN_RECORD_H
#include "grace/trace.h"
#include "run/batch.h"

typedef struct gr_recorder gr_recorder;

/* Collective; every rank gets one, rank 0 holds the file. The info says whether weights are kept; token ids always are (info.vocab). */
grace_status gr_recorder_open(gr_comm *comm, const char *path, const grace_trace_info *info, const char *const *domains, int32_t n_domains,
                              int32_t n_rows_max, gr_recorder **out);
/* Not collective: remember a request (rank 0 writes it down). */
grace_status gr_recorder_add(gr_recorder *rec, grace_trace_sequence seq);
/* The gate's choice of one layer for the rows of the step under way. A gr_on_gate with the recorder as user. */
void gr_recorder_gate(void *recorder, int32_t moe_layer, const gr_step *step, const int32_t *experts, const float *weights);
/* Collective: the step is done. Its first n_decode rows are generated tokens, the others prompts. */
grace_status gr_recorder_step(gr_recorder *rec, const gr_step *step, int32_t n_decode, int32_t step_number);
/* Collective: finish the file. The recorder takes nothing more. */
grace_status gr_recorder_finish(gr_recorder *rec);
void gr_recorder_free(gr_recorder *rec);        /* abandons a file that was not finished */

#endif
