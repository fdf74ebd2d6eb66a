/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * v4.6: the names are the kernel's, and a page can tell that it was migrated: commits 60f30350fd69
 * ("mm, page_owner: print migratetype of page and pageblock, symbolic flags") and 7cd12b4abfd2
 * ("mm, page_owner: track and print last migrate reason").
 */
#ifdef FEATURES
#define UTS_RELEASE "4.6.7"
#define GFP_BITS 404
#define PAGE_REFCOUNT _count
#define MODULE_LAYOUT
#define HUGE_PAGEBLOCKS
#define STACK_TRACE_ADDRESSES
#define STATIC_KEY
#define OWNER_MIGRATE_REASON
#else
#include "page_ext-3.19.h"

struct page_ext {
	unsigned long flags;
	unsigned int order;
	gfp_t gfp_mask;
	unsigned int nr_entries;
	int last_migrate_reason;
	unsigned long trace_entries[8];
};

#define PRINT_RECORD PRINT_FLAGS
#endif
