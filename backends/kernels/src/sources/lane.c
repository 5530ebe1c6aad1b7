// Which row `r` is made, and by which of ITEMS work items: with GROUPED a work group makes it, else one work item.
#if GROUPED
const uint r = LINEAR / ITEMS;
const uint lane = ITEM;
#else
const uint r = LINEAR;
const uint lane = 0u;
#endif
