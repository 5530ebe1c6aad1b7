// One work item for each element of a convolution's result.
const uint index = LINEAR;
if (index < n) {
  const uint x0 = index % ow;
  const uint y0 = (index / ow) % oh;
  const uint z0 = (index / (ow * oh)) % od;
  const uint filter = (index / (ow * oh * od)) % filters;
  const uint image = index / (ow * oh * od) / filters;
  const uint part = filter / outputs;
  float sum = 0.0f;
  for (uint ch = 0u; ch < inputs; ch += 1u) {
    const uint x_base = ((image * groups + part) * inputs + ch) * id;
    const uint w_base = (filter * inputs + ch) * kd;
    for (uint c = 0u; c < kd; c += 1u) {
      const uint z = z0 * sd + c * gd - pd;
      for (uint b = 0u; b < kh; b += 1u) {
        const uint y1 = y0 * sh + b * gh - ph;
        for (uint a = 0u; a < kw; a += 1u) {
          const uint x1 = x0 * sw + a * gw - pw;
          if (z < id && y1 < ih && x1 < iw) {
            sum += LOAD(w, ((w_base + c) * kh + b) * kw + a) * LOAD(x, ((x_base + z) * ih + y1) * iw + x1);
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
