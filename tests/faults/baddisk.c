/* A file system of one file whose disk can be told to fail: libfuse 3 over a backing file.
 *
 *     baddisk BACKING CONTROL MOUNTPOINT
 *
 * The file is MOUNTPOINT/stream. CONTROL holds one line, "MODE FIRST LAST": reads ("r"), writes ("w") or nothing ("-")
 * of bytes in [FIRST, LAST) fail with EIO. It is looked at on each request. */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int backing;
static const char *control;

static int fails(char mode, off_t offset, size_t size) {
    char line[128], wanted = '-';
    long long first = 0, last = 0;
    int fd = open(control, O_RDONLY);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, line, sizeof line - 1);
    close(fd);
    line[n < 0 ? 0 : n] = 0;
    if (sscanf(line, "%c %lld %lld", &wanted, &first, &last) != 3)
        return 0;
    return wanted == mode && offset < last && (long long)(offset + size) > first;
}

static int is_stream(const char *path) {
    return strcmp(path, "/stream") == 0;
}

static int disk_getattr(const char *path, struct stat *status, struct fuse_file_info *info) {
    (void)info;
    memset(status, 0, sizeof *status);
    if (strcmp(path, "/") == 0) {
        status->st_mode = S_IFDIR | 0755;
        status->st_nlink = 2;
        return 0;
    }
    if (!is_stream(path))
        return -ENOENT;
    if (fstat(backing, status) != 0)
        return -errno;
    status->st_mode = S_IFREG | 0644;
    return 0;
}

static int disk_open(const char *path, struct fuse_file_info *info) {
    (void)info;
    return is_stream(path) ? 0 : -ENOENT;
}

static int disk_read(const char *path, char *to, size_t size, off_t offset,
                     struct fuse_file_info *info) {
    (void)path, (void)info;
    if (fails('r', offset, size))
        return -EIO;
    ssize_t n = pread(backing, to, size, offset);
    return n < 0 ? -errno : (int)n;
}

static int disk_write(const char *path, const char *from, size_t size, off_t offset,
                      struct fuse_file_info *info) {
    (void)path, (void)info;
    if (fails('w', offset, size))
        return -EIO;
    ssize_t n = pwrite(backing, from, size, offset);
    return n < 0 ? -errno : (int)n;
}

static int disk_truncate(const char *path, off_t size, struct fuse_file_info *info) {
    (void)path, (void)info;
    return ftruncate(backing, size) == 0 ? 0 : -errno;
}

static int disk_fsync(const char *path, int data_only, struct fuse_file_info *info) {
    (void)path, (void)data_only, (void)info;
    return 0;
}

static const struct fuse_operations operations = {
    .getattr = disk_getattr,
    .open = disk_open,
    .read = disk_read,
    .write = disk_write,
    .truncate = disk_truncate,
    .fsync = disk_fsync,
};

int main(int argc, char *argv[]) {
    if (argc != 4 || (backing = open(argv[1], O_RDWR | O_CREAT, 0600)) < 0)
        return 2;
    control = argv[2];
    char *arguments[] = {argv[0], "-f", "-o", "attr_timeout=0,entry_timeout=0", argv[3], NULL};
    return fuse_main(5, arguments, &operations, NULL);
}
