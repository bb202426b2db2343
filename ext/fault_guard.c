/* fault_guard.c - see fault_guard.h.
 *
 * How handlers are stacked. Others (faulthandler, a debugger's runtime) install theirs before ours,
 * or after ours and then call ours as "the previous one". If ours is put on top once more, one
 * function cannot serve both places: asked for the second time it would call the other one again,
 * for ever. So each time we are put on top we use an entry point of its own, and each entry point
 * remembers what lay beneath it *then*:
 *
 *     entry 1 -> theirs -> entry 0 -> SIG_DFL
 *
 * Everything a handler runs is async-signal-safe: atomics, mmap, sigaction, pthread_sigmask, raise.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#ifndef _WIN32

#include "fault_guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#include <ucontext.h>
#endif

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

_Static_assert(ATOMIC_POINTER_LOCK_FREE == 2, "a signal handler must not take a lock");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a signal handler must not take a lock");

/* ---- the table of mappings ---- */

#define SLOTS_PER_CHUNK 64

/* Chunks are added at the end and never removed, so a handler may follow `next` at any moment. */
struct chunk {
    evtape_guard_slot slots[SLOTS_PER_CHUNK];
    _Atomic(struct chunk *) next;
};

static struct chunk first_chunk;
static _Atomic(uint64_t) faults_total;

static void slot_set(evtape_guard_slot *slot, uintptr_t start, uintptr_t stop) {
    uint64_t version = atomic_load_explicit(&slot->version, memory_order_relaxed);
    atomic_store_explicit(&slot->version, version + 1, memory_order_seq_cst);
    atomic_store_explicit(&slot->start, start, memory_order_seq_cst);
    atomic_store_explicit(&slot->stop, stop, memory_order_seq_cst);
    atomic_store_explicit(&slot->version, version + 2, memory_order_seq_cst);
}

static bool slot_covers(evtape_guard_slot *slot, uintptr_t address) {
    uint64_t version = atomic_load_explicit(&slot->version, memory_order_seq_cst);
    uintptr_t start = atomic_load_explicit(&slot->start, memory_order_seq_cst);
    uintptr_t stop = atomic_load_explicit(&slot->stop, memory_order_seq_cst);
    if (version % 2 != 0 || version != atomic_load_explicit(&slot->version, memory_order_seq_cst))
        return false;
    return start <= address && address < stop;
}

