/* ranks.h - ranks of MPI speak with who started them: what goes wrong is said in one line, and all of them end.

USE
   In exactly one file:      #define RANKS_IMPLEMENTATION
                             #include "ranks.h"         (mpicc; options.h must be implemented somewhere)
   In all others:            #include "ranks.h"

   ranks_begin(&argc, &argv, "app");   options_parse(...);
   if (wrong for all) ranks_alike(), options_fail(2, "so many ranks are too many");
   ranks_agree(file ? "" : "there is no file");      if (no memory) ranks_alone(), options_fail(1, "out of memory");
   ranks_end(0);

GLOBALS        ranks_me and ranks_n, and options.h's.
   SPDX-License-Identifier: MIT */

#ifndef RANKS_H
#define RANKS_H

#include "options.h"
#include <mpi.h>

#ifndef RANKS_API
#define RANKS_API extern
#endif

extern int ranks_me, ranks_n;

/* Begins MPI, of which one thread at a time makes calls. */
RANKS_API void ranks_begin(int *argc, char ***argv, const char *name);
/* How what fails from here on ends: all ranks come there alike, and rank 0 says it; or only this one does, says so, and
   ends the others. At the begin all are alike. */
RANKS_API void ranks_alike(void);
RANKS_API void ranks_alone(void);
/* What this rank has to complain of, or "": if any has something, the first of them is heard, and all end. By all. */
RANKS_API void ranks_agree(const char *trouble);
#ifdef __GNUC__
__attribute__((noreturn))
#endif
RANKS_API void
ranks_end(int status);

#endif /* RANKS_H */

/* ================================================================================================================== */
#if defined RANKS_IMPLEMENTATION && !defined RANKS_IMPLEMENTED
#define RANKS_IMPLEMENTED

#include <stdio.h>
#include <stdlib.h>

int ranks_me, ranks_n = 1;
static char ranks__names[2][64]; /* when alike, and alone */

static void ranks__end_alike(int status) { (void)status, MPI_Finalize(); }
static void ranks__end_all(int status) { MPI_Abort(MPI_COMM_WORLD, status); }
void ranks_alike(void) {
    options_here.name = ranks__names[0], options_here.mute = ranks_me > 0, options_here.end = ranks__end_alike;
}
void ranks_alone(void) {
    options_here.name = ranks__names[1], options_here.mute = 0, options_here.end = ranks__end_all;
}
void ranks_begin(int *argc, char ***argv, const char *name) {
    int level;
    MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &ranks_me), MPI_Comm_size(MPI_COMM_WORLD, &ranks_n);
    snprintf(ranks__names[0], sizeof ranks__names[0], "%.40s", name);
    snprintf(ranks__names[1], sizeof ranks__names[1], "%.40s: rank %d", name, ranks_me);
    ranks_alike();
    if (level < MPI_THREAD_SERIALIZED) options_fail(1, "this MPI knows no threads (MPI_THREAD_SERIALIZED)");
}
void ranks_agree(const char *trouble) {
    int first = *trouble ? ranks_me : ranks_n, all;
    char text[400];
    snprintf(text, sizeof text, "%s", trouble);
    MPI_Allreduce(&first, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (all == ranks_n) return;
    MPI_Bcast(text, sizeof text, MPI_CHAR, all, MPI_COMM_WORLD);
    ranks_alike();
    options_fail(1, "rank %d: %s", all, text);
}
void ranks_end(int status) {
    MPI_Finalize();
    exit(status);
}

#endif /* RANKS_IMPLEMENTATION */
