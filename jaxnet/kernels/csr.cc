// Sparse products on CPU, called through XLA's foreign function interface.
//
// Three handlers: the product (with bias and activation if wanted), the gradient
// for the values (and the bias), the gradient for the input. Any number of seed
// axes may stand in front of every operand; see csr_call.h.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "csr_call.h"
#include "csr_job.h"
#include "csr_kernels.h"
#include "csr_runtime.h"
#include "xla/ffi/api/ffi.h"

namespace jaxnet {
namespace {

namespace ffi = xla::ffi;

const Kernels* PickKernels() {
  const char* wanted = std::getenv("JAXNET_CSR_ISA");
  const Kernels* found[3] = {nullptr, nullptr, BaselineKernels()};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx2")) found[0] = Avx512Kernels();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[1] = Avx2Kernels();
#endif
  for (const Kernels* kernels : found) {
    if (kernels && wanted && std::strcmp(kernels->name, wanted) == 0) return kernels;
  }
  for (const Kernels* kernels : found) {
    if (kernels) return kernels;
  }
  return BaselineKernels();
}

}  // namespace

const Kernels& Machine() {
  static const Kernels* const kernels = PickKernels();
  return *kernels;
}

namespace {

// A job in which every weight reads a row of x: the product, and the gradient for
// the values.
class RowJob : public CsrJob {
 public:
  void RunUnit(int64_t unit) override {
    const Piece piece = PieceOf(unit);
    int64_t weights = 0;
    for (int64_t seed = piece.seed_begin; seed < piece.seed_end; ++seed) {
      if (!Check(seed)) return;
      weights += topology.row_ptr[seed][topology.out] / parts();
    }
    for (int64_t seed = piece.seed_begin; seed < piece.seed_end; ++seed) Begin(seed, RowsOf(seed, piece.part));
    if (x.shared()) {
      // Slice by slice, so that the slice of x stays in the cache for all seeds.
      const bool pack = PackPays(weights, topology.in);
      ForSlices([&](int64_t begin, const Slice& slice) {
        const Matrix from = SliceOf(x[0], topology.in, begin, slice, pack, kScratchX);
        for (int64_t seed = piece.seed_begin; seed < piece.seed_end; ++seed) {
          RunSlice(seed, RowsOf(seed, piece.part), begin, slice, from);
        }
      });
      return;
    }
    for (int64_t seed = piece.seed_begin; seed < piece.seed_end; ++seed) {
      const bool pack = PackPays(topology.row_ptr[seed][topology.out] / parts(), topology.in);
      ForSlices([&](int64_t begin, const Slice& slice) {
        const Matrix from = SliceOf(x[seed], topology.in, begin, slice, pack, kScratchX);
        RunSlice(seed, RowsOf(seed, piece.part), begin, slice, from);
      });
    }
  }

  Operand<const float> x;

 protected:
  virtual void Begin(int64_t, Rows) {}
  virtual void RunSlice(int64_t seed, Rows rows, int64_t begin, const Slice& slice, Matrix from) = 0;
};

class ProductJob final : public RowJob {
 public:
  Operand<const float> values, bias;
  Operand<float> y, z;

 private:
  void RunSlice(int64_t seed, Rows rows, int64_t begin, const Slice& slice, Matrix from) override {
    const Weights weights = {values[seed], topology.cols[seed], topology.row_ptr[seed]};
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
};

class ValuesGradientJob final : public RowJob {
 public:
  Operand<const float> dy, saved;
  Operand<float> d_values, d_bias;

