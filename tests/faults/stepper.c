/* Runs a process instruction by instruction between two marks and judges its file after each of them.
 *
 *     stepper FILE EXPECTED LIMIT -- COMMAND...
 *
 * The command marks the beginning and the end of what is stepped with kill(own pid, SIGUSR1) and (..., SIGUSR2); between steps it runs at full
 * speed. FILE is looked at through a mapping of its own, EXPECTED is the finished stream. For every instruction after which header, tail
 * or size could have changed, what a reader would be served is judged: published entries only, each whole, in order, none missing that
 * was published before. Prints figures and the first violations as text lines.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.c"

static const char *path;
static long steps, judged, regions, violations, headers;
static const uint8_t *map;
static int64_t map_size;
static ino_t map_inode;
static int64_t published; /* the most that a reader could have seen; it must never shrink in one file */
static int recovering;    /* the file is damaged at first; what a reader keeps of it must be the same throughout */
static uint8_t *expected;
static int64_t expected_size;
static const int64_t *ends; /* where WriteOffset may be: after an event, or after a whole batch */
static int64_t ends_count;

static void violation(const char *what, long long a, long long b) {
    if (violations++ < 10)
        printf("violation: %s (%lld, %lld) at step %ld of region %ld\n", what, a, b, steps, regions);
}

