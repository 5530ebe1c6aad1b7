// One work item for each element of a convolution's result. Positions are signed, as in pool.c.
if (LINEAR < n) {
#include position
  float sum = 0.0f;
  for (int ch = 0; ch < inputs; ch += 1) {
    const int x_base = ((image * groups + part) * inputs + ch) * id;
    const int w_base = (filter * inputs + ch) * kd;
    for (int c = 0; c < kd; c += 1) {
      const int z = z0 * sd + c * gd - pd;
      for (int b = 0; b < kh; b += 1) {
        const int y1 = y0 * sh + b * gh - ph;
        for (int a = 0; a < kw; a += 1) {
          const int x1 = x0 * sw + a * gw - pw;
          if (z >= 0 && z < id && y1 >= 0 && y1 < ih && x1 >= 0 && x1 < iw) {
            sum += LOAD(w, ((w_base + c) * kh + b) * kw + a) * LOAD(x, ((x_base + z) * ih + y1) * iw + x1);
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
