/* Monotonic time in microseconds. */
#ifndef GR_BASE_CLOCK_H
#define GR_BASE_CLOCK_H

double gr_now_us(void);

#endif
