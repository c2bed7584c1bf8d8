/* Counters and gauges on their way to the host; for this SDK's own files. */
#ifndef WEIR_VALUES_H
#define WEIR_VALUES_H

#include <weir/host.h>

/* After `weir_configure`, which may have set values. */
void weir_after_configure(void);
/* After a burst at this time: hands values over when it is time to. */
void weir_hand_over(uint64_t now);
/* A tick came. True if the function wants to be called. */
bool weir_before_tick(uint64_t now);
/* The function's tick is over. */
void weir_after_tick(uint64_t now);

static inline void weir_after_burst(uint64_t now) {
    if (weir_values.dirty != 0) weir_hand_over(now);
}

#endif
