// What the driver (csr.cc) and the vector code (csr_vector.inc.h) share.
//
// The vector code is compiled once per instruction set into a table of function
// pointers; the driver picks a table when the library is loaded. This header is
// included by files compiled for different machines, so it holds no function.

#ifndef JAXNET_KERNELS_CSR_KERNELS_H_
#define JAXNET_KERNELS_CSR_KERNELS_H_

#include <cstdint>

namespace jaxnet {

enum Activation : int32_t { kIdentity = 0, kRelu = 1, kTanh = 2, kSigmoid = 3, kGelu = 4 };

// One slice of the batch of one layer of one network.
//
// The slice is `vectors` vectors wide. Vector j stands at column j * width, but
// for the last one, which stands at column `last`: in the slice at the end of a
// batch it may overlap the vector before it.
struct Slice {
  int32_t vectors;
  int64_t last;
  // Lanes of the last vector that vector `vectors - 2` (or an earlier slice)
  // holds already. Sums over the batch leave them out.
  int32_t counted;
};

// The weights of one network: `values` and `cols` by slot, `row_ptr` by row.
struct Weights {
  const float* values;
  const int32_t* cols;
  const int32_t* row_ptr;
};

struct Rows {
  int64_t begin;
  int64_t end;
};

struct Kernels {
  const char* name;
  // Floats in a vector, and the most vectors in a slice.
  int32_t width;
  int32_t max_vectors;

  // y[r] = activation(sum_k values[k] * x[cols[k]] + bias[r]) for the given rows.
  // `bias` may be null. `z`, if not null, gets the sum before the activation.
  void (*product)(const Slice&, const Weights&, Rows, const float* x, int64_t x_stride, const float* bias,
                  Activation, float* y, float* z, int64_t y_stride);

  // d_values[k] = sum over the batch of dz[row of k] * x[cols[k]], d_bias[r] =
  // sum over the batch of dz[r], where dz = dy * activation'(saved). Written if
  // `first`, added to what is there otherwise. `d_bias` may be null.
  void (*values_gradient)(const Slice&, const Weights&, Rows, const float* x, int64_t x_stride,
                          const float* dy, const float* saved, int64_t dy_stride, Activation, bool first,
                          float* d_values, float* d_bias);

  // dz[r] = dy[r] * activation'(saved[r]). With kIdentity: copies rows.
  void (*local_gradient)(const Slice&, Rows, const float* dy, const float* saved, int64_t dy_stride,
                         Activation, float* dz, int64_t dz_stride);

  // Largest of `count` columns read as unsigned, so that a negative one is huge.
  uint32_t (*largest)(const int32_t* cols, int64_t count);
};

// Each is null where the compiler could not build it.
const Kernels* BaselineKernels();
const Kernels* Avx2Kernels();
const Kernels* Avx512Kernels();

}  // namespace jaxnet

#endif  // JAXNET_KERNELS_CSR_KERNELS_H_
