// The jobs behind the handlers: product, gradient for the values, transposition.

#ifndef JAXNET_KERNELS_CSR_JOBS_H_
#define JAXNET_KERNELS_CSR_JOBS_H_

#include <algorithm>
#include <cstdint>

#include "csr_call.h"
#include "csr_job.h"
#include "csr_kernels.h"
#include "csr_runtime.h"

namespace jaxnet {

// A job in which every weight reads a row of x: the product (of the weights or of
// their transposition), and the gradient for the values.
class RowJob : public CsrJob {
 public:
  void RunUnit(int64_t unit) override {
    const Piece piece = PieceOf(unit);
    int64_t weights = 0;
    for (int64_t seed = piece.seed_begin; seed < piece.seed_end; ++seed) {
      if (!CheckRows(seed)) return;
      const Rows rows = RowsOf(seed, piece.part);
      if (!CheckBelow(topology.cols, seed, rows, topology.in) || !Begin(seed, rows)) return;
      weights += WeightsOnSlice(seed);
    }
    if (x.shared() && !saved_input.present()) {
      // Slice by slice, so that the slice of x stays in the cache for all seeds.
      ForSlices(piece, [&](int64_t begin, const Slice& slice) {
        const Matrix from = InputOf(0, begin, slice, PackPays(weights));
        for (int64_t seed = piece.seed_begin; seed < piece.seed_end; ++seed) {
          RunSlice(seed, RowsOf(seed, piece.part), begin, slice, from);
        }
      });
      return;
    }
    for (int64_t seed = piece.seed_begin; seed < piece.seed_end; ++seed) {
      ForSlices(piece, [&](int64_t begin, const Slice& slice) {
        const Matrix from = InputOf(seed, begin, slice, PackPays(WeightsOnSlice(seed)));
        RunSlice(seed, RowsOf(seed, piece.part), begin, slice, from);
      });
    }
  }

  Operand<const float> x;
  // If present, what is read is not x but x * input_activation'(saved_input).
  Operand<const float> saved_input;
  Activation input_activation = kIdentity;

 protected:
  // Checks and prepares; false after an error.
  virtual bool Begin(int64_t, Rows) { return true; }
  virtual void RunSlice(int64_t seed, Rows rows, int64_t begin, const Slice& slice, Matrix from) = 0;

 private:
  // How many weights read the copy of a slice that one thread makes.
  int64_t WeightsOnSlice(int64_t seed) const {
    return topology.row_ptr[seed][topology.out] / (CutsBatch() ? 1 : parts());
  }

  Matrix InputOf(int64_t seed, int64_t begin, const Slice& slice, bool pack) const {
    if (!saved_input.present()) return SliceOf(x[seed], topology.in, begin, slice, pack, kScratchX);
    const Matrix dy = SliceOf(x[seed], topology.in, begin, slice, false, kScratchGradient);
    const Matrix saved = SliceOf(saved_input[seed], topology.in, begin, slice, false, kScratchSaved);
    const int64_t stride = SliceWidth();
    const Held dz = HeldScratch(kScratchX, topology.in * stride, serial(), x[seed], seed * batch + begin);
    if (dz.fresh) {
      Machine().local_gradient(slice, {0, topology.in}, dy.data, saved.data, dy.stride, input_activation,
                               dz.data, stride);
    }
    return {dz.data, stride};
  }
};

// y = activation(W x + bias). For the gradient for the input, W is the
// transposition of the weights: rows and columns have changed places, `slots`
// says where the values stand.
class ProductJob final : public RowJob {
 public:
  Operand<const float> values, bias;
  Operand<const int32_t> slots;
  Operand<float> y, z;

 private:
  bool CutsBatch() const override { return true; }

  bool Begin(int64_t seed, Rows rows) override {
    return !slots.present() || CheckBelow(slots, seed, rows, topology.capacity);
  }

  void RunSlice(int64_t seed, Rows rows, int64_t begin, const Slice& slice, Matrix from) override {
    const Weights weights = {ValuesOf(seed, rows), topology.cols[seed], topology.row_ptr[seed]};
    if (!BatchIsShort()) {
      Machine().product(slice, weights, rows, from.data, from.stride, bias[seed], activation, y[seed] + begin,
                        z.present() ? z[seed] + begin : nullptr, batch);
      return;
    }
    const int64_t width = Machine().width;
    float* const y_short = Scratch(kScratchResult, topology.out * width);
    float* const z_short = z.present() ? Scratch(kScratchSaved, topology.out * width) : nullptr;
    Machine().product(slice, weights, rows, from.data, from.stride, bias[seed], activation, y_short, z_short,
                      width);
    CopyShort(y_short, rows, y[seed]);
    if (z.present()) CopyShort(z_short, rows, z[seed]);
  }

