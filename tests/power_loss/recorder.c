/* Records what a process does to the files under one directory, in order.
 *
 * Preloaded. RECORD_ROOT names the directory (its real path), RECORD_LOG the file that the records go to. Each record is
 * a line of text, followed by as many bytes as it says last:
 *
 *   create INODE LENGTH   the path         a file that was not there before
 *   mkdir 0 LENGTH        the path
 *   link INODE LENGTH     the path         another name for a file that is there
 *   unlink 0 LENGTH       the path
 *   rename LENGTH LENGTH  both paths       the first number is the length of the first path
 *   write INODE OFFSET LENGTH   the bytes
 *   truncate INODE SIZE 0
 *   sync INODE 0          a file
 *   failsync INODE LENGTH the path         a file whose sync has failed
 *   syncdir 0 LENGTH      the path of a directory
 *   mark 0 LENGTH         what the program says (`power_loss_mark`)
 *
 * One lock is held over each call and its record, so that the order is the true one. Nothing is synced: what a sync
 * makes durable is worked out afterwards, and the run is quick. Copies within the kernel (sendfile, copy_file_range) are
 * refused, so that the program writes by itself. Calls that nobody has needed yet (writev, fallocate …) end the process.
 * What is written through a mapping is not seen; SQLite maps its -shm file alone, which is left out. Afterwards the
 * record is compared with the files (recorder.py), so that nothing is missed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int record_fd = -1;
static char root[4096];
static size_t root_length;

#define NEXT(type, name, signature) \
    static type (*next) signature; \
    if (!next) next = (type(*) signature)dlsym(RTLD_NEXT, #name)

static void raw_write(const void *data, size_t size) {
    NEXT(ssize_t, write, (int, const void *, size_t));
    while (size > 0) {
        ssize_t written = next(record_fd, data, size);
        if (written < 0) { perror("the recorder cannot write"); abort(); }
        data = (const char *)data + written;
        size -= (size_t)written;
    }
}

static void record(const char *head, const void *data, size_t size) {
    raw_write(head, strlen(head));
    raw_write(data, size);
}

__attribute__((constructor)) static void start(void) {
    const char *directory = getenv("RECORD_ROOT"), *path = getenv("RECORD_LOG");
    if (!directory || !path) return;
    snprintf(root, sizeof root, "%s/", directory);
    root_length = strlen(root);
    NEXT(int, open64, (const char *, int, ...));
    record_fd = next(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static int counts(const char *path) {
    size_t length = strlen(path);
    return strncmp(path, root, root_length) == 0 && !(length >= 4 && strcmp(path + length - 4, "-shm") == 0);
}

/* The path of a name relative to an open directory; 0 where it does not count. */
static int path_of(int at, const char *name, char *path) {
    if (record_fd < 0) return 0;
    char directory[4096] = "";
    if (name[0] != '/') {
        char link[64];
        if (at == AT_FDCWD) {
            if (!getcwd(directory, sizeof directory)) return 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            ssize_t length = readlink(link, directory, sizeof directory - 1);
            if (length <= 0) return 0;
            directory[length] = 0;
        }
        snprintf(path, 8192, "%s/%s", directory, name);
    } else {
        snprintf(path, 8192, "%s", name);
    }
    return counts(path);
}

static int path_of_fd(int fd, char *path) {
    if (record_fd < 0 || fd == record_fd) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 4095);
    if (length <= 0) return 0;
    path[length] = 0;
    if (length + 1 == (ssize_t)root_length && strncmp(path, root, (size_t)length) == 0) return 1;
    return counts(path);
}

static unsigned long inode_of(int fd) {
    struct stat about;
    return fstat(fd, &about) == 0 ? (unsigned long)about.st_ino : 0;
}

static void record_path(const char *kind, unsigned long inode, const char *path) {
    char head[128];
    snprintf(head, sizeof head, "%s %lu %zu\n", kind, inode, strlen(path));
    record(head, path, strlen(path));
}

static void record_write(int fd, off_t at, const void *data, size_t size) {
    char head[128];
    snprintf(head, sizeof head, "write %lu %lld %zu\n", inode_of(fd), (long long)at, size);
    record(head, data, size);
}

static void record_truncate(int fd, off_t size) {
    char head[128];
    snprintf(head, sizeof head, "truncate %lu %lld 0\n", inode_of(fd), (long long)size);
    record(head, "", 0);
}

void power_loss_mark(const char *text) {
    if (record_fd < 0) return;
    pthread_mutex_lock(&lock);
    record_path("mark", 0, text);
    pthread_mutex_unlock(&lock);
}

/* -- names -------------------------------------------------------------------------------------------------------- */

