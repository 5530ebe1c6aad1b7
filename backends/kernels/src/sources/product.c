// A tile of TM by TN elements of a product, by a group of GM by GN work items with RM by RN elements each. Tiles of both factors, TK deep, pass through the
// group's memory.
LOCAL float a_tile[TM * TK];
LOCAL float b_tile[TN * TK];
const uint z = GROUP_Z;
const uint row = GROUP_Y * TM;
const uint column = GROUP_X * TN;
const uint a_base = $A_BASE;
const uint b_base = $B_BASE;
const uint item_row = ITEM / GN;
const uint item_column = ITEM % GN;
float acc[RM * RN];
for (uint i = 0u; i < RM * RN; i += 1u) {
  acc[i] = 0.0f;
}
for (uint k0 = 0u; k0 < depth; k0 += TK) {
  for (uint t = ITEM; t < TM * TK; t += ITEMS) {
#if A_DEPTH_FIRST
    const uint k = k0 + t % TK;
    const uint m = t / TK;
#else
    const uint k = k0 + t / TM;
    const uint m = t % TM;
#endif
    float v = 0.0f;
    if (row + m < rows && k < depth) {
      v = LOAD(a, a_base + (row + m) * a_row + k * a_column);
    }
    a_tile[(k - k0) * TM + m] = v;
  }
  for (uint t = ITEM; t < TN * TK; t += ITEMS) {
    const uint k = k0 + t / TN;
    const uint n = t % TN;
    float v = 0.0f;
    if (column + n < columns && k < depth) {
      v = LOAD(b, b_base + k * b_row + (column + n) * b_column);
    }
    b_tile[(k - k0) * TN + n] = v;
  }
#include tile
}
for (uint i = 0u; i < RM; i += 1u) {
  for (uint j = 0u; j < RN; j += 1u) {
    const uint m = row + i * GM + item_row;
    const uint n = column + j * GN + item_column;
    if (m < rows && n < columns) {
      const float sum = acc[i * RN + j];
      const uint at = (z * rows + m) * columns + n;
      RESULT(at, $VALUE);
    }
  }
}
