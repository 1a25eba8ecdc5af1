/* main.c - linked with a program, makes what the machine gives it fail, as the environment says: see ../fail.h. */
#define FAIL_MAIN
#include "../fail.h"
