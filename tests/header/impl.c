/* impl.c - the implementations, and the headers once more after them. */
#define MLA_IMPLEMENTATION
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"

#include "checkpoint.h"
#include "mla.h"
