// Vectors of floats for the instruction set this file is compiled for.
#pragma once
#include <stdint.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__) && defined(TOKENKERNEL_AVX512)
constexpr int LANES = 16;
#elif defined(__AVX2__) && defined(TOKENKERNEL_AVX2)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t I __attribute__((vector_size(LANES * 4)));
typedef uint32_t U __attribute__((vector_size(LANES * 4)));
typedef uint16_t H __attribute__((vector_size(LANES * 2)));
typedef float VU __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint16_t HU __attribute__((vector_size(LANES * 2), aligned(2)));

inline V all(float x) { return x - V{}; }
inline V load(const float* p) { return *reinterpret_cast<const VU*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<VU*>(p) = v; }

inline V largest(V a, V b) {
#if defined(TOKENKERNEL_AVX512)
  return reinterpret_cast<V>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(TOKENKERNEL_AVX2)
  return reinterpret_cast<V>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a > b ? a : b;
#endif
}

inline V fma(V a, V b, V c) {
#if defined(TOKENKERNEL_AVX512)
  return reinterpret_cast<V>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b),
                                             reinterpret_cast<__m512>(c)));
#elif defined(TOKENKERNEL_AVX2)
  return reinterpret_cast<V>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b),
                                             reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

// Bit i is set where a[i] > b[i]; quiet, false for NaN.
inline uint32_t greater(V a, V b) {
#if defined(TOKENKERNEL_AVX512)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_GT_OQ);
#elif defined(TOKENKERNEL_AVX2)
  return static_cast<uint32_t>(_mm256_movemask_ps(
      _mm256_cmp_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), _CMP_GT_OQ)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(
      _mm_movemask_ps(_mm_cmpgt_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b))));
#else
  uint32_t bits = 0;
  for (int i = 0; i < LANES; ++i) bits |= static_cast<uint32_t>(a[i] > b[i]) << i;
  return bits;
#endif
}

inline uint32_t same(V a, V b) {
#if defined(TOKENKERNEL_AVX512)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_EQ_OQ);
#elif defined(TOKENKERNEL_AVX2)
  return static_cast<uint32_t>(_mm256_movemask_ps(
      _mm256_cmp_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), _CMP_EQ_OQ)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(
      _mm_movemask_ps(_mm_cmpeq_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b))));
#else
  uint32_t bits = 0;
  for (int i = 0; i < LANES; ++i) bits |= static_cast<uint32_t>(a[i] == b[i]) << i;
  return bits;
#endif
}

inline int ones(uint32_t bits) {
#if defined(TOKENKERNEL_AVX512) || defined(TOKENKERNEL_AVX2)
  return __builtin_popcount(bits);
#else
  bits = (bits & 5u) + ((bits >> 1) & 5u);  // four lanes
  return static_cast<int>((bits & 3u) + (bits >> 2));
#endif
}

inline float sum(V v) {
  float s = 0;
  for (int i = 0; i < LANES; ++i) s += v[i];
  return s;
}

inline float most(V v) {
  float m = v[0];
  for (int i = 1; i < LANES; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// e^x for x <= 0 (down to -1e4, where it is 0): 2^n 2^f, |f| <= 1/2, relative error 1e-7.
inline V exp_of(V x) {
  const V log2e = all(1.44269504088896341f);
#if defined(TOKENKERNEL_AVX512)
  const __m512 xs = reinterpret_cast<__m512>(x), l = reinterpret_cast<__m512>(log2e);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(xs, l), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const V f = reinterpret_cast<V>(_mm512_fmsub_ps(xs, l, n));
#else
  const V magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const V low = all(-125.0f * 0.6931471806f);
  const U tiny = reinterpret_cast<U>(x < low);
  x = largest(x, low);
  const V shifted = fma(x, log2e, magic);
  const V n = shifted - magic;
#if defined(TOKENKERNEL_AVX2)
  const V f = fma(x, log2e, -n);
#else
  // Without fused products: ln 2 in two parts, so that the difference is exact where it matters.
  const V f = ((x - n * all(0.693359375f)) + n * all(2.12194440e-4f)) * log2e;
#endif
#endif
  V p = all(0.0013264726907770688f);
  p = fma(p, f, all(0.009671512660383063f));
  p = fma(p, f, all(0.05550733744214328f));
  p = fma(p, f, all(0.2402224208492313f));
  p = fma(p, f, all(0.6931469775984938f));
  p = fma(p, f, all(1.0f));
#if defined(TOKENKERNEL_AVX512)
  return reinterpret_cast<V>(_mm512_scalef_ps(reinterpret_cast<__m512>(p), n));
#else
  const U power = reinterpret_cast<U>(p) + (reinterpret_cast<U>(shifted) << 23);
  return reinterpret_cast<V>(power & ~tiny);
#endif
}

inline V widen_bf16(const uint16_t* p) {
#if defined(TOKENKERNEL_AVX512)
  const __m512i wide =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return reinterpret_cast<V>(_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
#elif defined(TOKENKERNEL_AVX2)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return reinterpret_cast<V>(_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
#else
  U wide;
  for (int i = 0; i < LANES; ++i) wide[i] = static_cast<uint32_t>(p[i]) << 16;
  return reinterpret_cast<V>(wide);
#endif
}

inline float widen_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t rest = h & 0x7fffu;
  union { uint32_t bits; float value; } made, scale;
  if (rest >= 0x7c00u) {  // infinity, NaN
    made.bits = sign | 0x7f800000u | ((rest & 0x3ffu) << 13);
    return made.value;
  }
  made.bits = rest << 13;
  scale.bits = 0x77800000u;  // 2^112 puts the exponent right, for small numbers too
  made.value *= scale.value;
  made.bits |= sign;
  return made.value;
}

inline V widen_f16(const uint16_t* p) {
#if defined(TOKENKERNEL_AVX512)
  return reinterpret_cast<V>(
      _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(TOKENKERNEL_AVX2)
  return reinterpret_cast<V>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  V wide;
  for (int i = 0; i < LANES; ++i) wide[i] = widen_f16(p[i]);
  return wide;
#endif
}

}  // namespace
