// Trie, counts, cheapest sequences; see trie.h.
#include "trie.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <queue>
#include <tuple>
#include <unordered_map>

namespace tokenkernel {

namespace {

constexpr uint32_t FEW = 6;  // children that are looked through one by one
constexpr int STEP = 512;    // bits of one unit of a scaled number's exponent
constexpr int64_t LONGEST_MERGED = 4096;

}  // namespace

Trie::Trie(const uint8_t* bytes, const int64_t* offsets, const int64_t* ids, int64_t count) {
  auto text = [&](int64_t i) {
    return std::string_view(reinterpret_cast<const char*>(bytes) + offsets[i],
                            static_cast<size_t>(offsets[i + 1] - offsets[i]));
  };
  // Most tokens are told apart by their first eight bytes, compared as one number.
  struct Key {
    uint64_t head;
    int64_t token;
  };
  std::vector<Key> keys;
  keys.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    const std::string_view token = text(i);
    if (token.empty()) continue;
    uint64_t head = 0;
    for (size_t b = 0; b < 8; ++b) {
      head = head << 8 | (b < token.size() ? static_cast<uint8_t>(token[b]) : 0);
    }
    keys.push_back({head, i});
  }
  std::sort(keys.begin(), keys.end(), [&](const Key& a, const Key& b) {
    if (a.head != b.head) return a.head < b.head;
    const int c = text(a.token).compare(text(b.token));
    return c != 0 ? c < 0 : ids[a.token] < ids[b.token];
  });
  std::vector<int64_t> order;
  order.reserve(keys.size());
  for (const Key& key : keys) order.push_back(key.token);
  ids_.reserve(order.size());
  for (int64_t i : order) {
    ids_.push_back(ids[i]);
    longest_ = std::max(longest_, static_cast<int64_t>(text(i).size()));
  }
  // Breadth first, so that the children of a node lie side by side.
  nodes_.push_back({0, 0, 0, -1, 0});
  labels_.push_back(0);
  high_.push_back(static_cast<uint32_t>(order.size()));
  std::vector<uint32_t> depth{0};
  for (size_t node = 0; node < nodes_.size(); ++node) {
    const uint32_t at = depth[node];
    uint32_t i = nodes_[node].low;
    const uint32_t end = high_[node];
    while (i < end && text(order[i]).size() == at) ++i;
    nodes_[node].own = i - nodes_[node].low;
    nodes_[node].first = static_cast<uint32_t>(nodes_.size());
    uint32_t kids = 0;
    while (i < end) {
      const uint8_t byte = static_cast<uint8_t>(text(order[i])[at]);
      uint32_t j = i + 1;
      while (j < end && static_cast<uint8_t>(text(order[j])[at]) == byte) ++j;
      nodes_.push_back({0, i, 0, -1, 0});
      labels_.push_back(byte);
      high_.push_back(j);
      depth.push_back(at + 1);
      ++kids;
      i = j;
    }
    nodes_[node].kids = kids;
    if (kids > FEW) {
      nodes_[node].table = static_cast<int32_t>(tables_.size() / 256);
      tables_.resize(tables_.size() + 256, 0);
      uint32_t* table = tables_.data() + tables_.size() - 256;
      const uint32_t first = nodes_[node].first;
      for (uint32_t kid = 0; kid < kids; ++kid) table[labels_[first + kid]] = first + kid;
    }
  }
}

void Trie::range(const uint8_t* prefix, int64_t n, int64_t* low, int64_t* high) const {
  uint32_t node = 0;
  for (int64_t i = 0; i < n; ++i) {
    node = child(node, prefix[i]);
    if (node == 0) {
      *low = *high = 0;
      return;
    }
  }
  *low = nodes_[node].low;
  *high = high_[node];
}

