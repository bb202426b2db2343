/* fault_guard_check.c - tests ext/fault_guard.c without Python.
 *
 *     cc -std=c11 -O2 -pthread -Iext tests/native/fault_guard_check.c ext/fault_guard.c \
 *         -o fault_guard_check
 *     ./fault_guard_check [directory]
 *
 * Each test runs in its own child, because signal handlers belong to the process and some tests
 * must die.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#ifdef _WIN32
int main(void) {
    return 0;
}
#else

#include "fault_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *directory = ".";
static size_t page;
static int failures;

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            printf("FAILED %s:%d: %s (errno %d)\n", __FILE__, __LINE__, #what, errno);             \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

struct map {
    int fd;
    size_t length;
    volatile char *base;
};

/* Maps a file of `pages` pages of ones. Its name is removed at once. */
static struct map map_make(size_t pages) {
    char path[512];
    snprintf(path, sizeof path, "%s/fault_guard_check.XXXXXX", directory);
    struct map m = {mkstemp(path), pages * page, NULL};
    char *ones = malloc(page);
    memset(ones, 1, page);
    for (size_t i = 0; i < pages; i++)
        if (write(m.fd, ones, page) != (ssize_t)page)
            abort();
    free(ones);
    unlink(path);
    m.base = mmap(NULL, m.length, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);
    if (m.base == MAP_FAILED)
        abort();
    return m;
}

static void map_free(struct map *m) {
    munmap((void *)m->base, m->length);
    close(m->fd);
}

static void map_cut(struct map *m, size_t pages) {
    if (ftruncate(m->fd, (off_t)(pages * page)) != 0)
        abort();
}

/* ---- faults in guarded mappings ---- */

static void test_read_and_write(void) {
    struct map m = map_make(8);
    CHECK(!evtape_guard_enabled());
    CHECK(evtape_guard_enable() == 0 && evtape_guard_enabled());
    CHECK(evtape_guard_enable() == 0);
    evtape_guard_slot *slot = evtape_guard_add((void *)m.base, m.length);
    map_cut(&m, 2);
    errno = 1234;
    CHECK(m.base[page] == 1 && evtape_guard_faults(slot) == 0);
    CHECK(m.base[2 * page] == 0);
    CHECK(errno == 1234 && evtape_guard_faults(slot) == 1);
    CHECK(m.base[3 * page - 1] == 0 && evtape_guard_faults(slot) == 1);
    m.base[5 * page + 7] = 9; /* a store beyond the end */
    CHECK(m.base[5 * page + 7] == 9 && evtape_guard_faults(slot) == 2);
    CHECK(evtape_guard_faults_total() == 2);
    CHECK(lseek(m.fd, 0, SEEK_END) == (off_t)(2 * page)); /* and the file is unchanged */
    /* A reused slot begins without faults. */
    evtape_guard_remove(slot);
    evtape_guard_slot *again = evtape_guard_add((void *)m.base, m.length);
    CHECK(again == slot && evtape_guard_faults(again) == 0);
    evtape_guard_remove(again);
    evtape_guard_remove(NULL);
    map_free(&m);
}

enum { READERS = 4, ROUNDS = 40, PAGES = 64 };

struct reader {
    struct map *m;
    evtape_guard_slot *slot;
    bool wrong;
};

/* TSan treats the handler's mmap as a store into a page that other threads read.
 * This is intended. */
#if defined(__SANITIZE_THREAD__)
#define RACES_WITH_MMAP __attribute__((no_sanitize_thread))
#else
#define RACES_WITH_MMAP
#endif

/* Reads all pages repeatedly until it meets the cut or the alarm. A zero must come with
 * a counted fault. */
RACES_WITH_MMAP static void *reader_main(void *argument) {
    struct reader *r = argument;
    for (;;) {
        int zeros = 0;
        for (size_t i = 0; i < PAGES; i++)
            zeros += r->m->base[i * page + i] == 0;
        if (zeros > 0) {
            r->wrong = evtape_guard_faults(r->slot) == 0;
            return NULL;
        }
    }
}

