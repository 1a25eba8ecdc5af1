/* test_threads.c - examples/threads.h: every task of every run once and before the run returns, whatever the numbers of
   tasks and threads; sleeping threads, a child of fork, a caller with a small stack, a model on it. */
#define _DEFAULT_SOURCE
#define THREADS_IMPLEMENTATION
#include "threads.h"
#include "test.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 70000 };
typedef struct counts {
    unsigned char of[MOST];
} counts;
static counts seen;

static void count(void *arg, int i) { ((counts *)arg)->of[i]++; }
/* Tasks of very different lengths. */
static void count_late(void *arg, int i) {
    volatile double x = 1;
    for (int k = 0; k < (i % 7 == 0 ? 3000 : 10); k++) x = x * 1.0000001;
    count(arg, i);
}
static void run_counts(thread_pool *p, int n, void (*task)(void *arg, int i), const char *what) {
    int wrong = 0;
    memset(&seen, 0, sizeof seen);
    threads_run(p, n, task, &seen);
    for (int i = 0; i < MOST; i++) wrong += seen.of[i] != (i < n);
    CHECK(wrong == 0, "%s: %d tasks, %d of them not once", what, n, wrong);
}
static void nap(long microseconds) {
    const struct timespec t = {0, microseconds * 1000};
    nanosleep(&t, NULL);
}

static void test_counts(void) {
    static const int sizes[] = {0, 1, 2, 3, 5, 16, 17, 1000, 65535, 65536, MOST};
    SECTION("each task once");
    for (int n = 1; n <= 9; n += n < 3 ? 1 : 3) {
        thread_pool *p;
        if (!CHECK(threads_create(&p, n), "%d threads", n)) continue;
        CHECK(threads_count(p) == n, "%d threads, asked for %d", threads_count(p), n);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) run_counts(p, sizes[i], count, "at once");
        for (int i = 0; i < 300; i++) run_counts(p, 1 + i % 40, count_late, "one after the other");
        for (int i = 0; i < 20; i++) nap(500 * (i % 5)), run_counts(p, n, count_late, "from sleep");
        threads_destroy(p);
    }
    for (int i = 0; i < 200; i++) { /* threads that have hardly begun, and are to end */
        thread_pool *p;
        if (!CHECK(threads_create(&p, 4), "pool %d", i)) break;
        if (i % 2) run_counts(p, 4, count, "a short life");
        threads_destroy(p);
    }
    threads_destroy(NULL);
    CHECK(threads_available() >= 1 && threads_available() <= sysconf(_SC_NPROCESSORS_ONLN), "%d cores",
          threads_available());
}

static void test_fork(void) {
    thread_pool *p;
    int status = -1;
    SECTION("a child of fork");
    if (!CHECK(threads_create(&p, 3), "no threads")) return;
    run_counts(p, 10, count, "before fork");
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        int wrong = 0;
        alarm(20);
        memset(&seen, 0, sizeof seen);
        threads_run(p, 50, count, &seen);
        for (int i = 0; i < 50; i++) wrong += seen.of[i] != 1;
        threads_destroy(p);
        _exit(wrong != 0);
    }
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %#x", (unsigned)status);
    run_counts(p, 10, count, "after fork");
    threads_destroy(p);
}

int main(void) {
    test_counts();
    test_fork();
    return test_end();
}
