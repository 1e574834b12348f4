// A byte trie over a vocabulary, and what is counted and searched with it.
//
// Tokens are kept in the order of their bytes, so a node is a range of that order: its own tokens
// first, those of its children after them. Tokens of zero bytes stand for nothing and are left out.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace tokenkernel {

struct Edge {
  int64_t start, end, token;  // token: place in the order of bytes
};

struct Difference {
  int64_t start, end, a_from, a_to, b_from, b_to;
};

class Trie {
 public:
  // `bytes` holds all tokens one after the other; token i is bytes[offsets[i] .. offsets[i + 1]).
  Trie(const uint8_t* bytes, const int64_t* offsets, const int64_t* ids, int64_t count);

  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  int64_t nodes() const { return static_cast<int64_t>(nodes_.size()); }
  int64_t longest() const { return longest_; }
  const std::vector<int64_t>& ids() const { return ids_; }  // in the order of bytes

  // Calls f(length, first, count) for every length at which tokens match data[at ..].
  template <typename F>
  void each(const uint8_t* data, int64_t n, int64_t at, F f) const {
    uint32_t node = 0;
    for (int64_t i = at; i < n; ++i) {
      node = child(node, data[i]);
      if (node == 0) return;
      const Node& here = nodes_[node];
      if (here.own != 0) f(i + 1 - at, here.low, here.own);
    }
  }

  // Places in the order of bytes of the tokens that start with `prefix`.
  void range(const uint8_t* prefix, int64_t n, int64_t* low, int64_t* high) const;

  // All matches in data, by start, then length; `complete` keeps those on a path from end to end.
  // False when there would be more than `most`.
  bool matches(const uint8_t* data, int64_t n, bool complete, int64_t most,
               std::vector<Edge>* found) const;

  // log2 of the number of token sequences that spell data; -infinity if there is none.
  double log2_count(const uint8_t* data, int64_t n) const;

  // The k cheapest token sequences that spell data: tokens' places one after the other, the
  // length of each sequence, its cost. `cost` is by place in the order of bytes, null for 1 each.
  // Of equal costs: longer last token first, then the smaller id, then the earlier beginning.
  bool best(const uint8_t* data, int64_t n, int64_t k, const double* cost, int64_t most,
            std::vector<int64_t>* tokens, std::vector<int64_t>* lengths,
            std::vector<double>* costs) const;

 private:
  struct Node {
    uint32_t first;  // first child; children lie side by side
    uint32_t low;    // first of its range
    uint32_t own;    // tokens that end here
    int32_t table;   // number of its table of 256 children, -1 for few children
    uint32_t kids;
  };

  uint32_t child(uint32_t node, uint8_t byte) const {
    const Node& here = nodes_[node];
    if (here.table >= 0) return tables_[static_cast<size_t>(here.table) * 256 + byte];
    const uint8_t* labels = labels_.data() + here.first;
    for (uint32_t i = 0; i < here.kids; ++i) {
      if (labels[i] == byte) return here.first + i;
    }
    return 0;  // the root is nobody's child
  }

  std::vector<Node> nodes_;
  std::vector<uint8_t> labels_;
  std::vector<uint32_t> high_;    // byte after the range of each node
  std::vector<uint32_t> tables_;
  std::vector<int64_t> ids_;
  int64_t longest_ = 0;
};

// Where two cuttings of the same bytes differ: stretches between boundaries both have.
void differences(const int64_t* a_ends, const int64_t* a_ids, int64_t a, const int64_t* b_ends,
                 const int64_t* b_ids, int64_t b, std::vector<Difference>* found);

// For each token, in order of rank, where byte-pair merging with the ranks below its own leaves
// it in two parts; 0 if it does not.
std::vector<int64_t> rank_merges(const std::vector<std::string_view>& tokens);

}  // namespace tokenkernel
