// A work group normalises row `r` of `length` elements by its mean and variance; with SQUARE by its mean square.
LOCAL float part[ITEMS];
const uint r = LINEAR / ITEMS;
const uint lane = ITEM;
const uint base = r * length;
float mean = 0.0f;
float total = 0.0f;
#if !SQUARE
if (r < results) {
  for (uint k = lane; k < length; k += ITEMS) {
    total += LOAD(x, base + k);
  }
}
#include total
mean = part[0] / to_float(length);
BARRIER;
#endif
total = 0.0f;
if (r < results) {
  for (uint k = lane; k < length; k += ITEMS) {
    const float d = LOAD(x, base + k) - mean;
    total += d * d;
  }
}
#include total
const float inverse = 1.0f / sqrt(part[0] / to_float(length) + epsilon);
if (r < results) {
#if MEAN
  if (lane == 0u) {
    STORE(mean_out, r, mean);
  }
#endif
#if INVERSE
  if (lane == 0u) {
    STORE(inverse_out, r, inverse);
  }
#endif
  for (uint k = lane; k < length; k += ITEMS) {
    const uint at = base + k;
    float v = (LOAD(x, at) - mean) * inverse;
#if SCALED
    v = v * LOAD(scale, $SCALE_INDEX);
#endif
#if BIASED
    v = v + LOAD(bias, $BIAS_INDEX);
#endif
    RESULT(at, v);
  }
}
