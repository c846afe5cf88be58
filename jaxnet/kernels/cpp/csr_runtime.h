// Running the pieces of one call on several threads, and scratch memory.

#ifndef JAXNET_KERNELS_CSR_RUNTIME_H_
#define JAXNET_KERNELS_CSR_RUNTIME_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "xla/ffi/api/ffi.h"

namespace jaxnet {

// One call, cut into units that may run in any order on any thread.
class Job {
 public:
  virtual ~Job() = default;

  // Runs unit `unit` of `num_units()`; reports wrong input by Fail.
  virtual void RunUnit(int64_t unit) = 0;
  virtual int64_t num_units() const = 0;

 protected:
  // A number that no other job of this process has.
  int64_t serial() const { return serial_; }

  // `message` must be a string literal.
  void Fail(const char* message) { error_.store(message, std::memory_order_relaxed); }

 private:
  friend class Runner;

  static int64_t NextSerial() {
    static std::atomic<int64_t> last{0};
    return ++last;
  }

  const int64_t serial_ = NextSerial();
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> finished_{0};
  std::atomic<const char*> error_{nullptr};
};

// Most threads a call may use: JAXNET_NUM_THREADS, or no limit of ours.
int64_t MaxThreads();
void SetMaxThreads(int64_t count);

// How many threads a call can get.
int64_t AvailableThreads(const xla::ffi::ThreadPool& pool);

// Runs a job on this thread, with the help of up to `threads - 1` threads of
// XLA's pool. Returns when no unit is left to take, never waiting for a helper:
// the future completes when the last unit does. Blocking here would deadlock as
// soon as every thread of the pool stands in a handler.
xla::ffi::Future Run(std::shared_ptr<Job> job, xla::ffi::ThreadPool& pool, int64_t threads);

// A future that holds an InvalidArgument error.
xla::ffi::Future Rejected(std::string message);

// Memory of this thread, kept for the next call. Contents are undefined; valid
// until the same slot is asked for again. Aligned to 64 bytes.
enum ScratchSlot { kScratchX, kScratchGradient, kScratchSaved, kScratchResult, kScratchWeights, kScratchSlots };
float* Scratch(ScratchSlot slot, int64_t floats);

// Scratch that several units of a job can use: `fresh` if this thread does not
// hold it yet and has to fill it. What it holds is named by the job, by where it
// comes from and by a number.
struct Held {
  float* data;
  bool fresh;
};
Held HeldScratch(ScratchSlot slot, int64_t floats, int64_t job, const void* source, int64_t number);

}  // namespace jaxnet

#endif  // JAXNET_KERNELS_CSR_RUNTIME_H_
