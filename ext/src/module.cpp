// The Python module: checks shapes, picks the instruction set, shares rows among threads.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "api.h"

namespace nb = nanobind;
using namespace tokenkernel;

namespace tokenkernel {
void add_trie(nb::module_& m);  // trie_module.cpp
}

namespace {

using Matrix = nb::ndarray<nb::ndim<2>, nb::device::cpu, nb::ro>;
using Ids = nb::ndarray<const int64_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Floats = nb::ndarray<float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Doubles = nb::ndarray<double, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Longs = nb::ndarray<int64_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using FloatRows = nb::ndarray<float, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using LongRows = nb::ndarray<int64_t, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Mask = nb::ndarray<const bool, nb::ndim<1>, nb::device::cpu, nb::c_contig>;

constexpr float NONE = std::numeric_limits<float>::quiet_NaN();
constexpr double INF = std::numeric_limits<double>::infinity();

bool runs_here(const std::string& name) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  if (name == "avx512") {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
  }
  if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return name == "base";
#else
  return name == "base";
#endif
}

bool bf16_runs_here() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return bf16_product() != nullptr && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512f");
#else
  return false;
#endif
}

std::vector<const Kernels*> usable() {
  std::vector<const Kernels*> found;
  for (const Kernels* k : {avx512_kernels(), avx2_kernels(), base_kernels()}) {
    if (k != nullptr && runs_here(k->name)) found.push_back(k);
  }
  return found;
}

std::atomic<const Kernels*> chosen{nullptr};

const Kernels* kernels() {
  const Kernels* k = chosen.load();
  if (k == nullptr) {
    k = usable().front();
    chosen.store(k);
  }
  return k;
}

void use(const std::string& name) {
  for (const Kernels* k : usable()) {
    if (name == k->name) {
      chosen.store(k);
      return;
    }
  }
  throw nb::value_error(("this CPU or this build has no instruction set '" + name + "'").c_str());
}

Type type_of(const Matrix& x, const char* name) {
  if (x.dtype() == nb::dtype<float>()) return F32;
  if (x.dtype().bits == 16 && x.dtype().lanes == 1) {
    if (x.dtype().code == static_cast<uint8_t>(nb::dlpack::dtype_code::Bfloat)) return BF16;
    if (x.dtype().code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float)) return F16;
  }
  throw nb::type_error((std::string(name) + " must be float32, bfloat16 or float16").c_str());
}

size_t width_of(Type type) { return type == F32 ? 4 : 2; }

void need(bool holds, const std::string& what) {
  if (!holds) throw nb::value_error(what.c_str());
}

// A matrix whose rows are contiguous; rows may lie apart.
struct Rows {
  const char* data;
  int64_t n, v, stride;
  Type type;

  Rows(const Matrix& x, const char* name)
      : data(static_cast<const char*>(x.data())), n(x.shape(0)), v(x.shape(1)),
        stride(x.stride(0)), type(type_of(x, name)) {
    need(v <= 1 || x.stride(1) == 1,
         std::string(name) + " must have contiguous rows: call .contiguous() on it");
    need(v >= 1, std::string(name) + " has no columns");
  }
  const void* row(int64_t i) const { return data + i * stride * static_cast<int64_t>(width_of(type)); }
};

struct Change {
  Prologue prologue;
  Change(double scale, double cap, double temperature, const Mask* real, int64_t v) {
    need(std::isfinite(scale) && scale != 0, "scale must be finite and not 0");
    need(temperature > 0 && std::isfinite(temperature), "temperature must be above 0");
    need(cap >= 0 && std::isfinite(cap), "softcap must be 0 (none) or above");
    if (real != nullptr) {
      need(static_cast<int64_t>(real->shape(0)) == v, "real must have one entry for each id");
    }
    const bool capped = cap > 0;
    prologue.scale = static_cast<float>(capped ? scale : scale / temperature);
    prologue.cap = static_cast<float>(cap);
    prologue.after = static_cast<float>(capped ? 1 / temperature : 1);
    prologue.real = real == nullptr ? nullptr : reinterpret_cast<const uint8_t*>(real->data());
  }
};

void check_targets(const Ids& target, int64_t n, int64_t v) {
  need(static_cast<int64_t>(target.shape(0)) == n, "target must have one id for each row");
  for (int64_t i = 0; i < n; ++i) {
    need(target.data()[i] >= 0 && target.data()[i] < v,
         "target ids must lie between 0 and " + std::to_string(v - 1));
  }
}

int threads_for(int64_t items, int wanted) {
#ifdef _OPENMP
  const int most = wanted > 0 ? wanted : omp_get_max_threads();
#else
  const int most = 1;
  (void)wanted;
#endif
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(items, most)));
}

