#include "base/clock.h"

#include <time.h>

static double read_us(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

double gr_now_us(void) { return read_us(CLOCK_MONOTONIC); }
double gr_cpu_us(void) { return read_us(CLOCK_PROCESS_CPUTIME_ID); }
