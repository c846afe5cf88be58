// Sparse products on CPU, called through XLA's foreign function interface.
//
// The handlers: the product (with bias and activation if wanted), the gradient
// for the values (and the bias), the gradient for the input, the transposition
// of a topology that the last one needs; what edits a topology (csr_select.h), and
// what augments images (csr_images.h). Any number of seed axes may stand in front
// of every operand; see csr_call.h.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "csr_call.h"
#include "csr_images.h"
#include "csr_job.h"
#include "csr_jobs.h"
#include "csr_kernels.h"
#include "csr_runtime.h"
#include "csr_select.h"
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

// Arguments cols, row_ptr; results slots, rows, col_ptr.
ffi::Future Transpose(ffi::ThreadPool pool, int32_t activation, ffi::RemainingArgs args,
                      ffi::RemainingRets rets) {
  CallReader call(args, rets, 1);
  auto job = std::make_shared<TransposeJob>();
  Topology& t = job->topology;
  t = {call.ArgSize(1, 0) - 1, call.RetSize(2, 0) - 1, call.ArgSize(0, 0), {}, {}};
  job->batch = 1;
  t.cols = call.Arg<int32_t>(0, "cols", {t.capacity});
  t.row_ptr = call.Arg<int32_t>(1, "row_ptr", {t.out + 1});
  job->slots = call.Ret<int32_t>(0, "slots", {t.capacity});
  job->rows = call.Ret<int32_t>(1, "rows", {t.capacity});
  job->col_ptr = call.Ret<int32_t>(2, "col_ptr", {t.in + 1});
  return Start(std::move(job), call, activation, pool);
}

// Arguments values, what Transpose found (slots, rows, col_ptr), dy and, unless
// the activation is the identity, what the product saved; result d_x.
ffi::Future InputGradient(ffi::ThreadPool pool, int32_t activation, ffi::RemainingArgs args,
                          ffi::RemainingRets rets) {
  CallReader call(args, rets, 2);
  auto job = std::make_shared<ProductJob>();
  Topology& t = job->topology;
  t = {call.RetSize(0, 1), call.ArgSize(4, 1), call.ArgSize(1, 0), {}, {}};
  job->batch = call.RetSize(0, 0);
  job->values = call.Arg<float>(0, "values", {t.capacity});
  job->slots = call.Arg<int32_t>(1, "slots", {t.capacity});
  t.cols = call.Arg<int32_t>(2, "rows", {t.capacity});
  t.row_ptr = call.Arg<int32_t>(3, "col_ptr", {t.out + 1});
  job->x = call.Arg<float>(4, "dy", {t.in, job->batch});
  if (activation != kIdentity) job->saved_input = call.Arg<float>(5, "saved", {t.in, job->batch});
  job->y = call.Ret<float>(0, "d_x", {t.out, job->batch});
  if (!ValidActivation(activation)) return Rejected("jaxnet csr: unknown activation");
  job->input_activation = static_cast<Activation>(activation);
  return Start(std::move(job), call, kIdentity, pool);
}

// Arguments keys and number; result positions.
ffi::Future Select(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  CallReader call(args, rets, 1);
  auto job = std::make_shared<SelectJob>();
  job->size = call.ArgSize(0, 0);
  job->room = call.RetSize(0, 0);
  job->keys = call.Arg<int32_t>(0, "keys", {job->size});
  job->number = call.Arg<int32_t>(1, "number", {});
  job->positions = call.Ret<int32_t>(0, "positions", {job->room});
  if (!call.error().empty()) return Rejected(call.error());
  job->seeds = call.seeds();
  return Run(std::move(job), pool, AvailableThreads(pool));
}

// Argument keys; result sorted.
ffi::Future Sort(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  CallReader call(args, rets, 1);
  auto job = std::make_shared<SortJob>();
  job->size = call.ArgSize(0, 0);
  job->keys = call.Arg<int32_t>(0, "keys", {job->size});
  job->sorted = call.Ret<int32_t>(0, "sorted", {job->size});
  if (!call.error().empty()) return Rejected(call.error());
  job->seeds = call.seeds();
  return Run(std::move(job), pool, AvailableThreads(pool));
}

// Arguments keys and wanted; result places.
ffi::Future Find(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  CallReader call(args, rets, 1);
  auto job = std::make_shared<FindJob>();
  job->size = call.ArgSize(0, 0);
  job->count = call.ArgSize(1, 0);
  job->keys = call.Arg<int32_t>(0, "keys", {job->size});
  job->wanted = call.Arg<int32_t>(1, "wanted", {job->count});
  job->places = call.Ret<int32_t>(0, "places", {job->count});
  if (!call.error().empty()) return Rejected(call.error());
  job->seeds = call.seeds();
  return Run(std::move(job), pool, AvailableThreads(pool));
}

// Arguments x, moves, fill; result y.
ffi::Future Move(ffi::ThreadPool pool, int32_t height, int32_t width, ffi::RemainingArgs args,
                 ffi::RemainingRets rets) {
  CallReader call(args, rets, 2);
  auto job = std::make_shared<MoveJob>();
  job->batch = call.RetSize(0, 0);
  job->height = height;
  job->width = width;
  job->channels = call.ArgSize(2, 0);
  const int64_t size = job->height * job->width * job->channels;
  job->x = call.Arg<float>(0, "x", {job->batch, size});
  job->moves = call.Arg<int32_t>(1, "moves", {job->batch, 3});
  job->fill = call.Arg<float>(2, "fill", {job->channels});
  job->y = call.Ret<float>(0, "y", {size, job->batch});
  if (!call.error().empty()) return Rejected(call.error());
  job->seeds = call.seeds();
  return Run(std::move(job), pool, AvailableThreads(pool));
}

auto KeysBinding() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets(); }

auto Binding() {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<int32_t>("activation").RemainingArgs().RemainingRets();
}

}  // namespace
}  // namespace jaxnet

// The library hides everything else.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_product, jaxnet::Product, jaxnet::Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_values_gradient, jaxnet::ValuesGradient, jaxnet::Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_transpose, jaxnet::Transpose, jaxnet::Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_input_gradient, jaxnet::InputGradient, jaxnet::Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_select, jaxnet::Select, jaxnet::KeysBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_sort, jaxnet::Sort, jaxnet::KeysBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_move, jaxnet::Move,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Attr<int32_t>("height")
                                  .Attr<int32_t>("width")
                                  .RemainingArgs()
                                  .RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnet_csr_find, jaxnet::Find, jaxnet::KeysBinding());

extern "C" {
// Raised whenever arguments or results of the handlers or the functions below change; csr_library.py compares.
int32_t jaxnet_csr_version() { return 4; }
// Version of XLA's headers, whose handlers no older XLA takes.
int32_t jaxnet_csr_xla_ffi_major() { return XLA_FFI_API_MAJOR; }
int32_t jaxnet_csr_xla_ffi_minor() { return XLA_FFI_API_MINOR; }
const char* jaxnet_csr_instruction_set() { return jaxnet::Machine().name; }
void jaxnet_csr_set_max_threads(int64_t count) { jaxnet::SetMaxThreads(count); }
}

#pragma GCC visibility pop
