// Images moved and mirrored: what augmentation does to a batch, as copies of pieces of rows.

#ifndef JAXNET_KERNELS_CSR_IMAGES_H_
#define JAXNET_KERNELS_CSR_IMAGES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "csr_call.h"
#include "csr_runtime.h"

namespace jaxnet {

// Four rows of four numbers become columns.
inline void Transpose4(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
  typedef float Four __attribute__((vector_size(16), aligned(4)));
  const auto row = [&](int64_t i) { return *reinterpret_cast<const Four*>(from + i * from_stride); };
  const Four a = row(0), b = row(1), c = row(2), d = row(3);
  const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const auto column = [&](int64_t j) -> Four& { return *reinterpret_cast<Four*>(to + j * to_stride); };
  column(0) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
  column(1) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  column(2) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
  column(3) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
#else
  for (int64_t j = 0; j < 4; ++j) {
    for (int64_t i = 0; i < 4; ++i) to[j * to_stride + i] = from[i * from_stride + j];
  }
#endif
}

// Pixel (r, c) of the result is pixel (r + down, c + right) of the image, `fill` where that lies outside;
// then, where `flip` is not 0, left and right change places. A move is (down, right, flip). The result is
// features first, as the products want it.
class MoveJob final : public Job {
 public:
  int64_t num_units() const override { return seeds * Blocks(); }

  void RunUnit(int64_t unit) override {
    const int64_t seed = unit / Blocks(), begin = unit % Blocks() * kBlock;
    const int64_t count = std::min(kBlock, batch - begin), row = width * channels;
    float* const rows = Scratch(kScratchX, kBlock * row);
    for (int64_t r = 0; r < height; ++r) {
      for (int64_t i = 0; i < count; ++i) {
        const float* const image = x[seed] + (begin + i) * height * row;
        Row(image, moves[seed] + 3 * (begin + i), fill[seed], r, rows + i * row);
      }
      float* const to = y[seed] + r * row * batch + begin;
      const int64_t whole = count == kBlock ? row / 4 * 4 : 0;
      for (int64_t j = 0; j < whole; j += 4) {
        for (int64_t i = 0; i < kBlock; i += 4) Transpose4(rows + i * row + j, row, to + j * batch + i, batch);
      }
      for (int64_t j = whole; j < row; ++j) {
        for (int64_t i = 0; i < count; ++i) to[j * batch + i] = rows[i * row + j];
      }
    }
  }

  int64_t seeds = 0, batch = 0, height = 0, width = 0, channels = 0;
  Operand<const float> x, fill;
  Operand<const int32_t> moves;
  Operand<float> y;

 private:
  static constexpr int64_t kBlock = 16;  // images: a line of the cache in the result

  int64_t Blocks() const { return (batch + kBlock - 1) / kBlock; }

  void Fill(const float* values, int64_t pixels, float* to) const {
    for (int64_t i = 0; i < pixels; ++i) {
      for (int64_t c = 0; c < channels; ++c) to[i * channels + c] = values[c];
    }
  }

  // Pixels in the order from right to left; 0 stands for a number of channels that is found out here.
  template <int kChannels>
  void Mirror(const float* in, int64_t first, int64_t last, float* out) const {
    const int64_t count = kChannels > 0 ? kChannels : channels;
    for (int64_t c = first; c < last; ++c) {
      for (int64_t k = 0; k < count; ++k) out[(width - 1 - c) * count + k] = in[c * count + k];
    }
  }

  // One row of the result.
  void Row(const float* image, const int32_t* move, const float* outside, int64_t r, float* out) const {
    const int64_t source = r + move[0];
    if (source < 0 || source >= height) {
      Fill(outside, width, out);
      return;
    }
    const int64_t right = std::clamp<int64_t>(move[1], -width, width);
    const int64_t first = std::max<int64_t>(0, -right), last = width - std::max<int64_t>(0, right);
    const float* const in = image + source * width * channels + right * channels;
    if (move[2] == 0) {
      Fill(outside, first, out);
      std::memcpy(out + first * channels, in + first * channels, sizeof(float) * (last - first) * channels);
      Fill(outside, width - last, out + last * channels);
      return;
    }
    Fill(outside, width - last, out);
    if (channels == 3) {
      Mirror<3>(in, first, last, out);
    } else if (channels == 1) {
      Mirror<1>(in, first, last, out);
    } else {
      Mirror<0>(in, first, last, out);
    }
    Fill(outside, first, out + (width - first) * channels);
  }
};

}  // namespace jaxnet

#endif  // JAXNET_KERNELS_CSR_IMAGES_H_
