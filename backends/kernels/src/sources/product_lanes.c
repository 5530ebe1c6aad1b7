// RM rows of a product by each work item, in one column: for devices whose work items are lanes of a processor's vectors, and whose groups share no memory of
// their own.
const uint z = GROUP_Z;
const uint row = GROUP_Y * RM;
const uint column = GROUP_X * ITEMS + ITEM;
if (column < columns) {
  const uint a_base = $A_BASE;
  const uint b_base = $B_BASE;
#repeat RM
  float acc$i = 0.0f;
  const uint a$i = a_base + min2_uint(row + $iu, rows - 1u) * a_row;
#end
  for (uint k = 0u; k < depth; k += 1u) {
    const float right = LOAD(b, b_base + k * b_row + column * b_column);
#repeat RM
    acc$i += LOAD(a, a$i + k * a_column) * right;
#end
  }
#repeat RM
  if (row + $iu < rows) {
    const float sum = acc$i;
    const uint at = (z * rows + row + $iu) * columns + column;
    RESULT(at, $VALUE);
  }
#end
}
