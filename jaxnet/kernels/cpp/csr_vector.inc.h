// The vector code of the sparse product, compiled once per instruction set.
//
// The including file defines JAXNET_WIDTH (floats in a vector: 4, 8 or 16) and
// JAXNET_VECTORS (vectors in a slice, as many as stay in registers next to a
// weight), and is compiled with the flags of its instruction set. Nothing here
// may call a library template: the linker could then pick this file's copy for
// a machine that lacks the instructions.
//
// The order of every sum is fixed by the position in the network and in the
// batch, never by how the work is cut up: along a row the slots in their order;
// over the batch lane by lane, then the lanes as a binary tree, slice by slice.

#include "csr_kernels.h"

namespace jaxnet {
namespace {

constexpr int kWidth = JAXNET_WIDTH;
constexpr int kVectors = JAXNET_VECTORS;

typedef float Vector __attribute__((vector_size(4 * JAXNET_WIDTH)));
typedef int32_t IntVector __attribute__((vector_size(4 * JAXNET_WIDTH)));
typedef float UnalignedVector __attribute__((vector_size(4 * JAXNET_WIDTH), aligned(4), may_alias));

#define JAXNET_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define JAXNET_IN_REGISTER(vector) __asm__("" : "+v"(vector))
#elif defined(__x86_64__)
#define JAXNET_IN_REGISTER(vector) __asm__("" : "+x"(vector))
#elif defined(__aarch64__)
#define JAXNET_IN_REGISTER(vector) __asm__("" : "+w"(vector))
#else
#define JAXNET_IN_REGISTER(vector)
#endif

JAXNET_INLINE Vector Load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
JAXNET_INLINE void Store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
JAXNET_INLINE Vector Fill(float v) { return Vector{} + v; }

// exp with a relative error of about 1e-7; the argument is held within +-87.
JAXNET_INLINE Vector Exp(Vector x) {
  x = x < Fill(-87.0f) ? Fill(-87.0f) : x;
  x = x > Fill(87.0f) ? Fill(87.0f) : x;
  // Adding 1.5 * 2^23 rounds to an integer.
  const Vector magic = Fill(12582912.0f);
  const Vector shifted = x * 1.44269504f + magic;
  const Vector n = shifted - magic;
  Vector r = x - n * 0.693145752f;
  r = r - n * 1.42860682e-6f;
  Vector p = Fill(0.000198910804f);
  p = p * r + 0.00139337307f;
  p = p * r + 0.00833331084f;
  p = p * r + 0.0416664642f;
  p = p * r + 0.166666667f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  const IntVector power = (reinterpret_cast<IntVector>(shifted) << 23) + (127 << 23);
  return p * reinterpret_cast<Vector>(power);
}

JAXNET_INLINE Vector Sigmoid(Vector x) { return 1.0f / (1.0f + Exp(-x)); }

JAXNET_INLINE Vector Tanh(Vector x) {
  const Vector square = x * x;
  Vector p = Fill(0.00229271787f);
  p = p * square - 0.00834391646f;
  p = p * square + 0.0217689072f;
  p = p * square - 0.0539592576f;
  p = p * square + 0.133333035f;
  p = p * square - 0.333333332f;
  const Vector small = x + x * square * p;
  const Vector large = 1.0f - 2.0f / (Exp(x + x) + 1.0f);
  return square < Fill(0.390625f) ? small : large;
}

constexpr float kGeluScale = 0.797884561f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

JAXNET_INLINE Vector Activate(Activation activation, Vector z) {
  switch (activation) {
    case kRelu:
      // NaN stays NaN.
      return z < Fill(0.0f) ? Fill(0.0f) : z;
    case kTanh:
      return Tanh(z);
    case kSigmoid:
      return Sigmoid(z);
    case kGelu:
      return 0.5f * z * (1.0f + Tanh(kGeluScale * (z + kGeluCubic * z * z * z)));
    default:
      return z;
  }
}

// dy * activation'. `saved` is what the activation returned, for GELU what it got.
JAXNET_INLINE Vector LocalGradient(Activation activation, const float* dy, const float* saved) {
  Vector g = Load(dy);
  // Load now. Else the compiler makes the ReLU a masked load, which waits for
  // `saved`: two cache misses one after the other (half as fast beyond the L2).
  JAXNET_IN_REGISTER(g);
  switch (activation) {
    case kRelu:
      return Load(saved) > Fill(0.0f) ? g : Fill(0.0f);
    case kTanh: {
      const Vector y = Load(saved);
      return g * (1.0f - y * y);
    }
    case kSigmoid: {
      const Vector y = Load(saved);
      return g * (y * (1.0f - y));
    }
    case kGelu: {
      const Vector z = Load(saved);
      const Vector t = Tanh(kGeluScale * (z + kGeluCubic * z * z * z));
      const Vector slope = kGeluScale * (1.0f + 3.0f * kGeluCubic * z * z);
      return g * (0.5f * (1.0f + t) + 0.5f * z * (1.0f - t * t) * slope);
    }
    default:
      return g;
  }
}

#if defined(__clang__)
#define JAXNET_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define JAXNET_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IntVector{__VA_ARGS__})
#endif

// Within every block of 4 lanes: (a0 + a1, a2 + a3, b0 + b1, b2 + b3). Crossing
// blocks costs several times as much, so that is left to the end (AddBlocks).
JAXNET_INLINE Vector AddPairs(Vector a, Vector b) {
#if JAXNET_WIDTH == 16
  return JAXNET_SHUFFLE(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
         JAXNET_SHUFFLE(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
#elif JAXNET_WIDTH == 8
  return JAXNET_SHUFFLE(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + JAXNET_SHUFFLE(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
#else
  return JAXNET_SHUFFLE(a, b, 0, 2, 4, 6) + JAXNET_SHUFFLE(a, b, 1, 3, 5, 7);
#endif
}

// Blocks of 4 lanes: (a0 + a1, a2 + a3, b0 + b1, b2 + b3), as far as there are so many.
JAXNET_INLINE Vector AddBlocks(Vector a, Vector b) {
#if JAXNET_WIDTH == 16
  return JAXNET_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
         JAXNET_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#elif JAXNET_WIDTH == 8
  return JAXNET_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + JAXNET_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
#else
  return a + b;
#endif
}

// Collects vectors and writes the sum of the lanes of each to consecutive floats.
class LaneSums {
 public:
  JAXNET_INLINE LaneSums(float* out, bool first) : out_(out), first_(first) {}

  JAXNET_INLINE void Add(Vector v) {
    lanes_[filled_++] = v;
    if (filled_ == kWidth) {
      const Vector sums = Reduce();
      Store(out_, first_ ? sums : Load(out_) + sums);
      out_ += kWidth;
      filled_ = 0;
    }
  }

  JAXNET_INLINE void Finish() {
    if (filled_ == 0) return;
    for (int i = filled_; i < kWidth; ++i) lanes_[i] = Vector{};
    float sums[kWidth];
    Store(sums, Reduce());
    for (int i = 0; i < filled_; ++i) out_[i] = first_ ? sums[i] : out_[i] + sums[i];
  }

 private:
  JAXNET_INLINE Vector Reduce() const {
    Vector level[kWidth];
    for (int i = 0; i < kWidth; ++i) level[i] = lanes_[i];
#pragma GCC unroll 8
    for (int n = kWidth / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) {
        level[i] = n >= kWidth / 4 ? AddPairs(level[2 * i], level[2 * i + 1])
                                   : AddBlocks(level[2 * i], level[2 * i + 1]);
      }
    }
    return level[0];
  }

  Vector lanes_[kWidth];
  int filled_ = 0;
  float* out_;
  const bool first_;
};

template <int N, Activation kActivation>
void ProductSlice(const Slice& slice, const Weights& weights, Rows rows, const float* x, int64_t x_stride,
                  const float* bias, float* y, float* z, int64_t y_stride) {
  const int64_t last = slice.last;
  const float* const values = weights.values;
  const int32_t* const cols = weights.cols;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    Vector sum[N] = {};
    for (int64_t k = weights.row_ptr[row], end = weights.row_ptr[row + 1]; k < end; ++k) {
      const float* const from = x + cols[k] * x_stride;
      const float value = values[k];
#pragma GCC unroll 16
      for (int j = 0; j < N - 1; ++j) sum[j] += Load(from + j * kWidth) * value;
      sum[N - 1] += Load(from + last) * value;
    }
    const float shift = bias ? bias[row] : 0.0f;
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) {
      const int64_t at = row * y_stride + (j < N - 1 ? j * kWidth : last);
      const Vector total = sum[j] + shift;
      if (z) Store(z + at, total);
      Store(y + at, Activate(kActivation, total));
    }
  }
}

template <int N>
void ValuesGradientSlice(const Slice& slice, const Weights& weights, Rows rows, const float* x,
                         int64_t x_stride, const float* dy, const float* saved, int64_t dy_stride,
                         Activation activation, bool first, float* d_values, float* d_bias) {
  const int64_t last = slice.last;
  IntVector lane;
  for (int i = 0; i < kWidth; ++i) lane[i] = i;
  const IntVector fresh = lane >= slice.counted;
  LaneSums value_sums(d_values + weights.row_ptr[rows.begin], first);
  LaneSums bias_sums(d_bias + rows.begin, first);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t at = row * dy_stride;
    Vector dz[N];
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) {
      const int64_t offset = at + (j < N - 1 ? j * kWidth : last);
      dz[j] = LocalGradient(activation, dy + offset, saved + offset);
    }
    dz[N - 1] = fresh ? dz[N - 1] : Vector{};
    if (d_bias) {
      Vector sum = dz[0];
#pragma GCC unroll 16
      for (int j = 1; j < N; ++j) sum += dz[j];
      bias_sums.Add(sum);
    }
    for (int64_t k = weights.row_ptr[row], end = weights.row_ptr[row + 1]; k < end; ++k) {
      const float* const from = x + weights.cols[k] * x_stride;
      // Two sums, so that one addition need not wait for the other.
      Vector sum[2] = {};
#pragma GCC unroll 16
      for (int j = 0; j < N - 1; ++j) sum[j % 2] += dz[j] * Load(from + j * kWidth);
      sum[(N - 1) % 2] += dz[N - 1] * Load(from + last);
      value_sums.Add(sum[0] + sum[1]);
    }
  }
  value_sums.Finish();
  if (d_bias) bias_sums.Finish();
}

template <int N>
void Product(const Slice& slice, const Weights& weights, Rows rows, const float* x, int64_t x_stride,
             const float* bias, Activation activation, float* y, float* z, int64_t y_stride) {
  if constexpr (N > 0) {
    if (slice.vectors != N) {
      return Product<N - 1>(slice, weights, rows, x, x_stride, bias, activation, y, z, y_stride);
    }
    switch (activation) {
      case kRelu:
        return ProductSlice<N, kRelu>(slice, weights, rows, x, x_stride, bias, y, z, y_stride);
      case kTanh:
        return ProductSlice<N, kTanh>(slice, weights, rows, x, x_stride, bias, y, z, y_stride);
      case kSigmoid:
        return ProductSlice<N, kSigmoid>(slice, weights, rows, x, x_stride, bias, y, z, y_stride);
      case kGelu:
        return ProductSlice<N, kGelu>(slice, weights, rows, x, x_stride, bias, y, z, y_stride);
      default:
        return ProductSlice<N, kIdentity>(slice, weights, rows, x, x_stride, bias, y, z, y_stride);
    }
  }
}

template <int N>
void ValuesGradient(const Slice& slice, const Weights& weights, Rows rows, const float* x, int64_t x_stride,
                    const float* dy, const float* saved, int64_t dy_stride, Activation activation, bool first,
                    float* d_values, float* d_bias) {
  if constexpr (N > 0) {
    if (slice.vectors != N) {
      return ValuesGradient<N - 1>(slice, weights, rows, x, x_stride, dy, saved, dy_stride, activation, first,
                                   d_values, d_bias);
    }
    ValuesGradientSlice<N>(slice, weights, rows, x, x_stride, dy, saved, dy_stride, activation, first,
                           d_values, d_bias);
  }
}

void LocalGradients(const Slice& slice, Rows rows, const float* dy, const float* saved, int64_t dy_stride,
                    Activation activation, float* dz, int64_t dz_stride) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int j = 0; j < slice.vectors; ++j) {
      const int64_t column = j < slice.vectors - 1 ? j * kWidth : slice.last;
      const int64_t at = row * dy_stride + column;
      Store(dz + row * dz_stride + column, LocalGradient(activation, dy + at, saved + at));
    }
  }
}

uint32_t Largest(const int32_t* cols, int64_t count) {
  uint32_t largest = 0;
  for (int64_t k = 0; k < count; ++k) {
    const uint32_t col = static_cast<uint32_t>(cols[k]);
    largest = col > largest ? col : largest;
  }
  return largest;
}

constexpr Kernels kKernels = {JAXNET_NAME,     kWidth, kVectors, Product<kVectors>, ValuesGradient<kVectors>,
                              LocalGradients, Largest};

}  // namespace
}  // namespace jaxnet
