/* bell.c - see bell.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall */
#endif

#include "bell.h"

#include <errno.h>

#if defined(__linux__)

#include "fault_guard.h"
#include "live.h"
#include "preallocate.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLEEP_NS 50000000 /* of one sleep, after which the thread looks whether it is to end */

struct evtape_bell {
    /* The number of questions and of stop() calls: a new one ends the sleep of an idle thread. */
    _Atomic(uint32_t) asked;
    _Atomic(int) stopped;
    _Atomic(int64_t) offset, spin_ns;
    _Atomic(int) owners;  /* the thread and the caller; the last one frees */
    pthread_mutex_t lock; /* of `fd`, which the thread must not write to once it is closed */
    int fd;               /* -1: closed */
    pid_t process;
    uint8_t *base; /* the first page of the stream */
    evtape_live *live;
    evtape_guard_slot *slot;
};

static void give_up(evtape_bell *bell) {
    if (atomic_fetch_sub(&bell->owners, 1) > 1)
        return;
    evtape_guard_remove(bell->slot);
    if (bell->base != MAP_FAILED)
        munmap(bell->base, EVTAPE_LIVE_SIZE);
    if ((void *)bell->live != MAP_FAILED)
        munmap(bell->live, EVTAPE_LIVE_SIZE);
    pthread_mutex_destroy(&bell->lock);
    free(bell);
}

static void ring(evtape_bell *bell) {
    uint64_t one = 1;
    pthread_mutex_lock(&bell->lock);
    /* A full counter is readable, too. */
    ssize_t done = bell->fd >= 0 ? write(bell->fd, &one, sizeof one) : 0;
    (void)done;
    pthread_mutex_unlock(&bell->lock);
}

static void *run(void *argument) {
    evtape_bell *bell = argument;
    uint32_t answered = 0;
    pthread_setname_np(pthread_self(), "evtape-bell");
    while (!atomic_load(&bell->stopped)) {
        uint32_t asked = atomic_load(&bell->asked);
        if (asked == answered) {
            (void)syscall(SYS_futex, &bell->asked, FUTEX_WAIT_PRIVATE, asked, NULL, NULL, 0);
            continue;
        }
        int64_t offset = atomic_load(&bell->offset), spin_ns = atomic_load(&bell->spin_ns);
        int ended = evtape_live_wait(bell->base, bell->live, offset, spin_ns, SLEEP_NS);
        if (ended == EVTAPE_PUBLISHED || ended == EVTAPE_ENDED ||
            evtape_guard_faults(bell->slot) != 0) {
            answered = asked;
            ring(bell);
        }
    }
    give_up(bell);
    return NULL;
}

static int prepare(evtape_bell *bell, int stream, int page) {
    bell->base = mmap(NULL, EVTAPE_LIVE_SIZE, PROT_READ, MAP_SHARED, stream, 0);
    if (bell->base == MAP_FAILED)
        return errno;
    bell->live = mmap(NULL, EVTAPE_LIVE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, page, 0);
    if ((void *)bell->live == MAP_FAILED)
        return errno;
    bell->slot = evtape_guard_add(bell->base, EVTAPE_LIVE_SIZE);
    if (bell->slot == NULL)
        return ENOMEM;
    bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return bell->fd < 0 ? errno : 0;
}

evtape_bell *evtape_bell_start(int stream, int page) {
    evtape_bell *bell = calloc(1, sizeof *bell);
    pthread_t thread;
    if (bell == NULL)
        return NULL;
    bell->fd = -1;
    bell->base = MAP_FAILED;
    bell->live = MAP_FAILED;
    bell->process = getpid();
    bell->owners = 1;
    pthread_mutex_init(&bell->lock, NULL);
    int error = prepare(bell, stream, page);
    if (error == 0) {
        bell->owners = 2;
        if (evtape_start_quietly(&thread, run, bell)) {
            pthread_detach(thread);
            return bell;
        }
        bell->owners = 1;
        error = EAGAIN;
    }
    if (bell->fd >= 0)
        close(bell->fd);
    give_up(bell);
    errno = error;
    return NULL;
}

int evtape_bell_fd(const evtape_bell *bell) {
    return bell->fd;
}

static void wake(evtape_bell *bell) {
    atomic_fetch_add(&bell->asked, 1);
    (void)syscall(SYS_futex, &bell->asked, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void evtape_bell_ask(evtape_bell *bell, int64_t offset, int64_t spin_ns) {
    atomic_store(&bell->spin_ns, spin_ns);
    atomic_store(&bell->offset, offset);
    wake(bell);
}

void evtape_bell_clear(evtape_bell *bell) {
    uint64_t count;
    ssize_t done = read(bell->fd, &count, sizeof count);
    (void)done;
}

void evtape_bell_stop(evtape_bell *bell) {
    if (bell == NULL)
        return;
    if (bell->process != getpid()) {
        close(
            bell->fd); /* the lock may never be released here, and the thread's part never given up */
        return;
    }
    pthread_mutex_lock(&bell->lock);
    close(bell->fd);
    bell->fd = -1;
    pthread_mutex_unlock(&bell->lock);
    atomic_store(&bell->stopped, 1);
    wake(bell);
    give_up(bell);
}

#else

/* Other systems have no sleep on a shared mapping that is used here. Not run. */

evtape_bell *evtape_bell_start(int stream, int page) {
    (void)stream, (void)page;
    errno = ENOTSUP;
    return NULL;
}
int evtape_bell_fd(const evtape_bell *bell) {
    (void)bell;
    return -1;
}
void evtape_bell_ask(evtape_bell *bell, int64_t offset, int64_t spin_ns) {
    (void)bell, (void)offset, (void)spin_ns;
}
void evtape_bell_clear(evtape_bell *bell) {
    (void)bell;
}
void evtape_bell_stop(evtape_bell *bell) {
    (void)bell;
}

#endif
