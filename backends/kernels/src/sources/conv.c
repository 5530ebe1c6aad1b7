// A convolution as the product of the weights, `rows` by `depth`, with the matrix of windows, whose elements are found in the image when they are needed.
// `z` counts images and groups of channels.
LOCAL float a_tile[TM * TK];
LOCAL float b_tile[TN * TK];
const uint z = GROUP_Z;
const uint image = z / groups;
const uint part = z % groups;
const uint row = GROUP_Y * TM;
const uint column = GROUP_X * TN;
const uint item_row = ITEM / GN;
const uint item_column = ITEM % GN;
const uint w_base = part * rows * depth;
#if POINTWISE
const uint x_base = z * inputs * columns;
#else
const int x_base = to_int(z) * inputs * id * ih * iw;
#endif
float acc[RM * RN];
for (uint i = 0u; i < RM * RN; i += 1u) {
  acc[i] = 0.0f;
}
for (uint k0 = 0u; k0 < depth; k0 += TK) {
  for (uint t = ITEM; t < TM * TK; t += ITEMS) {
    const uint k = k0 + t % TK;
    const uint m = t / TK;
    float v = 0.0f;
    if (row + m < rows && k < depth) {
      v = LOAD(w, w_base + (row + m) * depth + k);
    }
    a_tile[(k - k0) * TM + m] = v;
  }
  for (uint t = ITEM; t < TN * TK; t += ITEMS) {
    const uint k = k0 + t / TN;
    const uint c = column + t % TN;
    float v = 0.0f;
    if (c < columns && k < depth) {
#if POINTWISE
      v = LOAD(x, x_base + k * columns + c);
#else
      // Positions are signed, as in pool.c.
      const int s = to_int(c);
      const int at_z = (s / (ow * oh)) * sd + LOAD(taps, k * 4u + 1u) - pd;
      const int at_y = ((s / ow) % oh) * sh + LOAD(taps, k * 4u + 2u) - ph;
      const int at_x = (s % ow) * sw + LOAD(taps, k * 4u + 3u) - pw;
      if (at_z >= 0 && at_z < id && at_y >= 0 && at_y < ih && at_x >= 0 && at_x < iw) {
        v = LOAD(x, x_base + LOAD(taps, k * 4u) + (at_z * ih + at_y) * iw + at_x);
      }
#endif
    }
    b_tile[(k - k0) * TN + t % TN] = v;
  }
#include tile
}
for (uint i = 0u; i < RM; i += 1u) {
  for (uint j = 0u; j < RN; j += 1u) {
    const uint m = row + i * GM + item_row;
    const uint c = column + j * GN + item_column;
    if (m < rows && c < columns) {
      const uint filter = part * rows + m;
      float sum = acc[i * RN + j];
#if BIASED
      sum += LOAD(bias, filter);
#endif
      const uint at = (image * filters + filter) * columns + c;
      RESULT(at, sum);
    }
  }
}