static void test_readers_in_threads(void) {
    CHECK(evtape_guard_enable() == 0);
    for (int round = 0; round < ROUNDS; round++) {
        struct map m = map_make(PAGES);
        evtape_guard_slot *slot = evtape_guard_add((void *)m.base, m.length);
        pthread_t threads[READERS];
        struct reader readers[READERS];
        for (int i = 0; i < READERS; i++) {
            readers[i] = (struct reader){&m, slot, false};
            pthread_create(&threads[i], NULL, reader_main, &readers[i]);
        }
        usleep(200);
        map_cut(&m, PAGES / 2);
        for (int i = 0; i < READERS; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < READERS; i++)
            CHECK(!readers[i].wrong);
        evtape_guard_remove(slot);
        map_free(&m);
    }
}

/* Several threads add and remove slots while all of them fault. */
static void *slots_main(void *argument) {
    bool *wrong = argument;
    for (int round = 0; round < 100; round++) {
        struct map m[3];
        evtape_guard_slot *slot[3];
        for (int i = 0; i < 3; i++) {
            m[i] = map_make(2);
            slot[i] = evtape_guard_add((void *)m[i].base, m[i].length);
            map_cut(&m[i], 1);
        }
        for (int i = 2; i >= 0; i--) {
            *wrong |=
                m[i].base[0] != 1 || m[i].base[page] != 0 || evtape_guard_faults(slot[i]) != 1;
            evtape_guard_remove(slot[i]);
            map_free(&m[i]);
        }
    }
    return NULL;
}

static void test_slots_in_threads(void) {
    CHECK(evtape_guard_enable() == 0);
    pthread_t threads[READERS];
    bool wrong[READERS] = {false};
    for (int i = 0; i < READERS; i++)
        pthread_create(&threads[i], NULL, slots_main, &wrong[i]);
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < READERS; i++)
        CHECK(!wrong[i]);
}

static void test_many_slots(void) {
    enum { MANY = 1000 };
    static char area[MANY];
    static evtape_guard_slot *slots[MANY];
    CHECK(evtape_guard_enable() == 0);
    for (int i = 0; i < MANY; i++)
        slots[i] = evtape_guard_add(&area[i], 1);
    struct map m = map_make(2);
    evtape_guard_slot *slot = evtape_guard_add((void *)m.base, m.length);
    map_cut(&m, 1);
    CHECK(m.base[page] == 0 && evtape_guard_faults(slot) == 1);
    for (int i = 0; i < MANY; i++) {
        CHECK(slots[i] != NULL && evtape_guard_faults(slots[i]) == 0);
        evtape_guard_remove(slots[i]);
    }
    map_free(&m);
}

static void test_large_pages(void) {
    size_t large = (size_t)2 << 20;
    struct map m = map_make(8 * large / page);
#ifdef MADV_HUGEPAGE
    madvise((void *)m.base, m.length, MADV_HUGEPAGE);
#endif
    CHECK(evtape_guard_enable() == 0);
    evtape_guard_slot *slot = evtape_guard_add((void *)m.base, m.length);
    for (size_t i = 0; i < m.length; i += page)
        m.base[i] = 2;
    map_cut(&m, 2 * large / page + 3);
    CHECK(m.base[2 * large + 2 * page] == 2 && evtape_guard_faults(slot) == 0);
    for (size_t i = 2 * large + 3 * page; i < m.length; i += page)
        if (m.base[i] != 0)
            failures++;
    CHECK(evtape_guard_faults(slot) == (m.length - 2 * large) / page - 3);
    map_free(&m);
}

