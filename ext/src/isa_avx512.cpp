#include "api.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)
#define TOKENKERNEL_AVX512
#define TOKENKERNEL_SET avx512_kernels
#define NAME "avx512"
#include "kernel.inc"
#else
namespace tokenkernel {
const Kernels* avx512_kernels() { return nullptr; }
}
#endif
