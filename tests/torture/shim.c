/* Makes writes to a database's files fail, as a full or a broken disk would.
 *
 * Preloaded into the server. The first byte of the file that TORTURE_DISK names says how:
 *   '-' not at all   'f' writes: no space left   'w' writes: I/O error   's' syncs: I/O error
 * Only files named *.db and *.db-wal are touched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static const volatile char *control;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("TORTURE_DISK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) control = mapped;
    close(fd);
}

static int ends(const char *name, ssize_t length, const char *end) {
    ssize_t own = (ssize_t)strlen(end);
    return length >= own && memcmp(name + length - own, end, own) == 0;
}

static int ours(int fd) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name);
    return length > 0 && (ends(name, length, ".db") || ends(name, length, ".db-wal"));
}

/* The errno that this call is to fail with; 0 where it is to go on. */
static int fails(int fd, int sync) {
    char mode = control ? *control : '-';
    int error = mode == 'f' && !sync ? ENOSPC : (mode == 'w' && !sync) || (mode == 's' && sync) ? EIO : 0;
    return error && ours(fd) ? error : 0;
}

#define NEXT(type, name, signature) \
    static type (*next) signature; \
    if (!next) next = (type(*) signature)dlsym(RTLD_NEXT, #name)

#define CHECK(sync) \
    do { int error = fails(fd, sync); if (error) { errno = error; return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(ssize_t, write, (int, const void *, size_t));
    CHECK(0);
    return next(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    NEXT(ssize_t, pwrite, (int, const void *, size_t, off_t));
    CHECK(0);
    return next(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    NEXT(ssize_t, pwrite64, (int, const void *, size_t, off64_t));
    CHECK(0);
    return next(fd, data, size, at);
}
int fsync(int fd) {
    NEXT(int, fsync, (int));
    CHECK(1);
    return next(fd);
}
int fdatasync(int fd) {
    NEXT(int, fdatasync, (int));
    CHECK(1);
    return next(fd);
}
