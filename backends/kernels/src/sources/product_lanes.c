// RM rows by RN columns of a product by each work item: for devices whose work items are lanes of a processor's vectors, and whose groups share no memory of
// their own. Columns of neighbours are neighbours.
const uint z = GROUP_Z;
const uint row = GROUP_Y * RM;
const uint column = GROUP_X * ITEMS * RN + ITEM;
if (column < columns) {
  const uint a_base = $A_BASE;
  const uint b_base = $B_BASE;
#repeat RN j
#if WIDE
  const uint c$j = min2_uint(column + $ju * ITEMS, columns - 1u) * b_column;
#else
  const uint c$j = column * b_column;
#endif
#end
#repeat RM i
  const uint a$i = a_base + min2_uint(row + $iu, rows - 1u) * a_row;
#repeat RN j
  float acc$i_$j = 0.0f;
#end
#end
  for (uint k = 0u; k < depth; k += 1u) {
#repeat RN j
    const float right$j = LOAD(b, b_base + k * b_row + c$j);
#end
#repeat RM i
    const float left$i = LOAD(a, a$i + k * a_column);
#repeat RN j
    acc$i_$j += left$i * right$j;
#end
#end
  }
#repeat RM i
#repeat RN j
  if (row + $iu < rows && column + $ju * ITEMS < columns) {
    const float sum = acc$i_$j;
    const uint at = (z * rows + row + $iu) * columns + column + $ju * ITEMS;
    RESULT(at, $VALUE);
  }
#end
#end
}
