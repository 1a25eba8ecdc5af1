/* fail.h - what a machine gives fails: each call for memory, files, threads and sockets in turn. The linker puts these
   functions in the place of the C library's (-Wl,--wrap=NAME for each NAME here, as the Makefile finds them). A test
   says what shall fail, and counts what is open; a program built with FAIL_MAIN obeys the environment:
     FAIL="KINDS AT ON"   the AT-th call of these kinds fails, with ON 1 all after it, too
     FAIL_REPORT=FILE     at its end the number of calls, and the name of what failed first */

#ifndef FAIL_H
#define FAIL_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FAIL_MEMORY = 1, FAIL_FILES = 2, FAIL_WRITES = 4, FAIL_THREADS = 8, FAIL_SOCKETS = 16 };

static struct {
    int kinds, on;
    long at, calls, open; /* open: blocks, files, mappings and threads */
    const char *name;     /* what failed first; NULL: nothing yet */
    FILE *bad;            /* whose ferror says so */
} fail;

static inline void fail_begin(int kinds, long at, int on) {
    fail.at = at, fail.on = on, fail.calls = 0, fail.name = NULL, fail.bad = NULL, fail.kinds = kinds;
}
static inline void fail_end(void) { fail.kinds = 0; }

static int fail_now(int kind, const char *name, int reason) {
    if (!(fail.kinds & kind)) return 0;
    const long n = __atomic_add_fetch(&fail.calls, 1, __ATOMIC_SEQ_CST);
    if (!fail.at || n < fail.at || (n > fail.at && !fail.on)) return 0;
    if (n == fail.at) fail.name = name;
    errno = reason;
    return 1;
}
static void fail_opened(long n) { __atomic_add_fetch(&fail.open, n, __ATOMIC_SEQ_CST); }

/* RESULT NAME(PARAMETERS) gives BAD where it fails; what succeeds counts as so much open. */
#define FAIL_CALL(kind, reason, result, name, bad, opened, parameters, arguments)                                      \
    result __real_##name parameters;                                                                                   \
    result __wrap_##name parameters;                                                                                   \
    result __wrap_##name parameters {                                                                                  \
        if (fail_now(kind, #name, reason)) return bad;                                                                 \
        const result r = __real_##name arguments;                                                                      \
        if (opened && r != bad) fail_opened(opened);                                                                   \
        return r;                                                                                                      \
    }
typedef void *fail_pointer;
typedef char *fail_string;
typedef FILE *fail_file;
typedef DIR *fail_dir;
FAIL_CALL(FAIL_MEMORY, ENOMEM, fail_pointer, malloc, NULL, 1, (size_t n), (n))
FAIL_CALL(FAIL_MEMORY, ENOMEM, fail_pointer, calloc, NULL, 1, (size_t n, size_t size), (n, size))
FAIL_CALL(FAIL_MEMORY, ENOMEM, int, posix_memalign, ENOMEM, 1, (void **out, size_t align, size_t n), (out, align, n))
FAIL_CALL(FAIL_MEMORY, ENOMEM, fail_pointer, realloc, NULL, !p, (void *p, size_t n), (p, n))
FAIL_CALL(FAIL_FILES, EMFILE, fail_file, fopen, NULL, 1, (const char *path, const char *mode), (path, mode))
FAIL_CALL(FAIL_FILES, ENOMEM, fail_file, fdopen, NULL, 1, (int fd, const char *mode), (fd, mode))
FAIL_CALL(FAIL_FILES, EMFILE, fail_dir, opendir, NULL, 1, (const char *path), (path))
FAIL_CALL(FAIL_FILES, EIO, int, fstat, -1, 0, (int fd, struct stat *info), (fd, info))
FAIL_CALL(FAIL_FILES, EIO, ssize_t, read, -1, 0, (int fd, void *to, size_t n), (fd, to, n))
FAIL_CALL(FAIL_FILES, EIO, fail_string, fgets, NULL, 0, (char *to, int n, FILE *file), (to, n, file))
FAIL_CALL(FAIL_FILES, ENOMEM, fail_pointer, mmap, MAP_FAILED, 1,
          (void *at, size_t n, int protection, int flags, int fd, off_t from), (at, n, protection, flags, fd, from))
FAIL_CALL(FAIL_WRITES, ENOSPC, ssize_t, write, -1, 0, (int fd, const void *from, size_t n), (fd, from, n))
FAIL_CALL(FAIL_WRITES, ENOSPC, int, fflush, EOF, 0, (FILE * file), (file))
FAIL_CALL(FAIL_WRITES, EIO, int, fsync, -1, 0, (int fd), (fd))
FAIL_CALL(FAIL_WRITES, EACCES, int, rename, -1, 0, (const char *from, const char *to), (from, to))
FAIL_CALL(FAIL_THREADS, EAGAIN, int, pthread_create, EAGAIN, r == 0,
          (pthread_t * t, const pthread_attr_t *how, void *(*work)(void *), void *arg), (t, how, work, arg))
FAIL_CALL(FAIL_SOCKETS, EMFILE, int, pipe, -1, 0, (int ends[2]), (ends))
FAIL_CALL(FAIL_SOCKETS, EMFILE, int, socket, -1, 0, (int family, int type, int protocol), (family, type, protocol))
FAIL_CALL(FAIL_SOCKETS, EADDRINUSE, int, bind, -1, 0, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))
FAIL_CALL(FAIL_SOCKETS, EADDRINUSE, int, listen, -1, 0, (int fd, int most), (fd, most))
FAIL_CALL(FAIL_SOCKETS, EMFILE, int, accept, -1, 0, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n))
FAIL_CALL(FAIL_SOCKETS, ECONNRESET, ssize_t, recv, -1, 0, (int fd, void *to, size_t n, int flags), (fd, to, n, flags))
FAIL_CALL(FAIL_SOCKETS, EPIPE, ssize_t, send, -1, 0, (int fd, const void *from, size_t n, int flags),
          (fd, from, n, flags))

