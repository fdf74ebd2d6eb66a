/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* v3.19: commit 48c96a368579 ("mm/page_owner: keep track of page owners"). */
#ifdef FEATURES
#define UTS_RELEASE "3.19.8"
#define GFP_BITS 319
#define PAGE_REFCOUNT _count
#define MIGRATE_RECLAIMABLE_FIRST
#define HAVE_PG_TAIL
#define LETTERS
#define STACK_TRACE_ADDRESSES
#define OWNER_TRACE
#else
#include "page_ext-3.19.h"

struct stack_trace {
	unsigned int nr_entries, max_entries;
	unsigned long *entries;
	int skip;
};

struct page_ext {
	unsigned long flags;
	unsigned int order;
	gfp_t gfp_mask;
	struct stack_trace trace;
	unsigned long trace_entries[8];
};

#define PRINT_RECORD PRINT_MASK
#endif
