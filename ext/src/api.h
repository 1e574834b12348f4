// What the kernels compute, for every instruction set alike. No standard library headers: an inline
// function compiled for a newer instruction set could otherwise be linked into code for older CPUs.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace tokenkernel {

enum Type : int { F32 = 0, BF16 = 1, F16 = 2 };

// Logits before the statistics: z = cap * tanh(scale * x / cap) / temperature, ids that are not
// `real` count as -inf. `scale` holds scale / temperature when there is no cap.
struct Prologue {
  float scale;          // 1: none
  float cap;            // 0: none
  float after;          // 1 / temperature when there is a cap, else 1
  const uint8_t* real;  // [V], null: all
};

// What is known of one row so far: sums about the reference `m`, S0 = sum e^(z-m), S1 and S2 the
// same with (z-m) and (z-m)^2, Q = sum e^2(z-m). Two states of disjoint ids add up to a third.
struct State {
  double m, s0, s1, s2, q, sum;
  int64_t count;           // ids with z > -inf
  int64_t larger, equal;   // than the target's logit, the target itself left out
  int32_t bad;             // a NaN or +inf was seen
  int32_t unused;
};

struct PairState {
  double mp, p0, p1, mq, q0, q1;  // as above for each side
  double pq, qp;                  // sum e^(p-mp) (q-mq) and the other way round
  int32_t bad, p_outside, q_outside;  // ids possible in p only; in q only
  int32_t unused;
};

// Second sweep: what needs both normalisers.
struct PairSums {
  double js, tv;
  double mc, c0;  // log-sum-exp of (1+beta) log p - beta log q as mc + log c0
};

struct Kernels {
  const char* name;
  int lanes;
  void (*reset)(State*, float* top_values, int64_t* top_ids, int k);
  // One row or a part of it: ids first .. first + n - 1. `target` is this row's id and `own` its
  // logit after the prologue.
  void (*update)(State*, float* top_values, int64_t* top_ids, int k, const void* x, Type type,
                 int64_t n, int64_t first, int64_t target, float own, const Prologue*,
                 float* scratch);
  void (*merge)(State*, float* top_values, int64_t* top_ids, const State* other,
                const float* other_values, const int64_t* other_ids, int k);
  float (*value)(const void* x, Type type, int64_t at, const Prologue*);
  // `kept`, if not null, gets the exponentials of both sides, KEPT(n) floats, for `pair_sums`.
  void (*pair)(PairState*, const void* p, const void* q, Type type, int64_t n, const Prologue*,
               const Prologue*, float* scratch, float* kept);
  void (*pair_sums)(PairSums*, const void* p, const void* q, Type type, int64_t n,
                    const Prologue*, const Prologue*, double log_zp, double log_zq, int js,
                    int contrast, double beta, float* scratch, const float* kept);
};

constexpr int64_t BLOCK = 2048;       // ids a state is brought up to date after; fits in L1
constexpr int64_t SCRATCH = 2 * BLOCK;  // floats a thread needs

// Per block: both references, then the exponentials of each side.
constexpr int64_t KEPT_BLOCK = 16 + 2 * BLOCK;
inline int64_t kept_floats(int64_t n) { return (n + BLOCK - 1) / BLOCK * KEPT_BLOCK; }

const Kernels* base_kernels();
const Kernels* avx2_kernels();    // null where the compiler had no such instruction set
const Kernels* avx512_kernels();

// C[T, N] (float, row stride ldc) = A[T, D] B[N, D]^T with bfloat16 products summed in float32.
// Packs into `workspace`; null where the instruction set is missing.
typedef void (*Bf16Product)(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb, float* c,
                            int64_t ldc, int64_t t, int64_t n, int64_t d, uint16_t* workspace);
Bf16Product bf16_product();
int64_t bf16_workspace(int64_t n, int64_t d);  // uint16 elements

}  // namespace tokenkernel
