// bfloat16 products with float32 sums (vdpbf16ps): exact float32 logits from bfloat16 weights.
#include <stdint.h>
#include "api.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>

namespace tokenkernel {
namespace {

// A tile is ROWS tokens by COLUMNS ids: 8 x 3 accumulators, 3 loads of weights, 1 broadcast.
constexpr int64_t ROWS = 8, COLUMNS = 48;

// Weights as pairs of neighbours along D, 48 ids beside each other; what is missing is 0.
void pack(const uint16_t* b, int64_t ldb, int64_t n, int64_t d, uint16_t* packed) {
  const int64_t pairs = (d + 1) / 2;
  for (int64_t j0 = 0; j0 < n; j0 += COLUMNS) {
    uint32_t* out = reinterpret_cast<uint32_t*>(packed) + j0 * pairs;
    const int64_t width = n - j0 < COLUMNS ? n - j0 : COLUMNS;
    for (int64_t j = 0; j < width; ++j) {
      const uint16_t* row = b + (j0 + j) * ldb;
      for (int64_t k = 0; k < pairs; ++k) {
        const uint32_t high = 2 * k + 1 < d ? row[2 * k + 1] : 0;
        out[k * COLUMNS + j] = row[2 * k] | high << 16;
      }
    }
    for (int64_t j = width; j < COLUMNS; ++j) {
      for (int64_t k = 0; k < pairs; ++k) out[k * COLUMNS + j] = 0;
    }
  }
}

template <int R>
void tile(const uint16_t* a, int64_t lda, const uint32_t* b, float* c, int64_t ldc, int64_t width,
          int64_t d) {
  __m512 sums[R][3];
  for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = sums[r][2] = _mm512_setzero_ps();
  const int64_t whole = d / 2;
  for (int64_t k = 0; k < whole; ++k) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + k * COLUMNS);
    const __m512bh b1 = (__m512bh)_mm512_loadu_si512(b + k * COLUMNS + 16);
    const __m512bh b2 = (__m512bh)_mm512_loadu_si512(b + k * COLUMNS + 32);
    for (int r = 0; r < R; ++r) {
      int32_t both;
      __builtin_memcpy(&both, a + r * lda + 2 * k, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(both);
      sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, b0);
      sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, b1);
      sums[r][2] = _mm512_dpbf16_ps(sums[r][2], x, b2);
    }
  }
  if (d % 2) {
    const uint32_t* last = b + whole * COLUMNS;
    for (int r = 0; r < R; ++r) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(a[r * lda + d - 1]);
      for (int v = 0; v < 3; ++v) {
        sums[r][v] =
            _mm512_dpbf16_ps(sums[r][v], x, (__m512bh)_mm512_loadu_si512(last + 16 * v));
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < 3; ++v) {
      const int64_t left = width - 16 * v;
      if (left <= 0) break;
      const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
      _mm512_mask_storeu_ps(c + r * ldc + 16 * v, mask, sums[r][v]);
    }
  }
}

void product(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb, float* c, int64_t ldc,
             int64_t t, int64_t n, int64_t d, uint16_t* workspace) {
  pack(b, ldb, n, d, workspace);
  const int64_t pairs = (d + 1) / 2;
  for (int64_t j = 0; j < n; j += COLUMNS) {
    const uint32_t* packed = reinterpret_cast<const uint32_t*>(workspace) + j * pairs;
    const int64_t width = n - j < COLUMNS ? n - j : COLUMNS;
    int64_t i = 0;
    for (; i + ROWS <= t; i += ROWS) tile<8>(a + i * lda, lda, packed, c + i * ldc + j, ldc, width, d);
    for (; i < t; ++i) tile<1>(a + i * lda, lda, packed, c + i * ldc + j, ldc, width, d);
  }
}

}  // namespace

Bf16Product bf16_product() { return product; }
int64_t bf16_workspace(int64_t n, int64_t d) {
  return (n + COLUMNS - 1) / COLUMNS * COLUMNS * ((d + 1) / 2) * 2;
}

}  // namespace tokenkernel

#else

namespace tokenkernel {
Bf16Product bf16_product() { return nullptr; }
int64_t bf16_workspace(int64_t, int64_t) { return 0; }
}  // namespace tokenkernel

#endif