static int (*open_next)(int, const char *, int, ...);

static int opened(int at, const char *name, int flags, mode_t mode) {
    char path[8192];
    if (!open_next) open_next = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
    if (!(flags & (O_CREAT | O_TRUNC)) || !path_of(at, name, path)) return open_next(at, name, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat before;
    int there = stat(path, &before) == 0;
    int fd = open_next(at, name, flags, mode);
    if (fd >= 0 && !there) record_path("create", inode_of(fd), path);
    if (fd >= 0 && there && (flags & O_TRUNC) && before.st_size > 0) record_truncate(fd, 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }

int open(const char *name, int flags, ...) { MODE(flags); return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags); return opened(AT_FDCWD, name, flags, mode); }
int openat(int at, const char *name, int flags, ...) { MODE(flags); return opened(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE(flags); return opened(at, name, flags, mode); }
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

#define NAMED(kind, at, name, call) \
    char path[8192]; \
    if (!path_of(at, name, path)) return call; \
    pthread_mutex_lock(&lock); \
    int result = call; \
    if (result == 0) record_path(kind, 0, path); \
    pthread_mutex_unlock(&lock); \
    return result

int unlink(const char *name) {
    NEXT(int, unlink, (const char *));
    NAMED("unlink", AT_FDCWD, name, next(name));
}
int unlinkat(int at, const char *name, int flags) {
    NEXT(int, unlinkat, (int, const char *, int));
    NAMED("unlink", at, name, next(at, name, flags));
}
int remove(const char *name) {
    NEXT(int, remove, (const char *));
    NAMED("unlink", AT_FDCWD, name, next(name));
}
int rmdir(const char *name) {
    NEXT(int, rmdir, (const char *));
    NAMED("unlink", AT_FDCWD, name, next(name));
}
int mkdir(const char *name, mode_t mode) {
    NEXT(int, mkdir, (const char *, mode_t));
    NAMED("mkdir", AT_FDCWD, name, next(name, mode));
}
int mkdirat(int at, const char *name, mode_t mode) {
    NEXT(int, mkdirat, (int, const char *, mode_t));
    NAMED("mkdir", at, name, next(at, name, mode));
}

static void record_rename(const char *from, const char *to) {
    char head[128], both[16384];
    snprintf(head, sizeof head, "rename %zu %zu\n", strlen(from), strlen(from) + strlen(to));
    snprintf(both, sizeof both, "%s%s", from, to);
    record(head, both, strlen(both));
}

int renameat(int from_at, const char *from, int to_at, const char *to) {
    NEXT(int, renameat, (int, const char *, int, const char *));
    char old[8192], new[8192];
    if (!path_of(from_at, from, old) | !path_of(to_at, to, new)) return next(from_at, from, to_at, to);
    pthread_mutex_lock(&lock);
    int result = next(from_at, from, to_at, to);
    if (result == 0) record_rename(old, new);
    pthread_mutex_unlock(&lock);
    return result;
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    NEXT(int, linkat, (int, const char *, int, const char *, int));
    char new[8192];
    if (!path_of(to_at, to, new)) return next(from_at, from, to_at, to, flags);
    pthread_mutex_lock(&lock);
    int result = next(from_at, from, to_at, to, flags);
    struct stat about;
    if (result == 0 && stat(new, &about) == 0) record_path("link", (unsigned long)about.st_ino, new);
    pthread_mutex_unlock(&lock);
    return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

/* -- content ------------------------------------------------------------------------------------------------------ */

#define CONTENT(call, note) \
    char path[4096]; \
    if (!path_of_fd(fd, path)) return call; \
    pthread_mutex_lock(&lock); \
    ssize_t result = call; \
    if (result >= 0) { note; } \
    pthread_mutex_unlock(&lock); \
    return result

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(ssize_t, write, (int, const void *, size_t));
    CONTENT(next(fd, data, size), record_write(fd, lseek(fd, 0, SEEK_CUR) - result, data, (size_t)result));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    NEXT(ssize_t, pwrite, (int, const void *, size_t, off_t));
    CONTENT(next(fd, data, size, at), record_write(fd, at, data, (size_t)result));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    NEXT(ssize_t, pwrite64, (int, const void *, size_t, off64_t));
    CONTENT(next(fd, data, size, at), record_write(fd, at, data, (size_t)result));
}
static int refused(int to) {
    char path[4096];
    int ours = path_of_fd(to, path);
    if (ours) errno = ENOSYS;
    return ours;
}
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    NEXT(ssize_t, sendfile, (int, int, off_t *, size_t));
    return refused(to) ? -1 : next(to, from, at, size);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    NEXT(ssize_t, sendfile64, (int, int, off64_t *, size_t));
    return refused(to) ? -1 : next(to, from, at, size);
}
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t size, unsigned flags) {
    NEXT(ssize_t, copy_file_range, (int, off64_t *, int, off64_t *, size_t, unsigned));
    return refused(to) ? -1 : next(from, at, to, to_at, size, flags);
}

