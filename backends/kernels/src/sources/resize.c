// Each element of an axis becomes a weighted sum of elements along it.
const uint o = LINEAR;
if (o < n) {
  const uint j = (o / inner) % count;
  const uint base = o / inner / count * size * inner + o % inner;
  const uint end = to_uint(LOAD(starts, j + 1u));
  float sum = 0.0f;
  for (uint t = to_uint(LOAD(starts, j)); t < end; t += 1u) {
    const float w = LOAD(weights, t);
    if (w != 0.0f) {
      sum += w * LOAD(x, base + to_uint(LOAD(places, t)) * inner);
    }
  }
  STORE(y, o, sum);
}
