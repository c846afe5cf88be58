// The operands of one call: checked against one another, with their seed axes.

#ifndef JAXNET_KERNELS_CSR_CALL_H_
#define JAXNET_KERNELS_CSR_CALL_H_

#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace jaxnet {

// An array with one item per seed. Leading axes of length 1 are shared by all
// seeds of that axis, which is how `vmap` hands over what it does not map.
template <typename T>
struct Operand {
  T* data = nullptr;
  // Where the item of each seed begins; empty if all seeds share one.
  std::vector<int64_t> begin;

  bool present() const { return data != nullptr; }
  bool shared() const { return begin.empty(); }
  T* operator[](int64_t seed) const { return begin.empty() || data == nullptr ? data : data + begin[seed]; }
};

class CallReader {
 public:
  CallReader(xla::ffi::RemainingArgs args, xla::ffi::RemainingRets rets, int64_t result_rank)
      : args_(args), rets_(rets) {
    auto first = rets.get<xla::ffi::AnyBuffer>(0);
    if (!first.has_value() || static_cast<int64_t>((*first)->dimensions().size()) < result_rank) {
      Reject("the first result is missing or has too few axes");
      return;
    }
    const auto dims = (*first)->dimensions();
    lead_.assign(dims.begin(), dims.end() - result_rank);
    for (int64_t size : lead_) seeds_ *= size;
  }

  const std::string& error() const { return error_; }
  int64_t seeds() const { return seeds_; }

  // Length of axis `axis` from the end, 0 if there is none.
  int64_t ArgSize(size_t index, size_t axis_from_end) {
    auto buffer = args_.get<xla::ffi::AnyBuffer>(index);
    return buffer.has_value() ? Size(buffer->dimensions(), axis_from_end) : 0;
  }
  int64_t RetSize(size_t index, size_t axis_from_end) {
    auto buffer = rets_.get<xla::ffi::AnyBuffer>(index);
    return buffer.has_value() ? Size((*buffer)->dimensions(), axis_from_end) : 0;
  }

  // Argument `index`, whose item must have shape `item`.
  template <typename T>
  Operand<const T> Arg(size_t index, const char* name, const std::vector<int64_t>& item) {
    auto buffer = args_.get<xla::ffi::AnyBuffer>(index);
    if (!buffer.has_value()) {
      Reject(std::string("argument ") + name + " is missing");
      return {};
    }
    return Read<const T>(*buffer, name, item, true);
  }

  // Result `index`; results have an item for every seed.
  template <typename T>
  Operand<T> Ret(size_t index, const char* name, const std::vector<int64_t>& item) {
    auto buffer = rets_.get<xla::ffi::AnyBuffer>(index);
    if (!buffer.has_value()) {
      Reject(std::string("result ") + name + " is missing");
      return {};
    }
    return Read<T>(**buffer, name, item, false);
  }

 private:
  using Dims = xla::ffi::AnyBuffer::Dimensions;

  static int64_t Size(Dims dims, size_t axis_from_end) {
    return axis_from_end < dims.size() ? dims[dims.size() - 1 - axis_from_end] : 0;
  }

  void Reject(const std::string& message) {
    if (error_.empty()) error_ = "jaxnet csr: " + message;
  }

  template <typename Sizes>
  static std::string Text(const Sizes& sizes) {
    std::ostringstream text;
    text << "(";
    for (size_t i = 0; i < sizes.size(); ++i) text << (i ? ", " : "") << sizes[i];
    text << ")";
    return text.str();
  }

  template <typename T>
  Operand<T> Read(const xla::ffi::AnyBuffer& buffer, const char* name, const std::vector<int64_t>& item,
                  bool may_share) {
    constexpr bool kIsFloat = std::is_same_v<std::remove_const_t<T>, float>;
    if (buffer.element_type() != (kIsFloat ? xla::ffi::DataType::F32 : xla::ffi::DataType::S32)) {
      Reject(std::string(name) + " must be " + (kIsFloat ? "float32" : "int32"));
      return {};
    }
    const Dims dims = buffer.dimensions();
    const size_t lead = lead_.size();
    bool fits = dims.size() == lead + item.size();
    for (size_t i = 0; fits && i < item.size(); ++i) fits = dims[lead + i] == item[i];
    for (size_t i = 0; fits && i < lead; ++i) {
      fits = dims[i] == lead_[i] || (may_share && dims[i] == 1);
    }
    if (!fits) {
      Reject(std::string(name) + " has shape " + Text(dims) + " where seed axes " + Text(lead_) +
             (may_share ? " (or 1)" : "") + " and then " + Text(item) + " are needed");
      return {};
    }
    int64_t size = 1;
    for (int64_t length : item) size *= length;
    // An empty array may come without memory; any address will do for it.
    static std::remove_const_t<T> nothing[1] = {};
    Operand<T> operand;
    operand.data = buffer.untyped_data() ? static_cast<T*>(buffer.untyped_data()) : nothing;
    bool shared = true;
    for (size_t i = 0; i < lead; ++i) shared = shared && dims[i] == 1;
    if (shared) return operand;
    operand.begin.resize(seeds_);
    for (int64_t seed = 0; seed < seeds_; ++seed) {
      int64_t rest = seed, stride = size, at = 0;
      for (size_t i = lead; i-- > 0;) {
        if (dims[i] != 1) at += rest % lead_[i] * stride;
        stride *= dims[i];
        rest /= lead_[i];
      }
      operand.begin[seed] = at;
    }
    return operand;
  }

  xla::ffi::RemainingArgs args_;
  xla::ffi::RemainingRets rets_;
  std::vector<int64_t> lead_;
  int64_t seeds_ = 1;
  std::string error_;
};

}  // namespace jaxnet

#endif  // JAXNET_KERNELS_CSR_CALL_H_
