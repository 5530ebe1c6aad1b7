// Where the element of a convolution's result stands that is this work item's.
const int index = to_int(LINEAR);
const int x0 = index % ow;
const int y0 = (index / ow) % oh;
const int z0 = (index / (ow * oh)) % od;
const int filter = (index / (ow * oh * od)) % filters;
const int image = index / (ow * oh * od) / filters;
const int part = filter / outputs;
