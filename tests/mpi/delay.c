/* delay.c - a network between the ranks of one machine: messages arrive late, and one after the other, as over a link.
   Every message is followed by one that tells when it may be seen; who receives waits until then. Ranks share no memory
   any more. Put in front of MPI: cc -shared -fPIC by mpicc, LD_PRELOAD; MPI_DELAY_US: microseconds of latency,
   MPI_DELAY_GBS: 10^9 bytes a second of each rank's link. What is sent by collective calls is not late: set-up only. */
#define _DEFAULT_SOURCE
#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STAMPS = 4096, LATE = 1 << 14 }; /* STAMPS: on their way at the same time; LATE: added to a tag */

static struct {
    MPI_Request message, stamp;
    double arrival;
    int used;
} posted[STAMPS];
static double sent[STAMPS], link_free;
static unsigned n_sent;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t); /* the same in all processes of a machine */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static double given(const char *name, double missing) { return getenv(name) ? atof(getenv(name)) : missing; }
static void wait_until(double t) {
    while (now() < t) sched_yield();
}
static void send_stamp(int count, MPI_Datatype type, int to, int tag, MPI_Comm comm) {
    int size;
    MPI_Request request;
    double *stamp = &sent[n_sent++ % STAMPS];
    PMPI_Type_size(type, &size);
    const double t = now(), begin = link_free > t ? link_free : t;
    link_free = begin + (double)count * size / (1e9 * given("MPI_DELAY_GBS", 1e9));
    *stamp = link_free + 1e-6 * given("MPI_DELAY_US", 0);
    PMPI_Isend(stamp, 1, MPI_DOUBLE, to, tag + LATE, comm, &request);
    PMPI_Request_free(&request);
}
int MPI_Isend(const void *x, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request) {
    send_stamp(count, type, to, tag, comm);
    return PMPI_Isend(x, count, type, to, tag, comm, request);
}
int MPI_Send(const void *x, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm) {
    send_stamp(count, type, to, tag, comm);
    return PMPI_Send(x, count, type, to, tag, comm);
}
int MPI_Irecv(void *x, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Request *request) {
    int i = 0;
    const int status = PMPI_Irecv(x, count, type, from, tag, comm, request);
    while (i < STAMPS && posted[i].used) i++;
    if (i == STAMPS) abort();
    posted[i].used = 1, posted[i].message = *request;
    PMPI_Irecv(&posted[i].arrival, 1, MPI_DOUBLE, from, tag + LATE, comm, &posted[i].stamp);
    return status;
}
int MPI_Recv(void *x, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Status *s) {
    double arrival;
    const int status = PMPI_Recv(x, count, type, from, tag, comm, s);
    PMPI_Recv(&arrival, 1, MPI_DOUBLE, from, tag + LATE, comm, MPI_STATUS_IGNORE);
    wait_until(arrival);
    return status;
}
int MPI_Waitall(int n, MPI_Request *requests, MPI_Status *s) {
    MPI_Request *were = malloc(((size_t)n + 1) * sizeof *were);
    if (!were) abort();
    memcpy(were, requests, (size_t)n * sizeof *were);
    const int status = PMPI_Waitall(n, requests, s);
    for (int r = 0; r < n; r++)
        for (int i = 0; i < STAMPS && were[r] != MPI_REQUEST_NULL; i++) { /* the first are found at once */
            if (!posted[i].used || posted[i].message != were[r]) continue;
            PMPI_Wait(&posted[i].stamp, MPI_STATUS_IGNORE);
            wait_until(posted[i].arrival);
            posted[i].used = 0;
            break;
        }
    free(were);
    return status;
}
int MPI_Wait(MPI_Request *request, MPI_Status *s) {
    (void)s;
    return MPI_Waitall(1, request, MPI_STATUSES_IGNORE);
}
/* Everyone is on a machine of its own. */
int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *out) {
    int rank;
    (void)type, (void)info;
    PMPI_Comm_rank(comm, &rank);
    return PMPI_Comm_split(comm, rank, key, out);
}
