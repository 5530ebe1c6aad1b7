// RM filters of a convolution by each work item, at one position: for devices as in product_lanes.c.
const uint z = GROUP_Z;
const uint image = z / groups;
const uint part = z % groups;
const uint row = GROUP_Y * RM;
const uint column = GROUP_X * ITEMS + ITEM;
if (column < columns) {
#repeat RM
  float acc$i = 0.0f;
  const uint w$i = (part * rows + min2_uint(row + $iu, rows - 1u)) * depth;
#end
#if POINTWISE
  const uint x_base = z * inputs * columns + column;
  for (uint k = 0u; k < depth; k += 1u) {
    const float v = LOAD(x, x_base + k * columns);
#repeat RM
    acc$i += LOAD(w, w$i + k) * v;
#end
  }
#else
  // Positions are signed, as in pool.c.
  const int s = to_int(column);
  const int z0 = (s / (ow * oh)) * sd - pd;
  const int y0 = ((s / ow) % oh) * sh - ph;
  const int x0 = (s % ow) * sw - pw;
  uint k = 0u;
  for (int ch = 0; ch < inputs; ch += 1) {
    const int x_base = (to_int(z) * inputs + ch) * id * ih * iw;
    for (int c = 0; c < kd; c += 1) {
      const int at_z = z0 + c * gd;
      for (int b = 0; b < kh; b += 1) {
        const int at_y = y0 + b * gh;
        const bool inside = at_z >= 0 && at_z < id && at_y >= 0 && at_y < ih;
        const int line = x_base + (at_z * ih + at_y) * iw;
        for (int a = 0; a < kw; a += 1) {
          const int at_x = x0 + a * gw;
          float v = 0.0f;
          if (inside && at_x >= 0 && at_x < iw) {
            v = LOAD(x, line + at_x);
          }
#repeat RM
          acc$i += LOAD(w, w$i + k) * v;
#end
          k += 1u;
        }
      }
    }
  }
#endif
#repeat RM
  if (row + $iu < rows) {
    const uint filter = part * rows + row + $iu;
    float sum = acc$i;
#if BIASED
    sum += LOAD(bias, filter);
#endif
    const uint at = (image * filters + filter) * columns + column;
    RESULT(at, sum);
  }
#end
}
