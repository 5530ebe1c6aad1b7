// RM filters of a convolution at RN positions by each work item: for devices as in product_lanes.c.
const uint z = GROUP_Z;
const uint image = z / groups;
const uint part = z % groups;
const uint row = GROUP_Y * RM;
const uint column = GROUP_X * ITEMS * RN + ITEM;
if (column < columns) {
#repeat RN j
#if WIDE
  const uint c$j = min2_uint(column + $ju * ITEMS, columns - 1u);
#else
  const uint c$j = column;
#endif
#end
#repeat RM i
  const uint filter$i = part * rows + min2_uint(row + $iu, rows - 1u);
  const uint w$i = filter$i * depth;
#if BIASED
  const float start$i = LOAD(bias, filter$i);
#else
  const float start$i = 0.0f;
#endif
#repeat RN j
  float acc$i_$j = start$i;
#end
#end
#if POINTWISE
  const uint x_base = z * inputs * columns;
  for (uint k = 0u; k < depth; k += 1u) {
#repeat RN j
    const float v$j = LOAD(x, x_base + k * columns + c$j);
#end
#repeat RM i
    const float left$i = LOAD(w, w$i + k);
#repeat RN j
    acc$i_$j += left$i * v$j;
#end
#end
  }
#else
  // Positions are signed, as in pool.c.
#repeat RN j
  const int s$j = to_int(c$j);
  const int z$j = (s$j / (ow * oh)) * sd - pd;
  const int y$j = ((s$j / ow) % oh) * sh - ph;
  const int x$j = (s$j % ow) * sw - pw;
#end
  uint k = 0u;
  for (int ch = 0; ch < inputs; ch += 1) {
    const int x_base = (to_int(z) * inputs + ch) * id * ih * iw;
    for (int c = 0; c < kd; c += 1) {
      for (int b = 0; b < kh; b += 1) {
#repeat RN j
        const int z_at$j = z$j + c * gd;
        const int y_at$j = y$j + b * gh;
        const bool inside$j = z_at$j >= 0 && z_at$j < id && y_at$j >= 0 && y_at$j < ih;
        const int line$j = x_base + (z_at$j * ih + y_at$j) * iw;
#end
        for (int a = 0; a < kw; a += 1) {
#repeat RN j
          const int x_at$j = x$j + a * gw;
          float v$j = 0.0f;
          if (inside$j && x_at$j >= 0 && x_at$j < iw) {
            v$j = LOAD(x, line$j + x_at$j);
          }
#end
#repeat RM i
          const float left$i = LOAD(w, w$i + k);
#repeat RN j
          acc$i_$j += left$i * v$j;
#end
#end
          k += 1u;
        }
      }
    }
  }
#endif
#repeat RM i
#repeat RN j
  if (row + $iu < rows && column + $ju * ITEMS < columns) {
    const float sum = acc$i_$j;
    const uint at = (image * filters + filter$i) * columns + column + $ju * ITEMS;
    RESULT(at, sum);
  }
#end
#end
}
