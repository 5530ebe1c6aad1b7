// Adds the products of both tiles in the group's memory to what the work item has.
BARRIER;
for (uint k = 0u; k < TK; k += 1u) {
  float right[RN];
  for (uint j = 0u; j < RN; j += 1u) {
    right[j] = b_tile[k * TN + j * GN + item_column];
  }
  for (uint i = 0u; i < RM; i += 1u) {
    const float left = a_tile[k * TM + i * GM + item_row];
    for (uint j = 0u; j < RN; j += 1u) {
      acc[i * RN + j] += left * right[j];
    }
  }
}
BARRIER;