/* A stream that has failed says so. */
size_t __real_fread(void *to, size_t size, size_t n, FILE *file);
size_t __wrap_fread(void *to, size_t size, size_t n, FILE *file);
size_t __wrap_fread(void *to, size_t size, size_t n, FILE *file) {
    if (!fail_now(FAIL_FILES, "fread", EIO)) return __real_fread(to, size, n, file);
    fail.bad = file;
    return 0;
}
size_t __real_fwrite(const void *from, size_t size, size_t n, FILE *file);
size_t __wrap_fwrite(const void *from, size_t size, size_t n, FILE *file);
size_t __wrap_fwrite(const void *from, size_t size, size_t n, FILE *file) {
    if (!fail_now(FAIL_WRITES, "fwrite", ENOSPC)) return __real_fwrite(from, size, n, file);
    fail.bad = file;
    return 0;
}
int __real_ferror(FILE *file);
int __wrap_ferror(FILE *file);
int __wrap_ferror(FILE *file) { return fail.bad == file || __real_ferror(file); }

/* What is closed is closed, even if that fails. */
int __real_fclose(FILE *file);
int __wrap_fclose(FILE *file);
int __wrap_fclose(FILE *file) {
    fail_opened(-1);
    const int failed = __real_fclose(file);
    return fail_now(FAIL_WRITES, "fclose", ENOSPC) ? EOF : failed;
}
int __real_closedir(DIR *directory);
int __wrap_closedir(DIR *directory);
int __wrap_closedir(DIR *directory) {
    fail_opened(-1);
    return __real_closedir(directory);
}
int __real_munmap(void *at, size_t n);
int __wrap_munmap(void *at, size_t n);
int __wrap_munmap(void *at, size_t n) {
    fail_opened(-1);
    return __real_munmap(at, n);
}
int __real_pthread_join(pthread_t t, void **result);
int __wrap_pthread_join(pthread_t t, void **result);
int __wrap_pthread_join(pthread_t t, void **result) {
    fail_opened(-1);
    return __real_pthread_join(t, result);
}
void __real_free(void *p);
void __wrap_free(void *p);
void __wrap_free(void *p) {
    if (p) fail_opened(-1);
    __real_free(p);
}
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    const int mode = flags & O_CREAT ? va_arg(more, int) : 0;
    va_end(more);
    return fail_now(FAIL_FILES, "open", EMFILE) ? -1 : __real_open(path, flags, mode);
}

#ifdef FAIL_MAIN
__attribute__((constructor)) static void fail_obey(void) {
    const char *how = getenv("FAIL");
    int kinds = 0, on = 0;
    long at = 0;
    if (how && sscanf(how, "%d %ld %d", &kinds, &at, &on) == 3) fail_begin(kinds, at, on);
}
__attribute__((destructor)) static void fail_say(void) {
    const char *path = getenv("FAIL_REPORT");
    fail_end();
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "%ld %s\n", fail.calls, fail.name ? fail.name : "-");
    fclose(file);
}
#endif

#endif
