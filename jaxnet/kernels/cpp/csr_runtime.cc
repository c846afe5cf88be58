#include "csr_runtime.h"

#include <cstdlib>
#include <new>
#include <string>
#include <utility>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace jaxnet {
namespace {

int64_t ThreadsFromEnvironment() {
  const char* text = std::getenv("JAXNET_NUM_THREADS");
  const int64_t count = text ? std::strtoll(text, nullptr, 10) : 0;
  return count > 0 ? count : 0;
}

std::atomic<int64_t>& Limit() {
  static std::atomic<int64_t> limit{ThreadsFromEnvironment()};
  return limit;
}

// Subnormal numbers count as zero, as everywhere in XLA on CPU. Set here because
// not every thread that gets here comes with the same setting, and results must
// not depend on the thread.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushSubnormals() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved_ | (uint64_t{1} << 24)));
  }
  ~FlushSubnormals() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

struct Block {
  float* data = nullptr;
  int64_t size = 0;
  // What HeldScratch keeps here; no job has the number 0.
  int64_t job = 0, number = 0;
  const void* source = nullptr;

  ~Block() { ::operator delete(data, std::align_val_t{64}); }

  // Makes room; what is held here is forgotten.
  void Reserve(int64_t floats) {
    job = 0;
    if (size >= floats) return;
    ::operator delete(data, std::align_val_t{64});
    data = nullptr;
    size = 0;
    data = static_cast<float*>(::operator new(4 * floats, std::align_val_t{64}));
    size = floats;
  }
};

Block& BlockOf(ScratchSlot slot) {
  thread_local Block blocks[kScratchSlots];
  return blocks[slot];
}

}  // namespace

class Runner {
 public:
  // Takes units until none is left. True if this thread finished the last one.
  static bool Work(Job& job) {
    const FlushSubnormals flush;
    const int64_t count = job.num_units();
    int64_t done = 0;
    while (true) {
      const int64_t unit = job.next_.fetch_add(1, std::memory_order_relaxed);
      if (unit >= count) break;
      // After an error the rest of the work is pointless, but must be counted.
      if (job.error_.load(std::memory_order_relaxed) == nullptr) {
        try {
          job.RunUnit(unit);
        } catch (const std::bad_alloc&) {
          job.Fail("jaxnet csr: out of memory for scratch space");
        }
      }
      ++done;
    }
    return done > 0 && job.finished_.fetch_add(done, std::memory_order_acq_rel) + done == count;
  }

  static void Complete(Job& job, xla::ffi::Promise& promise) {
    const char* error = job.error_.load();
    if (error == nullptr) {
      promise.SetAvailable();
    } else {
      promise.SetError(xla::ffi::Error::InvalidArgument(error));
    }
  }
};

int64_t MaxThreads() { return Limit().load(); }
void SetMaxThreads(int64_t count) { Limit().store(count > 0 ? count : 0); }

int64_t AvailableThreads(const xla::ffi::ThreadPool& pool) {
  const int64_t threads = pool.num_threads();
  const int64_t limit = MaxThreads();
  if (threads < 1) return 1;
  return limit > 0 && limit < threads ? limit : threads;
}

xla::ffi::Future Run(std::shared_ptr<Job> job, xla::ffi::ThreadPool& pool, int64_t threads) {
  xla::ffi::Promise promise;
  xla::ffi::Future future(promise);
  if (job->num_units() == 0) {
    promise.SetAvailable();
    return future;
  }
  if (threads > job->num_units()) threads = job->num_units();
  for (int64_t helper = 1; helper < threads; ++helper) {
    pool.Schedule([job, promise]() mutable {
      if (Runner::Work(*job)) Runner::Complete(*job, promise);
    });
  }
  if (Runner::Work(*job)) Runner::Complete(*job, promise);
  return future;
}

xla::ffi::Future Rejected(std::string message) {
  xla::ffi::Promise promise;
  xla::ffi::Future future(promise);
  promise.SetError(xla::ffi::Error::InvalidArgument(std::move(message)));
  return future;
}

Held HeldScratch(ScratchSlot slot, int64_t floats, int64_t job, const void* source, int64_t number) {
  Block& block = BlockOf(slot);
  const bool held = block.job == job && block.source == source && block.number == number;
  if (!held) {
    block.Reserve(floats);
    block.job = job;
    block.source = source;
    block.number = number;
  }
  return {block.data, !held};
}

float* Scratch(ScratchSlot slot, int64_t floats) {
  Block& block = BlockOf(slot);
  block.Reserve(floats);
  return block.data;
}

}  // namespace jaxnet
