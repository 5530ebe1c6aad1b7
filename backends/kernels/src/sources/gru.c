// One step of a GRU in two launches, a work item for each element of the state: first the gates, then the state, which needs all of what the reset gate keeps.
const uint index = LINEAR;
if (index < n) {
  const uint b = index / hidden;
  const uint j = index % hidden;
#if GATES
  float z = LOAD(g, (step * batch + b) * 3u * hidden + j);
  float r = LOAD(g, ((step * batch + b) * 3u + 1u) * hidden + j);
#if BIASED
  z += LOAD(bias, direction * 6u * hidden + j) + LOAD(bias, (direction * 6u + 3u) * hidden + j);
  r += LOAD(bias, (direction * 6u + 1u) * hidden + j) + LOAD(bias, (direction * 6u + 4u) * hidden + j);
#endif
  float u = 0.0f;
  for (uint k = 0u; k < hidden; k += 1u) {
#include state
      z += h * LOAD(w, (direction * 3u * hidden + j) * hidden + k);
      r += h * LOAD(w, ((direction * 3u + 1u) * hidden + j) * hidden + k);
      u += h * LOAD(w, ((direction * 3u + 2u) * hidden + j) * hidden + k);
  }
  STORE(update, index, sigmoid(z));
#if LINEAR
#if BIASED
  u += LOAD(bias, (direction * 6u + 5u) * hidden + j);
#endif
  STORE(kept, index, sigmoid(r) * u);
#else
  {
    const uint k = j;
#include state
    STORE(kept, index, sigmoid(r) * h);
  }
#endif
#else
  float u = LOAD(g, ((step * batch + b) * 3u + 2u) * hidden + j);
#if BIASED
  u += LOAD(bias, (direction * 6u + 2u) * hidden + j);
#endif
#if LINEAR
  u += LOAD(kept, index);
#else
#if BIASED
  u += LOAD(bias, (direction * 6u + 5u) * hidden + j);
#endif
  for (uint k = 0u; k < hidden; k += 1u) {
    u += LOAD(kept, b * hidden + k) * LOAD(w, ((direction * 3u + 2u) * hidden + j) * hidden + k);
  }
#endif
  const float z = LOAD(update, index);
  const uint k = j;
#include state
  const float h1 = (1.0f - z) * tanh_(u) + z * h;
  STORE(y, ((step * directions + direction) * batch + b) * hidden + j, h1);
#if STATE_OUT
  STORE(h_out, (direction * batch + b) * hidden + j, h1);
#endif
#endif
}
