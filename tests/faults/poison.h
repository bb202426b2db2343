/* Built into the native core by `sanitize.py`, in front of every source: what lies behind the end of a file that is mapped for
 * reading is poisoned, so that AddressSanitizer reports a load from there. Without it the whole mapping, which reaches far beyond
 * the file, is memory like any other. It is done while EVTAPE_POISON is set in the environment: where files grow under readers,
 * what lies behind their end is theirs a moment later. */
#define _GNU_SOURCE
#include <sanitizer/asan_interface.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { POISONED = 1 << 17 };

static inline void *poisoning_mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    struct stat status;
    char *made = mmap(at, length, protection, flags, fd, offset);
    if (made != MAP_FAILED && fd >= 0 && !(protection & PROT_WRITE) && getenv("EVTAPE_POISON") && fstat(fd, &status) == 0) {
        size_t size = (size_t)status.st_size, most = length - size < POISONED ? length - size : POISONED;
        if (size < length)
            __asan_poison_memory_region(made + size, most);
    }
    return made;
}

static inline int poisoning_munmap(void *at, size_t length) {
    __asan_unpoison_memory_region(at, length < (1 << 20) ? length : 1 << 20); /* the poisoned files are small */
    return munmap(at, length);
}

#define mmap poisoning_mmap
#define munmap poisoning_munmap
