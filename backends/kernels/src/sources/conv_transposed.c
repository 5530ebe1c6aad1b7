// One work item for each element of a transposed convolution's result: it gathers what windows of the input spread to it.
const uint index = LINEAR;
if (index < n) {
  const uint x0 = index % ow;
  const uint y0 = (index / ow) % oh;
  const uint z0 = (index / (ow * oh)) % od;
  const uint filter = (index / (ow * oh * od)) % filters;
  const uint image = index / (ow * oh * od) / filters;
  const uint part = filter / outputs;
  float sum = 0.0f;
  for (uint c = 0u; c < kd; c += 1u) {
    const uint z = z0 + pd - c * gd;
    for (uint b = 0u; b < kh; b += 1u) {
      const uint y1 = y0 + ph - b * gh;
      for (uint a = 0u; a < kw; a += 1u) {
        const uint x1 = x0 + pw - a * gw;
        // What is before the input wraps, and is beyond its end then.
        if (z % sd == 0u && z / sd < id && y1 % sh == 0u && y1 / sh < ih && x1 % sw == 0u && x1 / sw < iw) {
          for (uint ch = 0u; ch < inputs; ch += 1u) {
            const uint channel = part * inputs + ch;
            const float e = LOAD(x, (((image * groups * inputs + channel) * id + z / sd) * ih + y1 / sh) * iw + x1 / sw);
            sum += e * LOAD(w, (((channel * outputs + filter % outputs) * kd + c) * kh + b) * kw + a);
          }
        }
      }
    }
  }
#if BIASED
  sum += LOAD(bias, filter);
#endif
  RESULT(index, sum);
}
