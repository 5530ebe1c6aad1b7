// One step of an LSTM: a work item for each element of the state.
const uint index = LINEAR;
if (index < n) {
  const uint b = index / hidden;
  const uint j = index % hidden;
  float gate[4];
  for (uint q = 0u; q < 4u; q += 1u) {
    float sum = LOAD(g, ((step * batch + b) * 4u + q) * hidden + j);
#if BIASED
    sum += LOAD(bias, (direction * 8u + q) * hidden + j) + LOAD(bias, (direction * 8u + 4u + q) * hidden + j);
#endif
    for (uint k = 0u; k < hidden; k += 1u) {
#include state
      sum += h * LOAD(w, ((direction * 4u + q) * hidden + j) * hidden + k);
    }
    gate[q] = sum;
  }
#if FIRST
#if CELLS
  const float c0 = LOAD(c_start, (direction * batch + b) * hidden + j);
#else
  const float c0 = 0.0f;
#endif
#else
  const float c0 = LOAD(cell, index);
#endif
#if PEEPHOLES
  gate[0] += c0 * LOAD(p, direction * 3u * hidden + j);
  gate[2] += c0 * LOAD(p, (direction * 3u + 2u) * hidden + j);
#endif
  const float c1 = sigmoid(gate[2]) * c0 + sigmoid(gate[0]) * tanh_(gate[3]);
#if PEEPHOLES
  gate[1] += c1 * LOAD(p, (direction * 3u + 1u) * hidden + j);
#endif
  const float h1 = sigmoid(gate[1]) * tanh_(c1);
  STORE(cell, index, c1);
  STORE(y, ((step * directions + direction) * batch + b) * hidden + j, h1);
#if STATE_OUT
  STORE(h_out, (direction * batch + b) * hidden + j, h1);
#endif
#if CELL_OUT
  STORE(c_out, (direction * batch + b) * hidden + j, c1);
#endif
}
