/* region_windows.c - see region.h. Not yet run.
 *
 * SPDX-License-Identifier: MIT
 */
#ifdef _WIN32

#include "region.h"

#include <io.h>
#include <windows.h>

int evtape_reserve_take(int64_t length) {
    (void)length;
    return 1;
}
void evtape_reserve_give(int64_t length) {
    (void)length;
}

int evtape_map(int fd, int64_t length, int writable, uint8_t **base) {
    HANDLE file = (HANDLE)_get_osfhandle(fd);
    HANDLE map = CreateFileMappingW(file, NULL, writable ? PAGE_READWRITE : PAGE_READONLY,
                                    (DWORD)(length >> 32), (DWORD)length, NULL);
    if (map == NULL)
        return GetLastError() == ERROR_DISK_FULL ? ENOSPC : EIO;
    *base = MapViewOfFile(map, writable ? FILE_MAP_WRITE : FILE_MAP_READ, 0, 0, (SIZE_T)length);
    CloseHandle(map); /* the view keeps the section alive */
    return *base == NULL ? ENOMEM : 0;
}

void evtape_unmap(uint8_t *base, int64_t length) {
    (void)length;
    UnmapViewOfFile(base);
}

void evtape_drop_pages(uint8_t *base, int64_t start, int64_t stop) {
    (void)base, (void)start, (void)stop; /* Windows trims the working set itself */
}

void evtape_prefetch_pages(uint8_t *base, int64_t start, int64_t stop) {
    (void)base, (void)start, (void)stop;
}

void evtape_populate_pages(uint8_t *memory, int64_t bytes) {
    (void)memory, (void)bytes;
}

int evtape_flush(int fd, uint8_t *base, int64_t start, int64_t stop) {
    if (!FlushViewOfFile(base + start, (SIZE_T)(stop - start)))
        return EIO;
    return FlushFileBuffers((HANDLE)_get_osfhandle(fd)) ? 0 : EIO;
}

int evtape_reaches(int fd, int64_t end) {
    (void)fd, (void)end;
    return 1; /* Windows does not truncate a file that is mapped */
}

#else
typedef int evtape_region_not_on_posix; /* a translation unit must not be empty */
#endif
