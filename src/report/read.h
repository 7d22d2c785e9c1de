/* Reading the ladder document: members that may be absent, arrays of counts, and the bounds they share. Internal to src/report/data*.c. */
#ifndef GR_REPORT_READ_H
#define GR_REPORT_READ_H
#include "report/data.h"

/* Bounds that keep sums in 64 bits (2^20 cells of 10^12) and charts finite; far above anything measured. */
#define GR_COUNT_MAX INT64_C(1000000000000)
#define GR_BYTES_MAX INT64_C(1000000000000000)
#define GR_REAL_MAX 1e15
enum { GR_REPORT_RANKS_MAX = 1024, GR_REPORT_LAYERS_MAX = 1024, GR_REPORT_EXPERTS_MAX = 1024 };

typedef struct gr_place { char text[96]; } gr_place;    /* where in the document: "report: rungs[2]" */
gr_place gr_place_at(const char *array, size_t index);

/* The head of a document whose first key is `key` with the version, and its cluster. */
grace_status gr_report_read_head(const gr_json *doc, const char *key, int64_t version, gr_report_head *out);

/* Missing and null give -1, NaN, NULL; another kind or a value out of range fails with FORMAT. */
grace_status gr_read_count_or_none(const gr_json *object, const char *where, const char *key, int64_t max, int64_t *out);
grace_status gr_read_real_or_none(const gr_json *object, const char *where, const char *key, double *out);
grace_status gr_read_object_or_none(const gr_json *object, const char *where, const char *key, const gr_json **out);
grace_status gr_read_array_or_none(const gr_json *object, const char *where, const char *key, const gr_json **out);

/* Hexadecimal digits, 1 to 64 of them; NULL when missing or null. */
grace_status gr_read_hash_or_none(const gr_json *object, const char *where, const char *key, const char **out);

grace_status gr_read_real(const gr_json *object, const char *where, const char *key, double *out);
grace_status gr_read_array(const gr_json *object, const char *where, const char *key, size_t n_min, size_t n_max, const gr_json **out, size_t *n);
/* array must hold exactly n integers of 0 to max; key names it in messages. */
grace_status gr_read_ints(const gr_json *array, const char *where, const char *key, size_t n, int64_t max, int64_t *out);
/* Member KEY with any number of integers of 0 to max, allocated in the arena. */
grace_status gr_read_id_list(gr_arena *arena, const gr_json *object, const char *where, const char *key, size_t n_max, int64_t max, int64_t **out,
                             size_t *n);
/* n_rows arrays of n_cols counts; *out is untouched when the member is missing. n_rows 0: any number, told in *found_rows (may be NULL). */
grace_status gr_read_matrix_or_none(gr_arena *arena, const gr_json *object, const char *where, const char *key, size_t n_rows, size_t n_cols,
                                    int64_t **out, size_t *found_rows);

/* The parts of the document, one file each. */
grace_status gr_report_read_rungs(const gr_json *doc, gr_report_data *d);      /* data_rungs.c */
/* data_plan.c: knee, replicas, affinity of an object whose plan is for n_ranks GPUs. */
grace_status gr_report_read_plan(const gr_json *object, gr_arena *arena, int32_t n_ranks, gr_report_plan *plan);

#endif
