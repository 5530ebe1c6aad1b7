// The window at each element of the result; padding is left out.
const uint index = LINEAR;
if (index < n) {
  const uint x0 = index % ow;
  const uint y0 = (index / ow) % oh;
  const uint z0 = (index / (ow * oh)) % od;
  const uint plane = index / (ow * oh * od);
  float s = 0.0f;
  uint inside = 0u;
  uint padded = 0u;
  for (uint c = 0u; c < kd; c += 1u) {
    const uint z = z0 * sd + c * gd;
    for (uint b = 0u; b < kh; b += 1u) {
      const uint y1 = y0 * sh + b * gh;
      for (uint a = 0u; a < kw; a += 1u) {
        const uint x1 = x0 * sw + a * gw;
        if (z < id + pd + ed && y1 < ih + ph + eh && x1 < iw + pw + ew) {
          padded += 1u;
        }
        if (z >= pd && z < id + pd && y1 >= ph && y1 < ih + ph && x1 >= pw && x1 < iw + pw) {
          const float e = LOAD(x, ((plane * id + z - pd) * ih + y1 - ph) * iw + x1 - pw);
          s = pick(inside == 0u, $BEGIN, $ELEMENT);
          inside += 1u;
        }
      }
    }
  }
  RESULT(index, $END);
}