bool Trie::matches(const uint8_t* data, int64_t n, bool complete, int64_t most,
                   std::vector<Edge>* found) const {
  std::vector<char> reached(n + 1, complete ? 0 : 1);
  reached[0] = 1;
  bool fits = true;
  for (int64_t at = 0; at < n && fits; ++at) {
    if (!reached[at]) continue;
    each(data, n, at, [&](int64_t length, uint32_t first, uint32_t count) {
      reached[at + length] = 1;
      if (static_cast<int64_t>(found->size()) + count > most) {
        fits = false;
        return;
      }
      for (uint32_t i = 0; i < count; ++i) found->push_back({at, at + length, first + i});
    });
  }
  if (!fits) return false;
  if (complete) {
    std::vector<char> leads(n + 1, 0);
    leads[n] = 1;
    for (size_t i = found->size(); i-- > 0;) {
      if (leads[(*found)[i].end]) leads[(*found)[i].start] = 1;
    }
    found->erase(std::remove_if(found->begin(), found->end(),
                                [&](const Edge& e) { return !leads[e.end]; }),
                 found->end());
  }
  return true;
}

double Trie::log2_count(const uint8_t* data, int64_t n) const {
  // Numbers m * 2^(STEP * e), in a ring as long as the longest token.
  int64_t size = 1;
  while (size <= longest_) size *= 2;
  const int64_t mask = size - 1;
  std::vector<double> m(size, 0.0);
  std::vector<int64_t> e(size, 0);
  m[0] = 1;
  const double big = std::ldexp(1.0, STEP), small = std::ldexp(1.0, -STEP);
  for (int64_t at = 0; at < n; ++at) {
    double value = m[at & mask];
    int64_t power = e[at & mask];
    m[at & mask] = 0;
    if (value == 0) continue;
    if (value > big) {
      value *= small;
      ++power;
    }
    each(data, n, at, [&](int64_t length, uint32_t, uint32_t count) {
      const int64_t to = (at + length) & mask;
      const double more = value * count;
      if (e[to] == power && m[to] != 0) {
        m[to] += more;
      } else if (m[to] == 0) {
        m[to] = more;
        e[to] = power;
      } else if (power > e[to]) {
        m[to] = more + (power - e[to] > 3 ? 0 : std::ldexp(m[to], -STEP * static_cast<int>(power - e[to])));
        e[to] = power;
      } else if (e[to] - power <= 3) {
        m[to] += std::ldexp(more, -STEP * static_cast<int>(e[to] - power));
      }
    });
  }
  const double last = m[n & mask];
  if (last == 0) return -std::numeric_limits<double>::infinity();
  return std::log2(last) + static_cast<double>(STEP) * static_cast<double>(e[n & mask]);
}

bool Trie::best(const uint8_t* data, int64_t n, int64_t k, const double* cost, int64_t most,
                std::vector<int64_t>* tokens, std::vector<int64_t>* lengths,
                std::vector<double>* costs) const {
  std::vector<Edge> edges;
  if (!matches(data, n, true, most, &edges)) return false;
  std::vector<int64_t> into(n + 2, 0);
  for (const Edge& edge : edges) ++into[edge.end + 1];
  std::partial_sum(into.begin(), into.end(), into.begin());
  // By end, then start: the edges come by start, and equal bytes by id.
  std::vector<int64_t> sorted(edges.size());
  std::vector<int64_t> place(into.begin(), into.end() - 1);
  for (size_t i = 0; i < edges.size(); ++i) sorted[place[edges[i].end]++] = static_cast<int64_t>(i);

  struct Path {
    double cost;
    int64_t edge, rank;  // how it ends, and which of the paths before it continues
  };
  std::vector<std::vector<Path>> paths(n + 1);
  paths[0].push_back({0, -1, 0});
  int64_t kept = 0;
  for (int64_t end = 1; end <= n; ++end) {
    if (into[end] == into[end + 1]) continue;
    using Item = std::tuple<double, int64_t, int64_t>;  // cost, place among the edges, rank
    std::priority_queue<Item, std::vector<Item>, std::greater<Item>> next;
    auto offer = [&](int64_t at, int64_t rank) {
      const Edge& edge = edges[sorted[at]];
      const std::vector<Path>& before = paths[edge.start];
      if (rank < static_cast<int64_t>(before.size())) {
        next.emplace(before[rank].cost + (cost == nullptr ? 1.0 : cost[edge.token]), at, rank);
      }
    };
    for (int64_t at = into[end]; at < into[end + 1]; ++at) offer(at, 0);
    std::vector<Path>& here = paths[end];
    while (!next.empty() && static_cast<int64_t>(here.size()) < k) {
      const auto [total, at, rank] = next.top();
      next.pop();
      here.push_back({total, sorted[at], rank});
      offer(at, rank + 1);
    }
    kept += static_cast<int64_t>(here.size());
    if (kept > most) return false;
  }
  for (const Path& last : paths[n]) {
    if (n == 0) break;
    std::vector<int64_t> backwards;
    const Path* path = &last;
    while (path->edge >= 0) {
      const Edge& edge = edges[path->edge];
      backwards.push_back(edge.token);
      path = &paths[edge.start][path->rank];
    }
    tokens->insert(tokens->end(), backwards.rbegin(), backwards.rend());
    lengths->push_back(static_cast<int64_t>(backwards.size()));
    costs->push_back(last.cost);
  }
  return true;
}