static void test_forked_child(void) {
    struct map m = map_make(4);
    CHECK(evtape_guard_enable() == 0);
    evtape_guard_slot *slot = evtape_guard_add((void *)m.base, m.length);
    map_cut(&m, 1);
    pid_t child = fork();
    if (child == 0) {
        bool good =
            evtape_guard_enable() == 0 && m.base[page] == 0 && evtape_guard_faults(slot) == 1;
        _exit(!good);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(evtape_guard_faults(slot) == 0);
    map_free(&m);
}

/* ---- other handlers ---- */

static volatile sig_atomic_t theirs_called, other_called, flags_wrong;
static struct sigaction theirs_before, other_before;

static void heal(siginfo_t *info) {
    mmap((void *)((uintptr_t)info->si_addr & ~(page - 1)), page, PROT_READ | PROT_WRITE,
         MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* Like a cooperative handler: it does its own work and calls the previous handler. */
static void call_before(const struct sigaction *before, int number, siginfo_t *info,
                        void *context) {
    if (before->sa_flags & SA_SIGINFO)
        before->sa_sigaction(number, info, context);
    else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)
        before->sa_handler(number);
}

static void theirs_heals(int number, siginfo_t *info, void *context) {
    (void)context;
    theirs_called++;
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    flags_wrong |=
        number != SIGBUS || !sigismember(&blocked, SIGBUS) || !sigismember(&blocked, SIGUSR1);
    heal(info);
}

static void theirs_plain(int number) {
    theirs_called++;
    flags_wrong |= number != SIGBUS;
}

static void theirs_chains(int number, siginfo_t *info, void *context) {
    if (++theirs_called > 50)
        _exit(99);
    call_before(&theirs_before, number, info, context);
}

static void other_chains(int number, siginfo_t *info, void *context) {
    if (++other_called > 50)
        _exit(99);
    call_before(&other_before, number, info, context);
}

static void install(void (*handler)(int, siginfo_t *, void *), struct sigaction *before,
                    int flags) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_sigaction = handler;
    a.sa_flags = SA_SIGINFO | flags;
    sigemptyset(&a.sa_mask);
    sigaddset(&a.sa_mask, SIGUSR1);
    CHECK(sigaction(SIGBUS, &a, before) == 0);
}

static void test_previous_is_called(void) {
    install(theirs_heals, NULL, 0);
    struct map ours = map_make(2), foreign = map_make(2);
    CHECK(evtape_guard_enable() == 0);
    evtape_guard_slot *slot = evtape_guard_add((void *)ours.base, ours.length);
    map_cut(&ours, 1);
    map_cut(&foreign, 1);
    CHECK(ours.base[page] == 0 && theirs_called == 0);
    CHECK(foreign.base[page] == 0 && theirs_called == 1 && !flags_wrong);
    CHECK(evtape_guard_faults(slot) == 1);
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    CHECK(!sigismember(&blocked, SIGBUS) && !sigismember(&blocked, SIGUSR1));
    CHECK(evtape_guard_disable() == 0 && !evtape_guard_enabled());
    struct sigaction now;
    CHECK(sigaction(SIGBUS, NULL, &now) == 0 && now.sa_sigaction == theirs_heals);
    CHECK(evtape_guard_disable() == 0);
    map_free(&ours);
    map_free(&foreign);
}

static void test_previous_plain(void) {
    CHECK(signal(SIGBUS, theirs_plain) != SIG_ERR);
    CHECK(evtape_guard_enable() == 0);
    raise(SIGBUS);
    CHECK(theirs_called == 1 && !flags_wrong);
    kill(getpid(), SIGBUS);
    CHECK(theirs_called == 2);
}

static void test_sent_signal_while_ignored(void) {
    CHECK(signal(SIGBUS, SIG_IGN) != SIG_ERR);
    CHECK(evtape_guard_enable() == 0);
    raise(SIGBUS);
    CHECK(evtape_guard_enabled());
}

/* Their handler is installed after ours and chains; then ours is installed again. Each
 * is called once. */
static void test_on_top_again(void) {
    struct map m = map_make(16);
    CHECK(evtape_guard_enable() == 0);
    evtape_guard_slot *slot = evtape_guard_add((void *)m.base, m.length);
    map_cut(&m, 1);
    install(theirs_chains, &theirs_before, 0);
    CHECK(!evtape_guard_enabled());
    CHECK(m.base[page] == 0 && theirs_called == 1 && evtape_guard_faults(slot) == 1);
    CHECK(evtape_guard_enable() == 0 && evtape_guard_enabled());
    CHECK(m.base[2 * page] == 0 && theirs_called == 1);
    install(other_chains, &other_before, SA_NODEFER);
    CHECK(evtape_guard_enable() == 0);
    CHECK(m.base[3 * page] == 0 && theirs_called == 1 && other_called == 0);
    /* After disable(): the previous handler is back, and the one below still guards nothing. */
    CHECK(evtape_guard_disable() == 0 && !evtape_guard_enabled());
    struct sigaction now;
    CHECK(sigaction(SIGBUS, NULL, &now) == 0 && now.sa_sigaction == other_chains);
    CHECK(evtape_guard_disable() == EBUSY);
    CHECK(evtape_guard_enable() == 0 && m.base[4 * page] == 0);
    map_free(&m);
}

/* Their handler is removed and installed again, each time followed by an enable(). There is no
 * loop, and the entries do not run out if the handler beneath is one of ours. */
static void test_toggled(void) {
    struct map m = map_make(64);
    CHECK(evtape_guard_enable() == 0);
    evtape_guard_slot *slot = evtape_guard_add((void *)m.base, m.length);
    map_cut(&m, 1);
    for (size_t i = 1; i < 64; i++) {
        install(theirs_chains, &theirs_before, 0);
        CHECK(evtape_guard_enable() == 0);
        CHECK(m.base[i * page] == 0 && evtape_guard_faults(slot) == i && theirs_called == 0);
        CHECK(sigaction(SIGBUS, &theirs_before, NULL) == 0);
        CHECK(evtape_guard_enable() == 0);
    }
    map_free(&m);
}

/* ---- tests that must die of SIGBUS ---- */

static void die_by_kill(void) {
    struct map m = map_make(1);
    CHECK(evtape_guard_enable() == 0 && evtape_guard_add((void *)m.base, m.length) != NULL);
    kill(getpid(), SIGBUS);
    pause();
}

static void die_by_foreign_fault(void) {
    struct map m = map_make(2);
    CHECK(evtape_guard_enable() == 0);
    map_cut(&m, 1);
    (void)m.base[page];
}

static void die_by_removed_slot(void) {
    struct map m = map_make(2);
    CHECK(evtape_guard_enable() == 0);
    evtape_guard_remove(evtape_guard_add((void *)m.base, m.length));
    map_cut(&m, 1);
    (void)m.base[page];
}

static void die_by_fault_while_ignored(void) {
    struct map m = map_make(2);
    CHECK(signal(SIGBUS, SIG_IGN) != SIG_ERR && evtape_guard_enable() == 0);
    map_cut(&m, 1);
    (void)m.base[page];
}

static void die_after_disable(void) {
    struct map m = map_make(2);
    CHECK(evtape_guard_enable() == 0 && evtape_guard_add((void *)m.base, m.length) != NULL);
    CHECK(evtape_guard_disable() == 0);
    map_cut(&m, 1);
    (void)m.base[page];
}

/* ours, theirs, ours: each is called, none twice, and then the default. */
static void die_at_the_end_of_the_chain(void) {
    struct map m = map_make(2);
    CHECK(evtape_guard_enable() == 0);
    install(theirs_chains, &theirs_before, 0);
    CHECK(evtape_guard_enable() == 0);
    install(other_chains, &other_before, SA_ONSTACK);
    CHECK(evtape_guard_enable() == 0);
    map_cut(&m, 1);
    (void)m.base[page];
}

/* Their handler is on top twice, so it finds ours beneath and ours finds it beneath: A ->
 * B -> A. */
static void die_without_a_loop(void) {
    struct map m = map_make(2);
    CHECK(evtape_guard_enable() == 0);
    install(theirs_chains, &theirs_before, 0);
    CHECK(evtape_guard_enable() == 0);
    install(theirs_chains, &theirs_before, 0);
    CHECK(evtape_guard_enable() == 0);
    map_cut(&m, 1);
    (void)m.base[page];
}

static void die_without_a_loop_unseen(void) {
    struct map m = map_make(2);
    CHECK(evtape_guard_enable() == 0);
    install(theirs_chains, &theirs_before, 0);
    CHECK(evtape_guard_enable() == 0);
    install(theirs_chains, &theirs_before, 0); /* and no enable() follows */
    map_cut(&m, 1);
    (void)m.base[page];
}

/* Like faulthandler: it reports, restores the previous handler, raises again. */
static void theirs_raises(int number, siginfo_t *info, void *context) {
    (void)info, (void)context;
    if (++theirs_called > 50)
        _exit(99);
    sigaction(number, &theirs_before, NULL);
    raise(number);
}

static void die_by_one_that_raises(void) {
    struct map m = map_make(2);
    CHECK(evtape_guard_enable() == 0);
    install(theirs_raises, &theirs_before, SA_NODEFER | SA_ONSTACK);
    CHECK(evtape_guard_enable() == 0);
    map_cut(&m, 1);
    (void)m.base[page];
}

/* Their handler is on top at the fault, and ours gets the fault from raise(). */
static void fault_through_one_that_raises(struct map *m) {
    evtape_guard_slot *slot = evtape_guard_add((void *)m->base, m->length);
    CHECK(slot != NULL && evtape_guard_enable() == 0);
    install(theirs_raises, &theirs_before, SA_NODEFER | SA_ONSTACK);
    map_cut(m, 1);
    CHECK(m->base[page] == 0 && theirs_called == 1 && evtape_guard_faults(slot) == 1);
    CHECK(m->base[2 * page] == 0 && theirs_called == 1 && evtape_guard_faults(slot) == 2);
    evtape_guard_remove(slot);
}

static void *fault_in_thread(void *argument) {
    fault_through_one_that_raises(argument);
    return NULL;
}

static void test_sent_again(void) {
    struct map m = map_make(3), other = map_make(3);
    fault_through_one_that_raises(&m);
    theirs_called = 0;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, fault_in_thread, &other) == 0);
    pthread_join(thread, NULL);
}