// State of T rows; blocks of the vocabulary are added in any order, other states merged in.
class Accumulator {
 public:
  Accumulator(int64_t rows, int k) : rows_(rows), k_(std::max(k, 2)), asked_(k) {
    need(rows >= 0, "rows must not be negative");
    need(k >= 0 && k <= 65536, "k must lie between 0 and 65536");
    states_.resize(rows);
    values_.resize(rows * k_);
    ids_.resize(rows * k_);
    own_.assign(rows, NONE);
    const Kernels* kernel = kernels();
    for (int64_t i = 0; i < rows; ++i) kernel->reset(&states_[i], values(i), ids(i), k_);
  }

  int64_t rows() const { return rows_; }
  int k() const { return asked_; }

  void update(const Matrix& block, int64_t first, const Ids& target, const Floats& own, double scale,
              double cap, double temperature, nb::object real, int threads) {
    const Rows x(block, "block");
    need(x.n == rows_, "block must have a row for each of the accumulator's");
    need(first >= 0, "first must not be negative");
    need(static_cast<int64_t>(target.shape(0)) == rows_, "target must have one id for each row");
    need(static_cast<int64_t>(own.shape(0)) == rows_, "own must have one logit for each row");
    Mask mask;
    if (!real.is_none()) mask = nb::cast<Mask>(real);
    const Change change(scale, cap, temperature, real.is_none() ? nullptr : &mask, x.v);
    const int64_t* ids_wanted = target.data();
    const float* logits = own.data();
    nb::gil_scoped_release release;
    std::copy(logits, logits + rows_, own_.begin());
    sweep(x, first, ids_wanted, change.prologue, threads);
  }

  void sweep(const Rows& x, int64_t first, const int64_t* target, const Prologue& prologue,
             int threads) {
    const Kernels* kernel = kernels();
    const int workers = threads_for(rows_, threads);
#pragma omp parallel num_threads(workers)
    {
      std::vector<float> scratch(SCRATCH);
#pragma omp for schedule(static)
      for (int64_t i = 0; i < rows_; ++i) {
        kernel->update(&states_[i], values(i), ids(i), k_, x.row(i), x.type, x.v, first, target[i],
                       own_[i], &prologue, scratch.data());
      }
    }
  }

  // All of it in one call: the target's logit is looked up first.
  void whole(const Rows& x, const int64_t* target, const Prologue& prologue, int threads) {
    const Kernels* kernel = kernels();
    for (int64_t i = 0; i < rows_; ++i) own_[i] = kernel->value(x.row(i), x.type, target[i], &prologue);
    const int workers = threads_for(1 << 30, threads);
    // Few long rows: the ids are shared among the threads, and what they found is merged.
    if (workers > 1 && rows_ * 2 < workers * 3 && x.v >= 16 * BLOCK) {
      split(x, target, prologue, workers);
    } else {
      sweep(x, 0, target, prologue, threads);
    }
  }

  void merge(const Accumulator& other, int threads) {
    need(&other != this, "an accumulator cannot be merged into itself");
    need(other.rows_ == rows_ && other.k_ == k_, "both accumulators must have the same rows and k");
    nb::gil_scoped_release release;
    const Kernels* kernel = kernels();
    (void)threads;
    for (int64_t i = 0; i < rows_; ++i) {
      kernel->merge(&states_[i], values(i), ids(i), &other.states_[i], other.values(i),
                    other.ids(i), k_);
      if (std::isnan(own_[i])) own_[i] = other.own_[i];
    }
  }

  void finish(const Floats& logz, const Floats& logprob, const Floats& entropy,
              const Floats& varentropy, const Floats& margin, const Floats& max_prob,
              const Floats& sum_p2, const Floats& self_certainty, const Longs& rank,
              const Longs& ties, const LongRows& top_ids, const FloatRows& top_logprobs) const {
    for (int64_t i = 0; i < rows_; ++i) {
      const State& s = states_[i];
      const float* top = values(i);
      const bool none = s.count == 0 && !s.bad, bad = s.bad != 0;
      const double log_z = bad ? NONE : none ? -INF : s.m + std::log(s.s0);
      const double mean = s.s1 / s.s0;
      const bool good = !bad && !none;
      logz.data()[i] = static_cast<float>(log_z);
      logprob.data()[i] = good ? static_cast<float>(std::min(0.0, own_[i] - log_z)) : NONE;
      entropy.data()[i] =
          good ? static_cast<float>(std::max(0.0, std::log(s.s0) - mean)) : NONE;
      varentropy.data()[i] =
          good ? static_cast<float>(std::max(0.0, s.s2 / s.s0 - mean * mean)) : NONE;
      margin.data()[i] = good && s.count > 1 ? top[0] - top[1] : NONE;
      max_prob.data()[i] = good ? static_cast<float>(std::min(1.0, std::exp(top[0] - log_z))) : NONE;
      sum_p2.data()[i] = good ? static_cast<float>(s.q / (s.s0 * s.s0)) : NONE;
      self_certainty.data()[i] = good ? static_cast<float>(log_z - s.sum / s.count) : NONE;
      rank.data()[i] = good ? s.larger + 1 : -1;
      ties.data()[i] = good ? s.equal : -1;
      for (int j = 0; j < asked_; ++j) {
        const bool there = good && ids(i)[j] >= 0;
        top_ids.data()[i * asked_ + j] = there ? ids(i)[j] : -1;
        top_logprobs.data()[i * asked_ + j] = there ? static_cast<float>(std::min(0.0, top[j] - log_z)) : NONE;
      }
    }
  }

