// Element `k` of the state before this step.
#if FIRST
#if STARTED
const float h = LOAD(h_start, (direction * batch + b) * hidden + k);
#else
const float h = 0.0f;
#endif
#else
const float h = LOAD(y, ((before * directions + direction) * batch + b) * hidden + k);
#endif
