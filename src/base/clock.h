/* Monotonic time, and what the process had of its cores, in microseconds. */
#ifndef GR_BASE_CLOCK_H
#define GR_BASE_CLOCK_H

double gr_now_us(void);
double gr_cpu_us(void);

#endif