 private:
  void split(const Rows& x, const int64_t* target, const Prologue& prologue, int workers) {
    const Kernels* kernel = kernels();
    const int64_t piece = (x.v / workers + BLOCK - 1) / BLOCK * BLOCK;
    std::vector<std::vector<float>> found(workers, std::vector<float>(k_));
    std::vector<std::vector<int64_t>> names(workers, std::vector<int64_t>(k_));
    std::vector<State> parts(workers);
    for (int64_t i = 0; i < rows_; ++i) {
      const char* row = static_cast<const char*>(x.row(i));
#pragma omp parallel for num_threads(workers) schedule(static)
      for (int w = 0; w < workers; ++w) {
        std::vector<float> scratch(SCRATCH);
        const int64_t from = std::min<int64_t>(w * piece, x.v), to = w + 1 == workers ? x.v : std::min(from + piece, x.v);
        Prologue mine = prologue;
        if (mine.real != nullptr) mine.real += from;
        kernel->reset(&parts[w], found[w].data(), names[w].data(), k_);
        kernel->update(&parts[w], found[w].data(), names[w].data(), k_,
                       row + from * static_cast<int64_t>(width_of(x.type)), x.type, to - from, from,
                       target[i], own_[i], &mine, scratch.data());
      }
      for (int w = 0; w < workers; ++w) {
        kernel->merge(&states_[i], values(i), ids(i), &parts[w], found[w].data(), names[w].data(), k_);
      }
    }
  }

  float* values(int64_t i) { return values_.data() + i * k_; }
  const float* values(int64_t i) const { return values_.data() + i * k_; }
  int64_t* ids(int64_t i) { return ids_.data() + i * k_; }
  const int64_t* ids(int64_t i) const { return ids_.data() + i * k_; }

  int64_t rows_;
  int k_, asked_;
  std::vector<State> states_;
  std::vector<float> values_, own_;
  std::vector<int64_t> ids_;
};

Accumulator token_stats(const Matrix& logits, const Ids& target, int k, double scale, double cap,
                        double temperature, nb::object real, int threads) {
  const Rows x(logits, "logits");
  check_targets(target, x.n, x.v);
  Mask mask;
  if (!real.is_none()) mask = nb::cast<Mask>(real);
  const Change change(scale, cap, temperature, real.is_none() ? nullptr : &mask, x.v);
  Accumulator made(x.n, k);
  const int64_t* ids = target.data();
  nb::gil_scoped_release release;
  made.whole(x, ids, change.prologue, threads);
  return made;
}

