// Row `r` of `length` elements: the largest, then the sum of exponentials about it, then what is asked for.
#if GROUPED
LOCAL float part[ITEMS];
const uint r = LINEAR / ITEMS;
const uint lane = ITEM;
#else
const uint r = LINEAR;
const uint lane = 0u;
#endif
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
float sum = 0.0f;
if (r < results) {
  for (uint k = lane; k < length; k += ITEMS) {
    sum += exp(LOAD(x, outer + $INNER) - largest);
  }
}
#if GROUPED
part[lane] = sum;
BARRIER;
for (uint step = ITEMS / 2u; step > 0u; step = step / 2u) {
  if (lane < step) {
    part[lane] = part[lane] + part[lane + step];
  }
  BARRIER;
}
sum = part[0];
#endif
if (r < results) {
#if SUM
  if (lane == 0u) {
    STORE(y, r, log(sum) + largest);
  }
#else
  const float scale = log(sum);
  for (uint k = lane; k < length; k += ITEMS) {
    const uint at = outer + $INNER;
#if LOG
    STORE(y, at, LOAD(x, at) - largest - scale);
#else
    STORE(y, at, exp(LOAD(x, at) - largest) / sum);
#endif
  }
#endif
}