/* What changes a file and cannot be recorded yet ends the process, loudly. */
static void not_recorded(const char *call, int ours) {
    if (!ours) return;
    fprintf(stderr, "the recorder does not record %s\n", call);
    abort();
}
static int is_ours(int fd) {
    char path[4096];
    return path_of_fd(fd, path);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    NEXT(ssize_t, writev, (int, const struct iovec *, int));
    not_recorded("writev", is_ours(fd));
    return next(fd, parts, count);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    NEXT(ssize_t, pwritev, (int, const struct iovec *, int, off_t));
    not_recorded("pwritev", is_ours(fd));
    return next(fd, parts, count, at);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    NEXT(ssize_t, pwritev64, (int, const struct iovec *, int, off64_t));
    not_recorded("pwritev64", is_ours(fd));
    return next(fd, parts, count, at);
}
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    NEXT(ssize_t, pwritev2, (int, const struct iovec *, int, off_t, int));
    not_recorded("pwritev2", is_ours(fd));
    return next(fd, parts, count, at, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
    NEXT(ssize_t, pwritev64v2, (int, const struct iovec *, int, off64_t, int));
    not_recorded("pwritev64v2", is_ours(fd));
    return next(fd, parts, count, at, flags);
}
int fallocate(int fd, int mode, off_t at, off_t size) {
    NEXT(int, fallocate, (int, int, off_t, off_t));
    not_recorded("fallocate", is_ours(fd));
    return next(fd, mode, at, size);
}
int fallocate64(int fd, int mode, off64_t at, off64_t size) {
    NEXT(int, fallocate64, (int, int, off64_t, off64_t));
    not_recorded("fallocate64", is_ours(fd));
    return next(fd, mode, at, size);
}
int posix_fallocate(int fd, off_t at, off_t size) {
    NEXT(int, posix_fallocate, (int, off_t, off_t));
    not_recorded("posix_fallocate", is_ours(fd));
    return next(fd, at, size);
}
int posix_fallocate64(int fd, off64_t at, off64_t size) {
    NEXT(int, posix_fallocate64, (int, off64_t, off64_t));
    not_recorded("posix_fallocate64", is_ours(fd));
    return next(fd, at, size);
}
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    NEXT(int, renameat2, (int, const char *, int, const char *, unsigned));
    char path[8192];
    not_recorded("renameat2", path_of(from_at, from, path) || path_of(to_at, to, path));
    return next(from_at, from, to_at, to, flags);
}
int truncate(const char *name, off_t size) {
    NEXT(int, truncate, (const char *, off_t));
    char path[8192];
    not_recorded("truncate", path_of(AT_FDCWD, name, path));
    return next(name, size);
}
int truncate64(const char *name, off64_t size) {
    NEXT(int, truncate64, (const char *, off64_t));
    char path[8192];
    not_recorded("truncate64", path_of(AT_FDCWD, name, path));
    return next(name, size);
}

int ftruncate(int fd, off_t size) {
    NEXT(int, ftruncate, (int, off_t));
    CONTENT(next(fd, size), record_truncate(fd, size));
}
int ftruncate64(int fd, off64_t size) {
    NEXT(int, ftruncate64, (int, off64_t));
    CONTENT(next(fd, size), record_truncate(fd, size));
}

static int failing, failing_after;

/* Have `count` syncs of files fail, after `after` that do not. Nothing is durable by them. */
void power_loss_fail_syncs(int count, int after) { failing = count; failing_after = after; }

/* How many of these are still to come. */
int power_loss_syncs_to_fail(void) { return failing; }

static int synced(int fd) {
    char path[4096];
    if (!path_of_fd(fd, path)) return 0;
    struct stat about;
    if (fstat(fd, &about) != 0) return -1;
    pthread_mutex_lock(&lock);
    int counted = failing > 0 && !S_ISDIR(about.st_mode), fails = counted && failing_after == 0;
    if (fails) failing--;
    else if (counted) failing_after--;
    record_path(S_ISDIR(about.st_mode) ? "syncdir" : fails ? "failsync" : "sync", (unsigned long)about.st_ino, path);
    pthread_mutex_unlock(&lock);
    if (fails) errno = EIO;
    return fails ? -1 : 0;
}
int fsync(int fd) { return synced(fd); }
int fdatasync(int fd) { return synced(fd); }
