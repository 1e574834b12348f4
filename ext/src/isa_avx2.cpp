#include "api.h"

#if defined(__AVX2__) && defined(__FMA__)
#define TOKENKERNEL_AVX2
#define TOKENKERNEL_SET avx2_kernels
#define NAME "avx2"
#include "kernel.inc"
#else
namespace tokenkernel {
const Kernels* avx2_kernels() { return nullptr; }
}
#endif