  // The values in the order of the rows.
  const float* ValuesOf(int64_t seed, Rows rows) const {
    if (!slots.present()) return values[seed];
    const int32_t* const ptr = topology.row_ptr[seed];
    const Held sorted = HeldScratch(kScratchWeights, ptr[topology.out] + 1, serial(), values[seed],
                                    seed * (topology.out + 1) + rows.begin);
    const float* const unsorted = values[seed];
    const int32_t* const slot = slots[seed];
    if (sorted.fresh) {
      for (int64_t k = ptr[rows.begin], end = ptr[rows.end]; k < end; ++k) sorted.data[k] = unsorted[slot[k]];
    }
    return sorted.data;
  }
};

class ValuesGradientJob final : public RowJob {
 public:
  Operand<const float> dy, saved;
  Operand<float> d_values, d_bias;

 private:
  bool Begin(int64_t seed, Rows rows) override {
    const int32_t* const ptr = topology.row_ptr[seed];
    // Padding slots hold no weight, and an empty batch gives no gradient.
    const int64_t from = batch == 0 ? ptr[rows.begin] : ptr[topology.out];
    if (rows.end == topology.out) std::fill(d_values[seed] + from, d_values[seed] + topology.capacity, 0.0f);
    if (batch > 0) return true;
    std::fill(d_values[seed] + ptr[rows.begin], d_values[seed] + ptr[rows.end], 0.0f);
    if (d_bias.present()) std::fill(d_bias[seed] + rows.begin, d_bias[seed] + rows.end, 0.0f);
    return true;
  }

  void RunSlice(int64_t seed, Rows rows, int64_t begin, const Slice& slice, Matrix from) override {
    if (rows.begin == rows.end) return;
    const Weights weights = {nullptr, topology.cols[seed], topology.row_ptr[seed]};
    const Matrix gradient = SliceOf(dy[seed], topology.out, begin, slice, false, kScratchGradient);
    const Matrix before = saved.present()
                              ? SliceOf(saved[seed], topology.out, begin, slice, false, kScratchSaved)
                              : gradient;
    Machine().values_gradient(slice, weights, rows, from.data, from.stride, gradient.data, before.data,
                              gradient.stride, activation, begin == 0, d_values[seed],
                              d_bias.present() ? d_bias[seed] : nullptr);
  }
};

// The weights sorted by column: where each stands, its row, and where columns
// begin. Within a column the rows stay in order, and with them the sums.
class TransposeJob final : public CsrJob {
 public:
  void RunUnit(int64_t unit) override {
    const Piece piece = PieceOf(unit);
    if (piece.part != 0) return;
    for (int64_t seed = piece.seed_begin; seed < piece.seed_end; ++seed) {
      if (!CheckRows(seed) || !CheckBelow(topology.cols, seed, {0, topology.out}, topology.in)) return;
      RunSeed(seed);
    }
  }

  Operand<int32_t> slots, rows, col_ptr;

 private:
  void RunSeed(int64_t seed) {
    const int32_t* const cols = topology.cols[seed];
    const int32_t* const ptr = topology.row_ptr[seed];
    const int64_t count = ptr[topology.out];
    int32_t* const begin = col_ptr[seed];
    std::fill(begin, begin + topology.in + 1, 0);
    for (int64_t k = 0; k < count; ++k) ++begin[cols[k] + 1];
    for (int64_t col = 0; col < topology.in; ++col) begin[col + 1] += begin[col];
    // The sort moves each begin to the end of its column, which is where the next one begins.
    for (int64_t row = 0; row < topology.out; ++row) {
      for (int64_t k = ptr[row], end = ptr[row + 1]; k < end; ++k) {
        const int32_t to = begin[cols[k]]++;
        slots[seed][to] = static_cast<int32_t>(k);
        rows[seed][to] = static_cast<int32_t>(row);
      }
    }
    std::copy_backward(begin, begin + topology.in, begin + topology.in + 1);
    begin[0] = 0;
    std::fill(slots[seed] + count, slots[seed] + topology.capacity, 0);
    std::fill(rows[seed] + count, rows[seed] + topology.capacity, 0);
  }
};

}  // namespace jaxnet

#endif  // JAXNET_KERNELS_CSR_JOBS_H_