static evtape_guard_slot *slot_take(struct chunk *chunk) {
    for (int i = 0; i < SLOTS_PER_CHUNK; i++) {
        int expected = 0;
        if (atomic_load_explicit(&chunk->slots[i].taken, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong(&chunk->slots[i].taken, &expected, 1))
            return &chunk->slots[i];
    }
    return NULL;
}

/* The chunk after this one, made when there is none. NULL: out of memory. */
static struct chunk *chunk_after(struct chunk *chunk) {
    struct chunk *next = atomic_load(&chunk->next);
    if (next != NULL)
        return next;
    struct chunk *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    if (atomic_compare_exchange_strong(&chunk->next, &next, made))
        return made;
    free(made); /* another thread was faster; nobody has seen ours */
    return next;
}

evtape_guard_slot *evtape_guard_add(void *start, size_t length) {
    evtape_guard_slot *slot = NULL;
    for (struct chunk *chunk = &first_chunk; chunk != NULL && slot == NULL;) {
        slot = slot_take(chunk);
        if (slot == NULL)
            chunk = chunk_after(chunk);
    }
    if (slot == NULL)
        return NULL;
    atomic_store(&slot->faults, 0);
    slot_set(slot, (uintptr_t)start, (uintptr_t)start + length);
    return slot;
}

void evtape_guard_remove(evtape_guard_slot *slot) {
    if (slot == NULL)
        return;
    slot_set(slot, 0, 0);
    atomic_store(&slot->taken, 0);
}

uint64_t evtape_guard_faults_total(void) {
    return atomic_load(&faults_total);
}

static evtape_guard_slot *slot_find(uintptr_t address) {
    for (struct chunk *chunk = &first_chunk; chunk != NULL; chunk = atomic_load(&chunk->next))
        for (int i = 0; i < SLOTS_PER_CHUNK; i++)
            if (slot_covers(&chunk->slots[i], address))
                return &chunk->slots[i];
    return NULL;
}

/* ---- the handler: our own faults ---- */

/* Set by enable() before a handler can run: sysconf is not async-signal-safe. */
static _Atomic(uintptr_t) page_size;

/* True for a signal that the processor raised at an address: not sent by somebody (si_code <= 0),
 * not a misaligned access, not the notice that some page went bad which nobody has touched. */
static bool is_fault(const siginfo_t *info) {
    if (info->si_code <= 0)
        return false;
#ifndef __APPLE__ /* not run: there this code also comes with a page that cannot be had */
    if (info->si_code == BUS_ADRALN)
        return false;
#endif
#ifdef BUS_MCEERR_AO
    if (info->si_code == BUS_MCEERR_AO)
        return false;
#endif
    return true;
}

/* ---- a fault that another handler sends again ----
 *
 * faulthandler reports a fault, restores the handler that it found and calls raise(): the fault
 * then arrives as a signal that was sent, without an address. The kernel keeps the address of the
 * last fault of a thread that became a signal, and puts it into the context of every signal. Where
 * that fault was in a guarded mapping and has not been handled, the sent signal stands for it. */

#if defined(__linux__) && defined(__x86_64__)
static uintptr_t last_fault(const void *context) {
    const ucontext_t *c = context;
    const int page_fault = 14; /* the number of that exception */
    return c->uc_mcontext.gregs[REG_TRAPNO] == page_fault ? (uintptr_t)c->uc_mcontext.gregs[REG_CR2]
                                                          : 0;
}
#elif defined(__linux__) && defined(__aarch64__) /* not run */
static uintptr_t last_fault(const void *context) {
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.fault_address;
}
#else
static uintptr_t last_fault(const void *context) {
    (void)context;
    return 0;
}
#endif

/* Which fault each thread handled last, so that the address in the context of a signal that
 * a process really sent is not taken for a fault. Threads share a place where their numbers
 * collide. */
#define HANDLED 1024

static struct {
    _Atomic(long) thread;
    _Atomic(uintptr_t) address;
} handled[HANDLED];

static long this_thread(void) {
#ifdef __linux__
    return syscall(SYS_gettid);
#else
    return 0;
#endif
}

static void note_handled(uintptr_t address) {
    long thread = this_thread();
    atomic_store(&handled[thread % HANDLED].thread, thread);
    atomic_store(&handled[thread % HANDLED].address, address);
}

static bool is_handled(uintptr_t address) {
    long thread = this_thread();
    return atomic_load(&handled[thread % HANDLED].thread) == thread &&
           atomic_load(&handled[thread % HANDLED].address) == address;
}

/* The address of the fault that this signal stands for, or 0. */
static uintptr_t fault_address(const siginfo_t *info, const void *context) {
    if (is_fault(info))
        return (uintptr_t)info->si_addr;
    if (info->si_code > 0 || info->si_pid != getpid())
        return 0;
    uintptr_t address = last_fault(context);
    return is_handled(address) ? 0 : address;
}

/* Puts a page of zeros where the fault was. The count comes before the page: another thread that
 * reads a zero from the page then also sees the count. */
static bool absorb(const siginfo_t *info, const void *context) {
    uintptr_t address = fault_address(info, context);
    evtape_guard_slot *slot = address != 0 ? slot_find(address) : NULL;
    if (slot == NULL)
        return false;
    note_handled(address);
    atomic_fetch_add(&slot->faults, 1);
    atomic_fetch_add(&faults_total, 1);
    uintptr_t size = atomic_load(&page_size);
    void *page = (void *)(address & ~(size - 1));
    return mmap(page, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1,
                0) == page;
}

/* ---- the handler: other people's faults ---- */

/* How often others may be stacked between ours in one process. */
#define ENTRIES 32

/* beneath[i] is what entry i found when it was put on top. It is published by the pointer and never
 * changed afterwards: what replaces it is a new one, and the old one is leaked, because a handler
 * may be reading it. */
static _Atomic(struct sigaction *) beneath[ENTRIES];

/* Cleared by disable() when ours has to stay beneath somebody else's. */
static _Atomic(int) active;

static bool same_handler(const struct sigaction *a, const struct sigaction *b) {
    if ((a->sa_flags & SA_SIGINFO) != (b->sa_flags & SA_SIGINFO))
        return false;
    return a->sa_flags & SA_SIGINFO ? a->sa_sigaction == b->sa_sigaction
                                    : a->sa_handler == b->sa_handler;
}

static bool is_special(const struct sigaction *a) {
    return !(a->sa_flags & SA_SIGINFO) && (a->sa_handler == SIG_DFL || a->sa_handler == SIG_IGN);
}

/* The default of SIGBUS. For a fault it is enough to return, because the access is made again; a
 * signal that was sent is sent again. */
static void act_default(const siginfo_t *info) {
    struct sigaction dfl;
    memset(&dfl, 0, sizeof dfl);
    dfl.sa_handler = SIG_DFL;
    sigemptyset(&dfl.sa_mask);
    sigaction(SIGBUS, &dfl, NULL);
    sigset_t bus;
    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &bus, NULL);
    if (!is_fault(info))
        raise(SIGBUS);
}

