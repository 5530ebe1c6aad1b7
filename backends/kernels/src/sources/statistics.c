// What is made of each of the `length` elements of line `r` by their mean, their mean square and the sum of their absolute values.
const uint r = LINEAR;
if (r < results) {
  const uint outer = $OUTER;
  float mean = 0.0f;
  float square = 0.0f;
  float total = 0.0f;
  for (uint k = 0u; k < length; k += 1u) {
    const float v = LOAD(x, outer + $INNER);
    mean += v;
    square += v * v;
    total += abs_float(v);
  }
  mean = mean / to_float(length);
  square = square / to_float(length);
  for (uint k = 0u; k < length; k += 1u) {
    const uint at = outer + $INNER;
    const float v = LOAD(x, at);
    STORE(y, at, $VALUE);
  }
}
