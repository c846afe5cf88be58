// The vector code for AVX-512; setup.py compiles this file with those flags.

#include "csr_kernels.h"

#if defined(__AVX512F__)
#define JAXNET_WIDTH 16
#define JAXNET_VECTORS 8  // of 32 registers; a slice of 128 samples
#define JAXNET_NAME "avx512"
#include "csr_vector.inc.h"

const jaxnet::Kernels* jaxnet::Avx512Kernels() { return &kKernels; }
#else
const jaxnet::Kernels* jaxnet::Avx512Kernels() { return nullptr; }
#endif