/* Calls a foreign handler the way the kernel would: with its mask, and once only if it asked for
 * that. */
static void call_handler(int entry, const struct sigaction *theirs, int number, siginfo_t *info,
                         void *context) {
    struct sigaction copy = *theirs;
    sigset_t mask = copy.sa_mask, before;
    if (!(copy.sa_flags & SA_NODEFER))
        sigaddset(&mask, SIGBUS);
    if (copy.sa_flags & (int)SA_RESETHAND)
        atomic_store(&beneath[entry], NULL);
    pthread_sigmask(SIG_BLOCK, &mask, &before);
    if (copy.sa_flags & SA_SIGINFO)
        copy.sa_sigaction(number, info, context);
    else
        copy.sa_handler(number);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* What lies beneath this entry and has not been asked yet. If that handler is the one on top at
 * this moment, then it was put there behind our back, was asked first and has asked us: go on below
 * it. */
static int next_beneath(int entry, struct sigaction *found) {
    struct sigaction top;
    bool known = sigaction(SIGBUS, NULL, &top) == 0;
    for (int i = entry; i >= 0; i--) {
        struct sigaction *theirs = atomic_load(&beneath[i]);
        if (theirs == NULL || (known && !is_special(theirs) && same_handler(theirs, &top)))
            continue;
        *found = *theirs;
        return i;
    }
    return -1;
}

static void pass_on(int entry, int number, siginfo_t *info, void *context) {
    struct sigaction theirs;
    int from = next_beneath(entry, &theirs);
    if (from < 0 || (is_special(&theirs) && theirs.sa_handler == SIG_DFL))
        act_default(info);
    else if (!is_special(&theirs))
        call_handler(from, &theirs, number, info, context);
    else if (is_fault(info)) /* SIG_IGN does not help against a fault: the kernel would kill, too */
        act_default(info);
}

static void handle(int entry, int number, siginfo_t *info, void *context) {
    int saved = errno;
    if (!atomic_load(&active) || !absorb(info, context))
        pass_on(entry, number, info, context);
    errno = saved;
}

#define ENTRY(i)                                                                                   \
    static void entry_##i(int number, siginfo_t *info, void *context) {                            \
        handle(i, number, info, context);                                                          \
    }

/* clang-format off */
#define FOR_EACH_ENTRY(M) \
    M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) \
    M(10) M(11) M(12) M(13) M(14) M(15) M(16) M(17) M(18) M(19) \
    M(20) M(21) M(22) M(23) M(24) M(25) M(26) M(27) M(28) M(29) \
    M(30) M(31)
/* clang-format on */

FOR_EACH_ENTRY(ENTRY)

