// The vector code for AVX2 + FMA; setup.py compiles this file with those flags.

#include "csr_kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#define JAXNET_WIDTH 8
#define JAXNET_VECTORS 8  // of 16 registers
#define JAXNET_NAME "avx2"
#include "csr_vector.inc.h"

const jaxnet::Kernels* jaxnet::Avx2Kernels() { return &kKernels; }
#else
const jaxnet::Kernels* jaxnet::Avx2Kernels() { return nullptr; }
#endif
