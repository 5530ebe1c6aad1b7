// The sum of all work items' `total`s becomes the first of `part`.
part[lane] = total;
BARRIER;
for (uint step = ITEMS / 2u; step > 0u; step = step / 2u) {
  if (lane < step) {
    part[lane] = part[lane] + part[lane + step];
  }
  BARRIER;
}
