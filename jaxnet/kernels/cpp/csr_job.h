// What the jobs have in common: the topology, and how seeds and batch are cut up.

#ifndef JAXNET_KERNELS_CSR_JOB_H_
#define JAXNET_KERNELS_CSR_JOB_H_

#include <algorithm>
#include <cstdint>

#include "csr_call.h"
#include "csr_kernels.h"
#include "csr_runtime.h"

namespace jaxnet {

// The vector code for this machine.
const Kernels& Machine();

// A piece of work smaller than this many multiply-adds (about 2 microseconds) is
// not worth handing to another thread.
constexpr int64_t kSmallestUnit = 1 << 16;
// More units than threads, so that a thread that comes late finds something left.
constexpr int64_t kUnitsPerThread = 4;
// Rows of a long batch lie far apart and fall on few cache sets. Copying a slice
// of them together pays once every row is read about this often.
constexpr int64_t kPackReuse = 3;

struct Topology {
  int64_t out = 0, in = 0, capacity = 0;
  Operand<const int32_t> cols, row_ptr;
};

// What the jobs have in common: the seeds, the batch and how both are cut.
class CsrJob : public Job {
 public:
  // Cuts the work into blocks of seeds and, where seeds are few, each into slices of
  // the batch and parts of the rows.
  void Cut(int64_t threads) {
    const int64_t work = seeds * topology.capacity * batch;
    const int64_t wanted = threads > 1 ? std::min(threads * kUnitsPerThread, work / kSmallestUnit + 1) : 1;
    blocks_ = std::min(seeds, std::max<int64_t>(wanted, 1));
    const int64_t pieces = blocks_ > 0 && seeds < wanted ? (wanted + blocks_ - 1) / blocks_ : 1;
    groups_ = CutsBatch() ? std::clamp<int64_t>(NumSlices(), 1, pieces) : 1;
    parts_ = (pieces + groups_ - 1) / groups_;
    // Where every part copies all slices for itself, few parts copy less.
    if (!CutsBatch() && PackPays(topology.capacity / threads)) parts_ = std::min(parts_, threads);
  }

  int64_t num_units() const override { return blocks_ * groups_ * parts_; }

  Topology topology;
  int64_t seeds = 0, batch = 0;
  Activation activation = kIdentity;

 protected:
  struct Piece {
    int64_t seed_begin, seed_end;
    int64_t slice_begin, slice_end;
    int64_t part;
  };

  // Whether units may share out the slices of the batch.
  virtual bool CutsBatch() const { return false; }

  // Units of one slice follow one another: a thread then copies it once for all.
  Piece PieceOf(int64_t unit) const {
    const int64_t block = unit / (groups_ * parts_), group = unit / parts_ % groups_;
    return {block * seeds / blocks_, (block + 1) * seeds / blocks_, group * NumSlices() / groups_,
            (group + 1) * NumSlices() / groups_, unit % parts_};
  }

  // Whether the rows of this seed lie within its slots.
  bool CheckRows(int64_t seed) {
    const int32_t* const ptr = topology.row_ptr[seed];
    bool ascending = ptr[0] == 0;
    for (int64_t row = 0; row < topology.out; ++row) ascending = ascending && ptr[row] <= ptr[row + 1];
    if (!ascending || ptr[topology.out] > topology.capacity) {
      Fail("jaxnet csr: corrupt topology: row_ptr must begin at 0, ascend and end within the slots");
      return false;
    }
    return true;
  }

  // Whether no index of some rows, which were checked, is `limit` or more, or negative.
  bool CheckBelow(const Operand<const int32_t>& indices, int64_t seed, Rows rows, int64_t limit) {
    const int64_t from = topology.row_ptr[seed][rows.begin];
    const int64_t count = topology.row_ptr[seed][rows.end] - from;
    if (count > 0 && Machine().largest(indices[seed] + from, count) >= static_cast<uint64_t>(limit)) {
      Fail("jaxnet csr: corrupt topology: a column lies outside the input");
      return false;
    }
    return true;
  }

  // Rows of part `part`, with about the same number of weights in each part.
  Rows RowsOf(int64_t seed, int64_t part) const {
    if (parts_ == 1) return {0, topology.out};
    return {RowAt(seed, part), RowAt(seed, part + 1)};
  }

  bool BatchIsShort() const { return batch < Machine().width; }
  int64_t SliceWidth() const { return Machine().width * static_cast<int64_t>(Machine().max_vectors); }

  int64_t NumSlices() const { return (batch + SliceWidth() - 1) / SliceWidth(); }

  // Calls visit(begin, slice) for the slices of a piece, in order.
  template <typename Visit>
  void ForSlices(const Piece& piece, Visit visit) const {
    const int64_t width = Machine().width;
    for (int64_t number = piece.slice_begin; number < piece.slice_end; ++number) {
      const int64_t begin = number * SliceWidth();
      const int64_t columns = std::min(SliceWidth(), batch - begin);
      const int64_t vectors = (columns + width - 1) / width;
      if (BatchIsShort()) {
        visit(begin, Slice{1, 0, 0});
      } else if (columns < width) {
        // Less than a vector is left: step back, so that one vector ends with the batch.
        visit(batch - width, Slice{1, 0, static_cast<int32_t>(width - columns)});
      } else {
        visit(begin, Slice{static_cast<int32_t>(vectors), columns - width,
                           static_cast<int32_t>(vectors * width - columns)});
      }
    }
  }

  struct Matrix {
    const float* data;
    int64_t stride;
  };

  // The slice of `data: (rows, batch)` as the vector code wants it: where it is,
  // or copied together (`pack`), or, if the batch is short, filled up with zeros.
  Matrix SliceOf(const float* data, int64_t rows, int64_t begin, const Slice& slice, bool pack,
                 ScratchSlot slot) const {
    if (!pack && !BatchIsShort()) return {data + begin, batch};
    const int64_t width = Machine().width;
    const int64_t stride = BatchIsShort() ? width : SliceWidth();
    const Held copy = HeldScratch(slot, rows * stride, serial(), data, begin);
    if (!copy.fresh) return {copy.data, stride};
    if (!BatchIsShort()) {
      Machine().local_gradient(slice, {0, rows}, data + begin, nullptr, batch, kIdentity, copy.data, stride);
      return {copy.data, stride};
    }
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < width; ++i) copy.data[row * width + i] = i < batch ? data[row * batch + i] : 0.0f;
    }
    return {copy.data, stride};
  }

  // Whether copying a slice pays if so many weights read it.
  bool PackPays(int64_t weights) const {
    return batch > SliceWidth() && weights >= kPackReuse * topology.in;
  }

  // Writes the rows of a short batch from scratch to where they belong.
  void CopyShort(const float* from, Rows rows, float* to) const {
    const int64_t width = Machine().width;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (int64_t i = 0; i < batch; ++i) to[row * batch + i] = from[row * width + i];
    }
  }

  int64_t parts() const { return parts_; }

 private:
  int64_t RowAt(int64_t seed, int64_t part) const {
    if (part == 0) return 0;
    if (part == parts_) return topology.out;
    const int32_t* const ptr = topology.row_ptr[seed];
    const int64_t slot = part * ptr[topology.out] / parts_;
    return std::lower_bound(ptr, ptr + topology.out, slot) - ptr;
  }

  int64_t blocks_ = 1, groups_ = 1, parts_ = 1;
};

}  // namespace jaxnet

#endif  // JAXNET_KERNELS_CSR_JOB_H_
