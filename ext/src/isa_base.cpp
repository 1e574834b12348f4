#define TOKENKERNEL_BASE
#define TOKENKERNEL_SET base_kernels
#define NAME "base"
#include "kernel.inc"
