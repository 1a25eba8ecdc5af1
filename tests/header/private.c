/* private.c - a private copy: everything static, beside another translation unit's copy. */
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#define MLA_API static
#define MLA_IMPLEMENTATION
#include "mla.h"

int private_scalar(void);
int private_scalar(void) { return mla_isa_available(MLA_ISA_SCALAR); }
