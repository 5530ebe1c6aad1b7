// Row `r` of `length` elements: the largest, then the sum of exponentials about it, then what is asked for.
#if GROUPED
LOCAL float part[ITEMS];
#endif
#include lane
float s = 0.0f;
uint outer = 0u;
if (r < results) {
  outer = $OUTER;
  uint k = lane;
  s = LOAD(x, outer + $INNER);
  for (; k < length; k += ITEMS) {
    s = max2(s, LOAD(x, outer + $INNER));
  }
}
#if GROUPED
part[lane] = s;
BARRIER;
for (uint step = ITEMS / 2u; step > 0u; step = step / 2u) {
  if (lane < step) {
    part[lane] = max2(part[lane], part[lane + step]);
  }
  BARRIER;
}
s = part[0];
BARRIER;
#endif
// Exponentials about an infinity would be NaN.
const float largest = pick(is_inf(s) && s < 0.0f, 0.0f, s);
float total = 0.0f;
if (r < results) {
  for (uint k = lane; k < length; k += ITEMS) {
    total += exp(LOAD(x, outer + $INNER) - largest);
  }
}
#if GROUPED
#include total
total = part[0];
#endif
if (r < results) {
#if SUM
  if (lane == 0u) {
    STORE(y, r, pick(is_inf(s), s, log(total) + largest));
  }
#else
  const float scale = log(total);
  for (uint k = lane; k < length; k += ITEMS) {
    const uint at = outer + $INNER;
#if LOG
    STORE(y, at, LOAD(x, at) - largest - scale);
#else
    STORE(y, at, exp(LOAD(x, at) - largest) / total);
#endif
  }
#endif
}
