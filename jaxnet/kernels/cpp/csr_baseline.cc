// The vector code for any machine of this architecture: SSE2 or NEON.

#define JAXNET_WIDTH 4
#if defined(__aarch64__)
#define JAXNET_VECTORS 16  // 32 registers
#define JAXNET_NAME "neon"
#elif defined(__x86_64__)
#define JAXNET_VECTORS 8  // 16 registers
#define JAXNET_NAME "sse2"
#else
#define JAXNET_VECTORS 8
#define JAXNET_NAME "generic"
#endif
#include "csr_vector.inc.h"

const jaxnet::Kernels* jaxnet::BaselineKernels() { return &kKernels; }