// Columns of `out` [9, n]: log p(y), log q(y), entropies of p and q, KL(p|q), KL(q|p), JS, TV,
// contrastive score.
void pair_stats(const Matrix& p_logits, const Matrix& q_logits, const Ids& target, bool js,
                nb::object beta, double temperature, nb::object real, const FloatRows& out,
                int threads) {
  const Rows p(p_logits, "p_logits"), q(q_logits, "q_logits");
  need(p.n == q.n && p.v == q.v, "p_logits and q_logits must have the same shape");
  need(p.type == q.type, "p_logits and q_logits must have the same dtype");
  check_targets(target, p.n, p.v);
  need(out.shape(0) == 9 && static_cast<int64_t>(out.shape(1)) == p.n, "out must be [9, n]");
  Mask mask;
  if (!real.is_none()) mask = nb::cast<Mask>(real);
  const Change change(1, 0, temperature, real.is_none() ? nullptr : &mask, p.v);
  const bool contrast = !beta.is_none();
  const double b = contrast ? nb::cast<double>(beta) : 0;
  need(std::isfinite(b), "beta must be finite");
  const int64_t* ids = target.data();
  float* result = out.data();
  nb::gil_scoped_release release;
  const Kernels* kernel = kernels();
  const int64_t n = p.n;
  const Prologue& g = change.prologue;
#pragma omp parallel num_threads(threads_for(n, threads))
  {
    std::vector<float> scratch(SCRATCH), kept(js || contrast ? kept_floats(p.v) : 0);
    float* const exponentials = kept.empty() ? nullptr : kept.data();
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; ++i) {
      PairState s{-INF, 0, 0, -INF, 0, 0, 0, 0, 0, 0, 0, 0};
      kernel->pair(&s, p.row(i), q.row(i), p.type, p.v, &g, &g, scratch.data(),
                   exponentials);
      auto set = [&](int column, double value) { result[column * n + i] = static_cast<float>(value); };
      if (s.bad || s.p0 == 0 || s.q0 == 0) {
        for (int c = 0; c < 9; ++c) set(c, NONE);
        continue;
      }
      const double zp = s.mp + std::log(s.p0), zq = s.mq + std::log(s.q0);
      const double lp = kernel->value(p.row(i), p.type, ids[i], &g) - zp;
      const double lq = kernel->value(q.row(i), q.type, ids[i], &g) - zq;
      const double hp = std::log(s.p0) - s.p1 / s.p0, hq = std::log(s.q0) - s.q1 / s.q0;
      set(0, lp);
      set(1, lq);
      set(2, std::max(0.0, hp));
      set(3, std::max(0.0, hq));
      set(4, s.p_outside ? INF : std::max(0.0, -hp - s.pq / s.p0 + std::log(s.q0)));
      set(5, s.q_outside ? INF : std::max(0.0, -hq - s.qp / s.q0 + std::log(s.p0)));
      if (js || contrast) {
        PairSums sums{0, 0, -INF, 0};
        kernel->pair_sums(&sums, p.row(i), q.row(i), p.type, p.v, &g, &g, zp, zq, js, contrast, b,
                          scratch.data(), exponentials);
        set(6, js ? std::min(std::max(sums.js, 0.0), std::log(2.0)) : NONE);
        set(7, js ? std::min(sums.tv, 1.0) : NONE);
        set(8, contrast ? (b == 0 ? lp : (1 + b) * lp - b * lq) - (sums.mc + std::log(sums.c0)) : NONE);
      } else {
        for (int c = 6; c < 9; ++c) set(c, NONE);
      }
    }
  }
}

// out[t, n] = hidden[t] . weight[n] in float32, both bfloat16.
void bf16_logits(const Matrix& hidden, const Matrix& weight, const FloatRows& out, int threads) {
  const Rows h(hidden, "hidden"), w(weight, "weight");
  need(h.type == BF16 && w.type == BF16, "hidden and weight must be bfloat16");
  need(h.v == w.v, "hidden and weight must have the same width");
  need(static_cast<int64_t>(out.shape(0)) == h.n && static_cast<int64_t>(out.shape(1)) == w.n,
       "out must be [rows of hidden, rows of weight]");
  need(bf16_runs_here(), "this CPU or this build has no bfloat16 products");
  const Bf16Product product = bf16_product();
  float* c = out.data();
  const int64_t ldc = w.n;
  nb::gil_scoped_release release;
  // Each thread takes a stretch of ids, in parts whose packed weights stay in the second cache.
  const int64_t part = 96;
  const int64_t parts = (w.n + part - 1) / part;
#pragma omp parallel num_threads(threads_for(parts, threads))
  {
    std::vector<uint16_t> workspace(bf16_workspace(part, h.v));
#pragma omp for schedule(static)
    for (int64_t j = 0; j < parts; ++j) {
      const int64_t from = j * part, count = std::min(part, w.n - from);
      product(static_cast<const uint16_t*>(h.row(0)), h.stride,
              static_cast<const uint16_t*>(w.row(from)), w.stride, c + from, ldc, h.n, count, h.v,
              workspace.data());
    }
  }
}

}  // namespace

NB_MODULE(_kernel, m) {
  m.doc() = "Compiled part of tokenkernel; use the functions of tokenkernel, which check and explain.";
  nb::class_<Accumulator>(m, "Accumulator")
      .def(nb::init<int64_t, int>())
      .def_prop_ro("rows", &Accumulator::rows)
      .def_prop_ro("k", &Accumulator::k)
      .def("update", &Accumulator::update, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg(), nb::arg().none(), nb::arg())
      .def("merge", &Accumulator::merge)
      .def("finish", &Accumulator::finish);
  m.def("token_stats", &token_stats, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
        nb::arg().none(), nb::arg());
  m.def("pair_stats", &pair_stats, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(),
        nb::arg(), nb::arg().none(), nb::arg(), nb::arg());
  m.def("bf16_logits", &bf16_logits);
  add_trie(m);
  m.def("has_bf16", &bf16_runs_here);
  m.def("use", &use);
  m.def("isa", [] { return std::string(kernels()->name); });
  m.def("available", [] {
    std::vector<std::string> names;
    for (const Kernels* k : usable()) names.push_back(k->name);
    return names;
  });
}
