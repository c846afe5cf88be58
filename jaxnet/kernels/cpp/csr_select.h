// Keys of one list or two: the smallest without sorting, all in order, and where one list's stand in another.

#ifndef JAXNET_KERNELS_CSR_SELECT_H_
#define JAXNET_KERNELS_CSR_SELECT_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "csr_call.h"
#include "csr_runtime.h"

namespace jaxnet {

// Where the `number` smallest keys of each seed stand, ascending; the earlier of equal ones. A key of
// INT32_MAX is never taken. What remains of the result is `size`, a position that does not exist.
//
// A bound from a sample leaves few candidates, from which the exact bound is found; where it was too low,
// the next one is higher.
class SelectJob final : public Job {
 public:
  int64_t num_units() const override { return seeds; }

  void RunUnit(int64_t seed) override {
    const int32_t* const key = keys[seed];
    int32_t* const found = positions[seed];
    const int64_t wanted = std::clamp<int64_t>(*number[seed], 0, room);
    int64_t taken = 0;
    if (wanted > 0) {
      auto* const buffer = reinterpret_cast<int32_t*>(Scratch(kScratchX, 2 * size));
      int32_t *const candidate = buffer, *const scratch = buffer + size;
      const int64_t count = Candidates(key, wanted, candidate, scratch);
      if (count <= wanted) {
        taken = count;
        std::copy(candidate, candidate + count, found);
      } else {
        taken = Smallest(key, candidate, count, wanted, scratch, found);
      }
    }
    std::fill(found + taken, found + room, static_cast<int32_t>(size));
  }

  int64_t seeds = 0, size = 0, room = 0;
  Operand<const int32_t> keys, number;
  Operand<int32_t> positions;

 private:
  static constexpr int32_t kNever = std::numeric_limits<int32_t>::max();
  static constexpr int64_t kStride = 61;  // of the sample; a prime, so that it does not follow the columns
  static constexpr int64_t kBlock = 32;

  // At least `wanted` positions whose keys are below a bound, ascending, or all that may be taken.
  int64_t Candidates(const int32_t* key, int64_t wanted, int32_t* candidate, int32_t* sample) const {
    const int64_t sampled = size / kStride;
    for (int64_t i = 0; i < sampled; ++i) sample[i] = key[i * kStride];
    int64_t rank = wanted / kStride * 5 / 4 + 24;
    for (int64_t begin = 0; rank < sampled; rank = 3 * rank + 1) {
      std::nth_element(sample + begin, sample + rank, sample + sampled);
      const int32_t bound = sample[rank];
      if (bound == kNever) break;
      const int64_t count = Below(key, bound, candidate);
      if (count >= wanted) return count;
      begin = rank;
    }
    return Below(key, kNever - 1, candidate);
  }

  // All positions whose keys are at most the bound.
  int64_t Below(const int32_t* key, int32_t bound, int32_t* candidate) const {
    int64_t count = 0, i = 0;
    for (; i + kBlock <= size; i += kBlock) {
      int32_t any = 0;
      for (int64_t j = 0; j < kBlock; ++j) any |= key[i + j] <= bound;
      if (!any) continue;
      for (int64_t j = 0; j < kBlock; ++j) {
        candidate[count] = static_cast<int32_t>(i + j);
        count += key[i + j] <= bound;
      }
    }
    for (; i < size; ++i) {
      candidate[count] = static_cast<int32_t>(i);
      count += key[i] <= bound;
    }
    return count;
  }

  static int64_t Smallest(const int32_t* key, const int32_t* candidate, int64_t count, int64_t wanted,
                          int32_t* scratch, int32_t* found) {
    for (int64_t i = 0; i < count; ++i) scratch[i] = key[candidate[i]];
    std::nth_element(scratch, scratch + wanted - 1, scratch + count);
    const int32_t bound = scratch[wanted - 1];
    int64_t ties = wanted - std::count_if(scratch, scratch + wanted - 1, [=](int32_t k) { return k < bound; });
    int64_t taken = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t here = key[candidate[i]];
      if (here < bound || (here == bound && ties-- > 0)) found[taken++] = candidate[i];
    }
    return taken;
  }
};

// All keys ascending. Two lists that ascend already, one after the other with gaps of INT32_MAX in
// them, are merged.
class SortJob final : public Job {
 public:
  int64_t num_units() const override { return seeds; }

  void RunUnit(int64_t seed) override {
    const int32_t* const key = keys[seed];
    int32_t* const to = sorted[seed];
    int64_t count = 0, second = 0, falls = 0;
    for (int64_t i = 0; i < size; ++i) {
      if (key[i] == std::numeric_limits<int32_t>::max()) continue;
      if (count > 0 && key[i] < to[count - 1]) {
        second = count;
        ++falls;
      }
      to[count++] = key[i];
    }
    if (falls == 1) {
      auto* const first = reinterpret_cast<int32_t*>(Scratch(kScratchX, second + 1));
      std::copy(to, to + second, first);
      // What is written never overtakes what is still to be read of the second list.
      std::merge(first, first + second, to + second, to + count, to);
    } else if (falls > 1) {
      std::sort(to, to + count);
    }
    std::fill(to + count, to + size, std::numeric_limits<int32_t>::max());
  }

  int64_t seeds = 0, size = 0;
  Operand<const int32_t> keys;
  Operand<int32_t> sorted;
};

// Where each of some keys stands in a list; `size`, a place that does not exist, for one that does not
// stand there. Both ascend.
class FindJob final : public Job {
 public:
  int64_t num_units() const override { return seeds; }

  void RunUnit(int64_t seed) override {
    const int32_t* const list = keys[seed];
    int64_t at = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t key = wanted[seed][i];
      while (at < size && list[at] < key) ++at;
      places[seed][i] = static_cast<int32_t>(at < size && list[at] == key ? at : size);
    }
  }

  int64_t seeds = 0, size = 0, count = 0;
  Operand<const int32_t> keys, wanted;
  Operand<int32_t> places;
};

}  // namespace jaxnet

#endif  // JAXNET_KERNELS_CSR_SELECT_H_