void differences(const int64_t* a_ends, const int64_t* a_ids, int64_t a, const int64_t* b_ends,
                 const int64_t* b_ids, int64_t b, std::vector<Difference>* found) {
  int64_t i = 0, j = 0, start = 0;
  while (i < a || j < b) {
    const int64_t i0 = i, j0 = j;
    int64_t i_end = start, j_end = start;
    bool same = true;
    // To the next boundary both have; tokens of zero bytes are passed over.
    do {
      const bool left = i < a && (i_end <= j_end || j == b);
      if (left) {
        if (a_ends[i] == i_end) {
          ++i;
          continue;
        }
        i_end = a_ends[i++];
      } else if (j < b) {
        if (b_ends[j] == j_end) {
          ++j;
          continue;
        }
        j_end = b_ends[j++];
      } else {
        break;
      }
    } while (i_end != j_end || i_end == start);
    if (i_end == start && j_end == start) break;  // nothing but tokens of zero bytes was left
    const int64_t end = std::max(i_end, j_end);
    int64_t p = i0, q = j0, p_end = start, q_end = start;
    while (same) {
      while (p < i && a_ends[p] == p_end) ++p;
      while (q < j && b_ends[q] == q_end) ++q;
      if (p == i || q == j) {
        same = p == i && q == j;
        break;
      }
      same = a_ids[p] == b_ids[q] && a_ends[p] == b_ends[q];
      p_end = a_ends[p++];
      q_end = b_ends[q++];
    }
    if (!same) found->push_back({start, end, i0, i, j0, j});
    start = end;
  }
}

std::vector<int64_t> rank_merges(const std::vector<std::string_view>& tokens) {
  std::unordered_map<std::string_view, int64_t> ranks;
  ranks.reserve(tokens.size() * 2);
  for (size_t i = 0; i < tokens.size(); ++i) ranks.emplace(tokens[i], static_cast<int64_t>(i));
  std::vector<int64_t> cuts(tokens.size(), 0), parts;
  for (size_t r = 0; r < tokens.size(); ++r) {
    const std::string_view token = tokens[r];
    const int64_t n = static_cast<int64_t>(token.size());
    if (n < 2 || n > LONGEST_MERGED) continue;
    parts.resize(n + 1);
    std::iota(parts.begin(), parts.end(), 0);
    while (parts.size() > 3) {
      int64_t best = static_cast<int64_t>(r);
      size_t where = 0;
      for (size_t p = 0; p + 2 < parts.size(); ++p) {
        const auto pair = ranks.find(token.substr(parts[p], parts[p + 2] - parts[p]));
        if (pair != ranks.end() && pair->second < best) {
          best = pair->second;
          where = p + 1;
        }
      }
      if (where == 0) break;
      parts.erase(parts.begin() + static_cast<int64_t>(where));
    }
    if (parts.size() == 3) cuts[r] = parts[1];
  }
  return cuts;
}

}  // namespace tokenkernel
