// The window at each element of the result; padding is left out. Positions are signed: compilers were seen to widen unsigned ones that wrap before they add.
if (LINEAR < n) {
  const int index = to_int(LINEAR);
  const int x0 = index % ow;
  const int y0 = (index / ow) % oh;
  const int z0 = (index / (ow * oh)) % od;
  const int plane = index / (ow * oh * od);
  float s = 0.0f;
  int inside = 0;
  int padded = 0;
  for (int c = 0; c < kd; c += 1) {
    const int z = z0 * sd + c * gd - pd;
    for (int b = 0; b < kh; b += 1) {
      const int y1 = y0 * sh + b * gh - ph;
      for (int a = 0; a < kw; a += 1) {
        const int x1 = x0 * sw + a * gw - pw;
        if (z < id + ed && y1 < ih + eh && x1 < iw + ew) {
          padded += 1;
        }
        if (z >= 0 && z < id && y1 >= 0 && y1 < ih && x1 >= 0 && x1 < iw) {
          const float e = LOAD(x, ((plane * id + z) * ih + y1) * iw + x1);
          s = pick(inside == 0, $BEGIN, $ELEMENT);
          inside += 1;
        }
      }
    }
  }
  RESULT(to_uint(index), $END);
}
