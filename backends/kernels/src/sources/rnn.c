// One step of a plain recurrent network: a work item for each element of the state.
const uint index = LINEAR;
if (index < n) {
  const uint b = index / hidden;
  const uint j = index % hidden;
  float sum = LOAD(g, (step * batch + b) * hidden + j);
#if BIASED
  sum += LOAD(bias, direction * 2u * hidden + j) + LOAD(bias, (direction * 2u + 1u) * hidden + j);
#endif
  for (uint k = 0u; k < hidden; k += 1u) {
#include state
      sum += h * LOAD(w, (direction * hidden + j) * hidden + k);
  }
  const float h1 = tanh_(sum);
  STORE(y, ((step * directions + direction) * batch + b) * hidden + j, h1);
#if STATE_OUT
  STORE(h_out, (direction * batch + b) * hidden + j, h1);
#endif
}
