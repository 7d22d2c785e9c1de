/* One line on stderr, lower case, rank in front: "[r0/4] plan: layer 7: 4 groups". */
#ifndef GR_BASE_LOG_H
#define GR_BASE_LOG_H

typedef enum gr_log_level { GR_ERROR, GR_WARN, GR_INFO, GR_DEBUG } gr_log_level;

/* Thread-safe. Shown when level <= the threshold (GRACE_LOG=error|warn|info|debug; warn unless set). */
void gr_log(gr_log_level level, const char *subject, const char *format, ...) __attribute__((format(printf, 3, 4)));
void gr_log_set_level(gr_log_level level);          /* what --verbose sets; the environment wins */
void gr_log_set_rank(int rank, int n_ranks);        /* n_ranks 1: no prefix */

#endif
