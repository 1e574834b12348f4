// Python side of the trie: arrays in, arrays out.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "trie.h"

namespace nb = nanobind;

namespace tokenkernel {

namespace {

using Longs = nb::ndarray<const int64_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::device::cpu, nb::c_contig>;

constexpr int64_t MOST = 20'000'000;  // edges or paths held at once

const uint8_t* data_of(const nb::bytes& bytes) {
  return reinterpret_cast<const uint8_t*>(bytes.c_str());
}

template <typename T>
nb::object array(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner));
}

void need(bool holds, const char* what) {
  if (!holds) throw nb::value_error(what);
}

void check_offsets(const Longs& offsets, size_t bytes) {
  const int64_t* at = offsets.data();
  need(offsets.shape(0) >= 1 && at[0] == 0, "offsets must start at 0");
  for (size_t i = 1; i < offsets.shape(0); ++i) need(at[i] >= at[i - 1], "offsets must not fall");
  need(static_cast<size_t>(at[offsets.shape(0) - 1]) == bytes, "offsets must end with the bytes");
}

void make(Trie* self, const nb::bytes& bytes, const Longs& offsets, const Longs& ids) {
  check_offsets(offsets, bytes.size());
  need(offsets.shape(0) == ids.shape(0) + 1, "there must be one id for each token");
  need(bytes.size() < (1ull << 31), "the tokens have too many bytes together");
  const uint8_t* data = data_of(bytes);
  nb::gil_scoped_release release;
  new (self) Trie(data, offsets.data(), ids.data(), static_cast<int64_t>(ids.shape(0)));
}

nb::tuple matches(const Trie& trie, const nb::bytes& text, bool complete) {
  std::vector<Edge> found;
  bool fits;
  const uint8_t* data = data_of(text);
  const int64_t n = static_cast<int64_t>(text.size());
  {
    nb::gil_scoped_release release;
    fits = trie.matches(data, n, complete, MOST, &found);
  }
  need(fits, "there are more than 20,000,000 matches");
  std::vector<int64_t> start, end, ids;
  start.reserve(found.size());
  end.reserve(found.size());
  ids.reserve(found.size());
  for (const Edge& edge : found) {
    start.push_back(edge.start);
    end.push_back(edge.end);
    ids.push_back(trie.ids()[edge.token]);
  }
  return nb::make_tuple(array(std::move(start)), array(std::move(end)), array(std::move(ids)));
}

double log2_count(const Trie& trie, const nb::bytes& text) {
  const uint8_t* data = data_of(text);
  const int64_t n = static_cast<int64_t>(text.size());
  nb::gil_scoped_release release;
  return trie.log2_count(data, n);
}

nb::tuple best(const Trie& trie, const nb::bytes& text, int64_t k, nb::object cost) {
  need(k >= 1, "k must be at least 1");
  const double* costs_of = nullptr;
  Doubles kept;
  if (!cost.is_none()) {
    kept = nb::cast<Doubles>(cost);
    need(static_cast<int64_t>(kept.shape(0)) == trie.size(), "there must be one cost for each token");
    costs_of = kept.data();
  }
  std::vector<int64_t> tokens, lengths;
  std::vector<double> costs;
  bool fits;
  const uint8_t* data = data_of(text);
  const int64_t n = static_cast<int64_t>(text.size());
  {
    nb::gil_scoped_release release;
    fits = trie.best(data, n, k, costs_of, MOST, &tokens, &lengths, &costs);
    for (int64_t& token : tokens) token = trie.ids()[token];
  }
  need(fits, "the text is too long for so many sequences");
  return nb::make_tuple(array(std::move(tokens)), array(std::move(lengths)), array(std::move(costs)));
}

nb::object differing(const Longs& a_ends, const Longs& a_ids, const Longs& b_ends, const Longs& b_ids) {
  need(a_ends.shape(0) == a_ids.shape(0) && b_ends.shape(0) == b_ids.shape(0),
       "there must be one end for each id");
  for (const Longs* ends : {&a_ends, &b_ends}) {
    int64_t last = 0;
    for (size_t i = 0; i < ends->shape(0); ++i) {
      need(ends->data()[i] >= last, "ends must not fall");
      last = ends->data()[i];
    }
  }
  const int64_t a = static_cast<int64_t>(a_ids.shape(0)), b = static_cast<int64_t>(b_ids.shape(0));
  std::vector<Difference> found;
  differences(a_ends.data(), a_ids.data(), a, b_ends.data(), b_ids.data(), b, &found);
  std::vector<int64_t> flat;
  flat.reserve(found.size() * 6);
  for (const Difference& d : found) {
    for (int64_t value : {d.start, d.end, d.a_from, d.a_to, d.b_from, d.b_to}) flat.push_back(value);
  }
  return array(std::move(flat));
}

nb::object merges(const nb::bytes& bytes, const Longs& offsets) {
  check_offsets(offsets, bytes.size());
  const int64_t* at = offsets.data();
  const size_t count = offsets.shape(0) - 1;
  std::vector<std::string_view> tokens;
  tokens.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    tokens.emplace_back(bytes.c_str() + at[i], static_cast<size_t>(at[i + 1] - at[i]));
  }
  std::vector<int64_t> found;
  {
    nb::gil_scoped_release release;
    found = rank_merges(tokens);
  }
  return array(std::move(found));
}

}  // namespace

void add_trie(nb::module_& m) {
  nb::class_<Trie>(m, "Trie")
      .def("__init__", &make)
      .def_prop_ro("size", &Trie::size)
      .def_prop_ro("nodes", &Trie::nodes)
      .def_prop_ro("longest", &Trie::longest)
      .def("order", [](const Trie& trie) { return array(std::vector<int64_t>(trie.ids())); })
      .def("range", [](const Trie& trie, const nb::bytes& prefix) {
        int64_t low, high;
        trie.range(data_of(prefix), static_cast<int64_t>(prefix.size()), &low, &high);
        return std::make_pair(low, high);
      })
      .def("at", [](const Trie& trie, const nb::bytes& text, int64_t at) {
        const int64_t n = static_cast<int64_t>(text.size());
        need(at >= 0 && at <= n, "the place must lie in the text");
        std::vector<std::pair<int64_t, int64_t>> found;
        trie.each(data_of(text), n, at, [&](int64_t length, uint32_t first, uint32_t count) {
          for (uint32_t i = 0; i < count; ++i) found.emplace_back(at + length, trie.ids()[first + i]);
        });
        return found;
      })
      .def("matches", &matches)
      .def("log2_count", &log2_count)
      .def("best", &best, nb::arg(), nb::arg(), nb::arg().none());
  m.def("differences", &differing);
  m.def("rank_merges", &merges);
}

}  // namespace tokenkernel
