// SPDX-License-Identifier: LGPL-2.1-or-later
typedef struct { unsigned long pte; } pte_t;
pte_t empty_pte __attribute__((used));

#ifdef HUGE_PAGEBLOCKS
struct hstate { unsigned int order; };
struct hstate hstates[2] __attribute__((used)) = { { 9 } };
#endif
