/* fault_guard.c - see fault_guard.h.
 *
 * How handlers are stacked. Another library (faulthandler, a debugger's runtime) installs its
 * handler before ours, or installs it after ours and then calls ours as "the previous one". If we
 * install our handler on top again, one function cannot serve both places: the second call would
 * call the other handler again, in an endless loop. So each installation uses its own entry point,
 * and each entry point remembers the handler beneath it at that time:
 *
 *     entry 1 -> theirs -> entry 0 -> SIG_DFL
 *
 * The handler only uses async-signal-safe operations: atomics, mmap, sigaction, pthread_sigmask,
 * raise.
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

/* Chunks are appended and never removed, so a handler may follow `next` at any moment. */
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

/* Returns the next chunk and creates it if there is none. NULL: out of memory. */
static struct chunk *chunk_after(struct chunk *chunk) {
    struct chunk *next = atomic_load(&chunk->next);
    if (next != NULL)
        return next;
    struct chunk *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    if (atomic_compare_exchange_strong(&chunk->next, &next, made))
        return made;
    free(made); /* another thread was faster; no thread has seen this chunk */
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

/* ---- the handler: faults in guarded mappings ---- */

/* enable() sets it before a handler can run, because sysconf is not async-signal-safe. */
static _Atomic(uintptr_t) page_size;

/* True for a signal that the processor raised at an address. False for a signal that a process
 * sent (si_code <= 0), for a misaligned access, and for the report of a bad page that no
 * access has touched. */
static bool is_fault(const siginfo_t *info) {
    if (info->si_code <= 0)
        return false;
#ifndef __APPLE__ /* not run: macOS also uses this code for a missing page */
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
 * faulthandler reports a fault, restores the previous handler and calls raise(). The fault then
 * arrives as a sent signal without an address. The kernel keeps the address of the last fault of a
 * thread that became a signal, and puts it into the context of every signal. If that fault was in a
 * guarded mapping and was not handled, the sent signal stands for it. */

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

/* The last fault that each thread handled. With it, the address in the context of a sent signal is
 * not mistaken for a fault. Threads whose numbers collide share a slot. */
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

/* Returns the address of the fault that this signal stands for, or 0. */
static uintptr_t fault_address(const siginfo_t *info, const void *context) {
    if (is_fault(info))
        return (uintptr_t)info->si_addr;
    if (info->si_code > 0 || info->si_pid != getpid())
        return 0;
    uintptr_t address = last_fault(context);
    return is_handled(address) ? 0 : address;
}

/* Puts a page of zeros at the fault. The count is incremented before the page is mapped, so a
 * thread that reads a zero from the page also sees the count. */
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

/* ---- the handler: all other faults ---- */

/* The maximum number of installations of our handler in one process. */
#define ENTRIES 32

/* beneath[i] is the handler that entry i found when it was installed. The pointer publishes
 * the struct, which never changes afterwards. A replaced struct is leaked, because a handler
 * may be reading it. */
static _Atomic(struct sigaction *) beneath[ENTRIES];

/* Cleared by disable() if our handler must stay beneath another one. */
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

/* The default action of SIGBUS. After a fault it is sufficient to return, because the access is
 * repeated. A sent signal is raised again. */
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

/* Calls another handler like the kernel does: with its mask, and only once if it asked for that. */
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

/* Finds the handler beneath this entry that has not been called yet. If that handler is on top at
 * this moment, its library installed it after us. It was then called first and has called us, so
 * the search continues below it. */
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
    else if (is_fault(info)) /* SIG_IGN does not stop a fault: the kernel kills the process */
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

/* ---- installing and removing the handler ---- */

/* Serialises enable and disable. No handler takes it. */
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;

/* The child of a fork has one thread, which did not hold the lock. */
static void unlock_in_child(void) {
    install_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static int entry_of(const struct sigaction *action) {
    for (int i = 0; i < ENTRIES; i++)
        if ((action->sa_flags & SA_SIGINFO) && action->sa_sigaction == entries[i])
            return i;
    return -1;
}

/* The entry that was installed last and, as far as we know, is still part of the chain.
 * Protected by install_lock. */
static int newest = -1;

/* A handler that is installed once more must not be called from an older entry too, because the
 * handler beneath it may be any of ours. */
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
     * is blocked kills the process. */
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
    newest = entry; /* a handler between this entry and a newer one is gone */
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
