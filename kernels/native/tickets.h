/* How the threads of one call share its work without the interpreter: counters, all 0 before it. */
#ifndef CNN_TICKETS_H
#define CNN_TICKETS_H

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

struct tickets {
    _Atomic int64_t first, first_done; /* what must be complete before the second stage */
    _Atomic int64_t second;
};

/* Wait until `total` tickets of the first stage are done: only those at work elsewhere are open. */
static inline void wait_for_first(struct tickets *shared, int64_t total) {
    while (atomic_load(&shared->first_done) < total) sched_yield();
}

#endif