static int64_t look(void) {
    struct stat st;
    if (stat(path, &st) != 0)
        return -1;
    if (map == NULL || st.st_ino != map_inode) {
        if (map != NULL)
            munmap((void *)map, (size_t)map_size);
        int fd = open(path, O_RDONLY);
        if (fd < 0)
            return -1;
        map_size = (int64_t)1 << 30;
        map = mmap(NULL, (size_t)map_size, PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
        map_inode = st.st_ino;
        published = 0;
        if (map == MAP_FAILED)
            exit(3);
    }
    return st.st_size;
}

/* The bytes of a timestamp are the clock's, so they are compared only with what was there before: from its publication on an
 * entry may not change at all. The rest must be what was to be appended. */
static uint64_t frozen;
static int64_t frozen_to = 24;

static void judge_file(int64_t size) {
    judged++;
    if (size < 24) {
        violation("a named file without a whole header", size, 0);
        return;
    }
    if (recovering) {
        verdict_t said;
        verdict(map, size, &said);
        if (said.reason == TRUNCATED)
            violation("WriteOffset beyond the file", size, 0);
        if (said.end != expected_size || memcmp(map + 24, expected + 24, (size_t)(expected_size - 24)) != 0)
            violation("recovery left another prefix", said.end, expected_size);
        return;
    }
    int64_t head[2];
    memcpy(head, map, 16);
    if (head[0] < 24 || head[0] > size) {
        violation("WriteOffset is not within the file", head[0], size);
        return;
    }
    if (head[0] < published)
        violation("WriteOffset went back", published, head[0]);
    if (head[0] > expected_size) {
        violation("published more than was appended", head[0], expected_size);
        return;
    }
    int whole = 0;
    for (int64_t i = 0; i < ends_count; i++)
        whole |= ends[i] == head[0];
    if (!whole)
        violation("WriteOffset is within an event or a batch", head[0], 0);
    int64_t at = 24, events = 0;
    while (at < head[0]) {
        uint32_t length, wanted;
        if (head[0] - at < 16)
            break;
        memcpy(&length, map + at + 8, 4), memcpy(&wanted, expected + at + 8, 4);
        if (length != wanted || at + 16 + (int64_t)length > head[0] ||
            memcmp(map + at + 12, expected + at + 12, 4 + (size_t)length) != 0) {
            violation("a published entry is not what was appended", at, length);
            return;
        }
        at += 16 + (int64_t)length, events++;
    }
    if (at != head[0])
        violation("WriteOffset is within an entry", head[0], at);
    else if (head[1] < events)
        violation("EventCount is behind", head[1], events);
    if (head[0] >= published) {
        uint64_t sum = crc(map + 24, (uint64_t)(frozen_to - 24));
        if (frozen_to > 24 && frozen_to <= head[0] && sum != frozen)
            violation("a published byte changed", frozen_to, head[0]);
        frozen_to = head[0], frozen = crc(map + 24, (uint64_t)(frozen_to - 24));
    }
    published = head[0];
}

/* Only a store can change the file, and an instruction stores to few places; the header and some bytes around WriteOffset show
 * nearly every change that matters, and all the rest is judged with them and again every thousand steps. */
static void step_and_judge(void) {
    static uint8_t last[24 + 64];
    static int64_t last_size = -2;
    uint8_t now[sizeof last];
    int64_t size = look();
    if (size < 0) {
        last_size = -1;
        return;
    }
    memset(now, 0, sizeof now);
    if (size >= 24) {
        memcpy(now, map, 24);
        int64_t offset;
        memcpy(&offset, now, 8);
        if (offset >= 24 && offset + 64 <= size)
            memcpy(now + 24, map + offset, 64);
    }
    if (size != last_size || memcmp(now, last, sizeof now) != 0 || steps % 1000 == 0) {
        if (memcmp(now, last, 24) != 0)
            headers++;
        memcpy(last, now, sizeof now);
        last_size = size;
        judge_file(size);
    }
}

/* Steps until the end mark. Returns the wait status if the process ended instead. */
static int step_region(pid_t pid, long limit) {
    int status = 0;
    regions++;
    for (long n = 0;; n++) {
        /* Beyond the limit, which is there for regions that wait, the rest runs unwatched. */
        if (ptrace(n < limit ? PTRACE_SINGLESTEP : PTRACE_CONT, pid, 0, 0) != 0)
            exit(4);
        if (waitpid(pid, &status, 0) != pid)
            exit(5);
        if (WIFEXITED(status) || WIFSIGNALED(status))
            return status;
        int stopped = WSTOPSIG(status);
        if (stopped == SIGUSR2)
            return -1;
        if (stopped == SIGSTOP || stopped == SIGCONT) /* somebody stopped us all for a while */
            continue;
        if (stopped != SIGTRAP) {
            violation("a signal while stepping", stopped, 0);
            return status;
        }
        steps++;
        step_and_judge();
    }
}

int main(int argc, char **argv) {
    if (argc < 6)
        return 2;
    path = argv[1];
    long limit = atol(argv[3]);
    int fd = open(argv[2], O_RDONLY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0)
        return 2;
    expected_size = st.st_size;
    expected = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    char name[4096];
    snprintf(name, sizeof name, "%s.ends", argv[2]);
    fd = open(name, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) != 0)
        return 2;
    ends_count = st.st_size / 8;
    ends = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    recovering = getenv("STEPPER_RECOVERING") != NULL;
    pid_t pid = fork();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execvp(argv[5], argv + 5);
        _exit(127);
    }
    int status;
    waitpid(pid, &status, 0);
    ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL);
    int signal = 0;
    for (;;) {
        ptrace(PTRACE_CONT, pid, 0, signal);
        waitpid(pid, &status, 0);
        if (WIFEXITED(status) || WIFSIGNALED(status))
            break;
        signal = WSTOPSIG(status);
        if (signal == SIGTRAP || signal == SIGSTOP || signal == SIGCONT)
            signal = 0;
        if (signal == SIGUSR1) {
            signal = 0;
            int end = step_region(pid, limit);
            if (end != -1 && (WIFEXITED(end) || WIFSIGNALED(end))) {
                status = end;
                break;
            }
        }
    }
    if (WIFSIGNALED(status))
        violation("the process was killed by a signal", WTERMSIG(status), 0);
    printf("steps %ld\njudged %ld\nheaders %ld\nregions %ld\nviolations %ld\nexit %d\n", steps, judged, headers, regions,
           violations, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return 0;
}
