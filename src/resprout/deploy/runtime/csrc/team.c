/* See team.h. */
#define _GNU_SOURCE
#include "team.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPINS = 4000 };

typedef struct {
    rs_team *team;
    int part;
    pthread_t thread;
} member;

struct rs_team {
    int threads, started;
    rs_pass *pass;
    void *what;
    atomic_uint passes;         /* how many have begun */
    atomic_int asleep, leaving; /* asleep: threads that wait for `bell` */
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_uint meetings; /* how many are over */
    pthread_mutex_t mutex;
    pthread_cond_t bell;
    member members[];
};

static void pause_briefly(void)
{
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

void rs_team_meet(rs_team *t)
{
    if (t->threads == 1)
        return;
    unsigned now = atomic_load(&t->meetings);
    if (atomic_fetch_add(&t->arrived, 1) == t->threads - 1) {
        atomic_store(&t->arrived, 0);
        atomic_store(&t->meetings, now + 1);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&t->meetings, memory_order_acquire) == now; spins++) {
        pause_briefly();
        if (spins > SPINS) /* the others may need this processor */
            sched_yield();
    }
}

static void *work(void *of)
{
    member *m = of;
    rs_team *t = m->team;
    for (unsigned done = 0;; done++) {
        for (int spins = 0; atomic_load(&t->passes) == done && spins < SPINS; spins++)
            pause_briefly();
        if (atomic_load(&t->passes) == done) {
            pthread_mutex_lock(&t->mutex);
            atomic_fetch_add(&t->asleep, 1);
            while (atomic_load(&t->passes) == done)
                pthread_cond_wait(&t->bell, &t->mutex);
            atomic_fetch_sub(&t->asleep, 1);
            pthread_mutex_unlock(&t->mutex);
        }
        if (atomic_load(&t->leaving))
            return NULL;
        t->pass(t->what, m->part);
        rs_team_meet(t);
    }
}

static void begin(rs_team *t)
{
    atomic_fetch_add(&t->passes, 1);
    if (atomic_load(&t->asleep)) {
        pthread_mutex_lock(&t->mutex);
        pthread_cond_broadcast(&t->bell);
        pthread_mutex_unlock(&t->mutex);
    }
}

void rs_team_run(rs_team *t)
{
    if (t->threads > 1)
        begin(t);
    t->pass(t->what, 0);
    rs_team_meet(t);
}

rs_team *rs_team_new(int threads, rs_pass *pass, void *what)
{
    size_t bytes = sizeof(rs_team) + sizeof(member) * (size_t)threads;
    rs_team *t = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!t)
        return NULL;
    *t = (rs_team){.threads = threads, .started = 1, .pass = pass, .what = what};
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->bell, NULL);
    for (; t->started < threads; t->started++) {
        member *m = &t->members[t->started];
        *m = (member){.team = t, .part = t->started};
        if (pthread_create(&m->thread, NULL, work, m)) {
            rs_team_free(t);
            return NULL;
        }
    }
    return t;
}

void rs_team_free(rs_team *t)
{
    if (!t)
        return;
    atomic_store(&t->leaving, 1);
    begin(t);
    for (int i = 1; i < t->started; i++)
        pthread_join(t->members[i].thread, NULL);
    pthread_cond_destroy(&t->bell);
    pthread_mutex_destroy(&t->mutex);
    free(t);
}
