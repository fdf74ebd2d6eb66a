/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* v4.4: commit 94f759d62b2c ("mm/page_owner.c: remove unnecessary stack_trace field") (in v4.0). */
#ifdef FEATURES
#define UTS_RELEASE "4.4.302"
#define GFP_BITS 404
#define PAGE_REFCOUNT _count
#define HUGE_PAGEBLOCKS
#define LETTERS
#define STACK_TRACE_ADDRESSES
#else
#include "page_ext-3.19.h"

struct page_ext {
	unsigned long flags;
	unsigned int order;
	gfp_t gfp_mask;
	unsigned int nr_entries;
	unsigned long trace_entries[8];
};

#define PRINT_RECORD PRINT_MASK
#endif
