// Each element over a power of the squares of its neighbours along the channels.
if (LINEAR < n) {
  const uint at = LINEAR;
  const uint c = at / plane % channels;
  const uint first = c - min2_uint(c, before);
  const uint last = min2_uint(c + after, channels - 1u);
  const uint base = at - c * plane;
  float squares = 0.0f;
  for (uint k = first; k <= last; k += 1u) {
    const float e = LOAD(x, base + k * plane);
    squares += e * e;
  }
  const float v = LOAD(x, at) / power(offset + factor * squares, beta);
  RESULT(at, v);
}
