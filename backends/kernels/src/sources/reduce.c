// Result `r` is the reduction of `length` elements. With GROUPED a work group makes it, else a work item.
#if GROUPED
LOCAL $T part[ITEMS];
#endif
#include lane
$T s = to_$T(0);
if (r < results) {
  const uint outer = $OUTER;
  uint k = lane;
  const $T first = LOAD(x, outer + $INNER);
  s = $BEGIN;
  for (; k < length; k += ITEMS) {
    const $T e = LOAD(x, outer + $INNER);
    s = $ELEMENT;
  }
}
#if GROUPED
part[lane] = s;
BARRIER;
for (uint step = ITEMS / 2u; step > 0u; step = step / 2u) {
  if (lane < step) {
    const $T t = part[lane + step];
    s = part[lane];
    part[lane] = $JOIN;
  }
  BARRIER;
}
s = part[0];
#endif
if (r < results && lane == 0u) {
  RESULT(r, $END);
}
