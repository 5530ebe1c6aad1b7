// One work item for each element of a transposed convolution's result: it gathers what windows of the input spread to it. Positions are signed, as in pool.c.
if (LINEAR < n) {
#include position
  float sum = 0.0f;
  for (int c = 0; c < kd; c += 1) {
    const int z = z0 + pd - c * gd;
    for (int b = 0; b < kh; b += 1) {
      const int y1 = y0 + ph - b * gh;
      for (int a = 0; a < kw; a += 1) {
        const int x1 = x0 + pw - a * gw;
        if (z >= 0 && y1 >= 0 && x1 >= 0 && z % sd == 0 && z / sd < id && y1 % sh == 0 && y1 / sh < ih && x1 % sw == 0 && x1 / sw < iw) {
          for (int ch = 0; ch < inputs; ch += 1) {
            const int plane = part * inputs + ch;
            const float e = LOAD(x, (((image * groups * inputs + plane) * id + z / sd) * ih + y1 / sh) * iw + x1 / sw);
            sum += e * LOAD(w, (((plane * outputs + filter % outputs) * kd + c) * kh + b) * kw + a);
          }
        }
      }
    }
  }
#if BIASED
  sum += LOAD(bias, filter);
#endif
  RESULT(to_uint(index), sum);
}