#define ENTRY_NAME(i) entry_##i,
static void (*const entries[ENTRIES])(int, siginfo_t *, void *) = {FOR_EACH_ENTRY(ENTRY_NAME)};

/* ---- putting it on top, and taking it off ---- */

/* Serialises enable and disable; no handler takes it. */
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;

/* The child of a fork has one thread, and it did not hold the lock. */
static void unlock_in_child(void) {
    install_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static int entry_of(const struct sigaction *action) {
    for (int i = 0; i < ENTRIES; i++)
        if ((action->sa_flags & SA_SIGINFO) && action->sa_sigaction == entries[i])
            return i;
    return -1;
}

/* The entry that was put on top last and, as far as we know, is still part of the chain. Under
 * install_lock. */
static int newest = -1;

/* A handler that comes on top once more must not also be reached from an older entry: its own idea
 * of what lies beneath it may be any of ours. */
static void forget_older(const struct sigaction *theirs) {
    for (int i = 0; i <= newest; i++) {
        struct sigaction *old = atomic_load(&beneath[i]);
        if (old != NULL && !is_special(old) && same_handler(old, theirs))
            atomic_store(&beneath[i], i > 0 ? atomic_load(&beneath[i - 1]) : NULL);
    }
}

static int install_over(const struct sigaction *theirs) {
    if (newest + 1 >= ENTRIES)
        return ELOOP;
    struct sigaction *kept = malloc(sizeof *kept);
    if (kept == NULL)
        return ENOMEM;
    *kept = *theirs;
    if (!is_special(theirs))
        forget_older(theirs);
    atomic_store(&beneath[newest + 1], kept);
    struct sigaction ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = entries[newest + 1];
    /* NODEFER: a handler that we call may touch a guarded mapping itself, and a fault while SIGBUS
     * is blocked kills. */
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART;
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGBUS, &ours, NULL) != 0) {
        int error = errno;
        atomic_store(&beneath[newest + 1], NULL);
        free(kept); /* the entry was never on top, so no handler has seen it */
        return error;
    }
    newest++;
    return 0;
}

static int enable_locked(void) {
    struct sigaction top;
    if (sigaction(SIGBUS, NULL, &top) != 0)
        return errno;
    int entry = entry_of(&top);
    if (entry < 0)
        return install_over(&top);
    newest = entry; /* whoever stood between this one and a newer one is gone */
    return 0;
}

int evtape_guard_enable(void) {
    static bool prepared;
    pthread_mutex_lock(&install_lock);
    if (!prepared) {
        long size = sysconf(_SC_PAGESIZE);
        atomic_store(&page_size, size > 0 ? (uintptr_t)size : 4096);
        pthread_atfork(NULL, NULL, unlock_in_child);
        prepared = true;
    }
    int error = enable_locked();
    if (error == 0)
        atomic_store(&active, 1);
    pthread_mutex_unlock(&install_lock);
    return error;
}

static int disable_locked(void) {
    struct sigaction top, dfl;
    if (sigaction(SIGBUS, NULL, &top) != 0)
        return errno;
    int entry = entry_of(&top);
    if (entry < 0)
        return newest < 0 ? 0 : EBUSY;
    memset(&dfl, 0, sizeof dfl);
    dfl.sa_handler = SIG_DFL;
    struct sigaction *below = atomic_load(&beneath[entry]);
    if (sigaction(SIGBUS, below != NULL ? below : &dfl, NULL) != 0)
        return errno;
    newest = entry - 1;
    return 0;
}

int evtape_guard_disable(void) {
    pthread_mutex_lock(&install_lock);
    atomic_store(&active, 0);
    int error = disable_locked();
    pthread_mutex_unlock(&install_lock);
    return error;
}

int evtape_guard_enabled(void) {
    struct sigaction top;
    return atomic_load(&active) && sigaction(SIGBUS, NULL, &top) == 0 && entry_of(&top) >= 0;
}

#else
typedef int evtape_fault_guard_not_on_windows; /* a translation unit must not be empty */
#endif /* _WIN32 */
