/* Macros that headers of systems define and that a library included after them must live with. */
#define near
#define far
#define small     char
#define interface struct
#define IN
#define OUT
#define I         _Complex_I
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