 private:
  void Begin(int64_t seed, Rows rows) override {
    const int32_t* const ptr = topology.row_ptr[seed];
    // Padding slots hold no weight, and an empty batch gives no gradient.
    const int64_t from = batch == 0 ? ptr[rows.begin] : ptr[topology.out];
    if (rows.end == topology.out) std::fill(d_values[seed] + from, d_values[seed] + topology.capacity, 0.0f);
    if (batch > 0) return;
    std::fill(d_values[seed] + ptr[rows.begin], d_values[seed] + ptr[rows.end], 0.0f);
    if (d_bias.present()) std::fill(d_bias[seed] + rows.begin, d_bias[seed] + rows.end, 0.0f);
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

class InputGradientJob final : public CsrJob {
 public:
  void RunUnit(int64_t unit) override {
    const Piece piece = PieceOf(unit);
    const int64_t col_begin = piece.part * topology.in / parts();
    const int64_t col_end = (piece.part + 1) * topology.in / parts();
    for (int64_t seed = piece.seed_begin; seed < piece.seed_end; ++seed) {
      if (!Check(seed)) return;
      RunSeed(seed, col_begin, col_end);
    }
  }

  Operand<const float> values, dy, saved;
  Operand<float> dx;

 private:
  void RunSeed(int64_t seed, int64_t col_begin, int64_t col_end) {
    const Weights transposed = Transpose(seed, col_begin, col_end);
    const Rows cols = {0, col_end - col_begin};
    float* const to = dx[seed] + col_begin * batch;
    const bool pack = PackPays(transposed.row_ptr[cols.end], topology.out);
    ForSlices([&](int64_t begin, const Slice& slice) {
      Matrix from = SliceOf(dy[seed], topology.out, begin, slice, pack && activation == kIdentity,
                            kScratchGradient);
      if (activation != kIdentity) {
        const Matrix before = SliceOf(saved[seed], topology.out, begin, slice, false, kScratchSaved);
        const int64_t stride = SliceWidth();
        float* const dz = Scratch(kScratchX, topology.out * stride);
        Machine().local_gradient(slice, {0, topology.out}, from.data, before.data, from.stride, activation, dz,
                                 stride);
        from = {dz, stride};
      }
      if (!BatchIsShort()) {
        Machine().product(slice, transposed, cols, from.data, from.stride, nullptr, kIdentity, to + begin,
                          nullptr, batch);
        return;
      }
      float* const dx_short = Scratch(kScratchResult, cols.end * Machine().width);
      Machine().product(slice, transposed, cols, from.data, from.stride, nullptr, kIdentity, dx_short, nullptr,
                        Machine().width);
      CopyShort(dx_short, cols, to);
    });
  }

  // The weights of some columns, sorted by column (a counting sort, so that
  // within a column the rows stay in order and with them the sums).
  Weights Transpose(int64_t seed, int64_t col_begin, int64_t col_end) const {
    const int32_t* __restrict const cols = topology.cols[seed];
    const int32_t* __restrict const ptr = topology.row_ptr[seed];
    const float* __restrict const unsorted = values[seed];
    const int64_t count = ptr[topology.out];
    const uint32_t width = static_cast<uint32_t>(col_end - col_begin);
    const uint32_t shift = static_cast<uint32_t>(col_begin);
    int32_t* __restrict const col_ptr = reinterpret_cast<int32_t*>(Scratch(kScratchIndex, width + 2 + count));
    int32_t* __restrict const rows = col_ptr + width + 2;
    float* __restrict const sorted = Scratch(kScratchWeights, count + 1);
    // Columns are counted two places on and summed up; the sort then moves each
    // begin, one place on, to the end, which is where the next column begins.
    std::fill(col_ptr, col_ptr + width + 2, 0);
    for (int64_t k = 0; k < count; ++k) {
      const uint32_t col = static_cast<uint32_t>(cols[k]) - shift;
      if (col < width) ++col_ptr[col + 2];
    }
    for (uint32_t col = 0; col < width; ++col) col_ptr[col + 2] += col_ptr[col + 1];
    for (int64_t row = 0; row < topology.out; ++row) {
      for (int64_t k = ptr[row], end = ptr[row + 1]; k < end; ++k) {
        const uint32_t col = static_cast<uint32_t>(cols[k]) - shift;
        if (col >= width) continue;
        const int32_t to = col_ptr[col + 1]++;
        sorted[to] = unsorted[k];
        rows[to] = static_cast<int32_t>(row);
      }
    }
    return {sorted, rows, col_ptr};
  }
};

bool ValidActivation(int32_t code) { return code >= kIdentity && code <= kGelu; }

ffi::Future Start(std::shared_ptr<CsrJob> job, const CallReader& reader, int32_t activation,
                  ffi::ThreadPool& pool) {
  if (!reader.error().empty()) return Rejected(reader.error());
  if (!ValidActivation(activation)) return Rejected("jaxnet csr: unknown activation");
  job->seeds = reader.seeds();
  job->activation = static_cast<Activation>(activation);
  const int64_t threads = AvailableThreads(pool);
  job->Cut(threads);
  return Run(std::move(job), pool, threads);
}

// Arguments values, cols, row_ptr, x and, if wanted, bias; results y and, if
// wanted, z (before the activation).
ffi::Future Product(ffi::ThreadPool pool, int32_t activation, ffi::RemainingArgs args,
                    ffi::RemainingRets rets) {
  CallReader call(args, rets, 2);
  auto job = std::make_shared<ProductJob>();
  Topology& t = job->topology;
  t = {call.RetSize(0, 1), call.ArgSize(3, 1), call.ArgSize(1, 0), {}, {}};
  job->batch = call.RetSize(0, 0);
  job->values = call.Arg<float>(0, "values", {t.capacity});
  t.cols = call.Arg<int32_t>(1, "cols", {t.capacity});
  t.row_ptr = call.Arg<int32_t>(2, "row_ptr", {t.out + 1});
  job->x = call.Arg<float>(3, "x", {t.in, job->batch});
  if (args.size() > 4) job->bias = call.Arg<float>(4, "bias", {t.out});
  job->y = call.Ret<float>(0, "y", {t.out, job->batch});
  if (rets.size() > 1) job->z = call.Ret<float>(1, "z", {t.out, job->batch});
  return Start(std::move(job), call, activation, pool);
}

// Arguments cols, row_ptr, x, dy and, unless the activation is the identity,
// what the product saved; results d_values and, if wanted, d_bias.
ffi::Future ValuesGradient(ffi::ThreadPool pool, int32_t activation, ffi::RemainingArgs args,
                           ffi::RemainingRets rets) {
  CallReader call(args, rets, 1);
  auto job = std::make_shared<ValuesGradientJob>();
  Topology& t = job->topology;
  t = {call.ArgSize(3, 1), call.ArgSize(2, 1), call.ArgSize(0, 0), {}, {}};
  job->batch = call.ArgSize(3, 0);
  t.cols = call.Arg<int32_t>(0, "cols", {t.capacity});
  t.row_ptr = call.Arg<int32_t>(1, "row_ptr", {t.out + 1});
  job->x = call.Arg<float>(2, "x", {t.in, job->batch});
  job->dy = call.Arg<float>(3, "dy", {t.out, job->batch});
  if (activation != kIdentity) job->saved = call.Arg<float>(4, "saved", {t.out, job->batch});
  job->d_values = call.Ret<float>(0, "d_values", {t.capacity});
  if (rets.size() > 1) job->d_bias = call.Ret<float>(1, "d_bias", {t.out});
  return Start(std::move(job), call, activation, pool);
}

// Arguments values, cols, row_ptr, dy and, unless the activation is the
// identity, what the product saved; result d_x.
ffi::Future InputGradient(ffi::ThreadPool pool, int32_t activation, ffi::RemainingArgs args,
                          ffi::RemainingRets rets) {
  CallReader call(args, rets, 2);
  auto job = std::make_shared<InputGradientJob>();
  Topology& t = job->topology;
  t = {call.ArgSize(3, 1), call.RetSize(0, 1), call.ArgSize(1, 0), {}, {}};
  job->batch = call.RetSize(0, 0);
  job->values = call.Arg<float>(0, "values", {t.capacity});
  t.cols = call.Arg<int32_t>(1, "cols", {t.capacity});
  t.row_ptr = call.Arg<int32_t>(2, "row_ptr", {t.out + 1});
  job->dy = call.Arg<float>(3, "dy", {t.out, job->batch});
  if (activation != kIdentity) job->saved = call.Arg<float>(4, "saved", {t.out, job->batch});
  job->dx = call.Ret<float>(0, "d_x", {t.in, job->batch});
  return Start(std::move(job), call, activation, pool);
}

auto Binding() {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<int32_t>("activation").RemainingArgs().RemainingRets();
}

}  // namespace
}  // namespace jaxnet

// The library hides everything else.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_product, jaxnet::Product, jaxnet::Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_values_gradient, jaxnet::ValuesGradient, jaxnet::Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_input_gradient, jaxnet::InputGradient, jaxnet::Binding());

extern "C" {
// Raised whenever arguments or results of the handlers change; csr.py compares.
int32_t jaxnet_csr_version() { return 1; }
const char* jaxnet_csr_instruction_set() { return jaxnet::Machine().name; }
void jaxnet_csr_set_max_threads(int64_t count) { jaxnet::SetMaxThreads(count); }
}

#pragma GCC visibility pop