static void die_by_raise_after_fault(void) {
    struct map m = map_make(2);
    CHECK(evtape_guard_enable() == 0 && evtape_guard_add((void *)m.base, m.length) != NULL);
    map_cut(&m, 1);
    CHECK(m.base[page] == 0);
    raise(SIGBUS);
}

static void die_by_raise_after_one_sent_again(void) {
    struct map m = map_make(3);
    CHECK(evtape_guard_add((void *)m.base, m.length) != NULL);
    fault_through_one_that_raises(&m);
    kill(getpid(), SIGBUS);
}

static void die_by_foreign_fault_sent_again(void) {
    struct map m = map_make(2), other = map_make(2);
    CHECK(evtape_guard_enable() == 0 && evtape_guard_add((void *)other.base, m.length) != NULL);
    install(theirs_raises, &theirs_before, SA_NODEFER | SA_ONSTACK);
    map_cut(&m, 1);
    (void)m.base[page];
}

/* ---- running ---- */

struct test {
    const char *name;
    void (*run)(void);
    int signal; /* the signal that must kill it, or 0 */
};

#define TEST(name) {#name, name, 0}
#define DIES(name) {#name, name, SIGBUS}

static const struct test tests[] = {
    TEST(test_read_and_write),
    TEST(test_readers_in_threads),
    TEST(test_slots_in_threads),
    TEST(test_many_slots),
    TEST(test_large_pages),
    TEST(test_forked_child),
    TEST(test_previous_is_called),
    TEST(test_previous_plain),
    TEST(test_sent_signal_while_ignored),
    TEST(test_on_top_again),
    TEST(test_toggled),
    DIES(die_by_kill),
    DIES(die_by_foreign_fault),
    DIES(die_by_removed_slot),
    DIES(die_by_fault_while_ignored),
    DIES(die_after_disable),
    DIES(die_at_the_end_of_the_chain),
    DIES(die_without_a_loop),
    DIES(die_without_a_loop_unseen),
    DIES(die_by_one_that_raises),
#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
    TEST(test_sent_again),
    DIES(die_by_raise_after_one_sent_again),
#endif
    DIES(die_by_raise_after_fault),
    DIES(die_by_foreign_fault_sent_again),
};

static bool test_run(const struct test *test) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGBUS, SIG_DFL); /* a sanitizer may have installed its own */
        alarm(120);
        test->run();
        fflush(stdout);
        _exit(failures != 0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    bool good =
        test->signal ? WIFSIGNALED(status) && WTERMSIG(status) == test->signal : status == 0;
    if (!good)
        printf("%s: wait status 0x%x\n", test->name, (unsigned)status);
    return good;
}

int main(int argc, char **argv) {
    directory = argc > 1 ? argv[1] : ".";
    page = (size_t)sysconf(_SC_PAGESIZE);
    int bad = 0, count = (int)(sizeof tests / sizeof tests[0]);
    for (int i = 0; i < count; i++)
        bad += !test_run(&tests[i]);
    printf("%d tests, %d failed\n", count, bad);
    return bad != 0;
}

#endif
