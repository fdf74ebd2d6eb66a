/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A 5.3 with the first half of v5.4's series: the bit is still called PAGE_EXT_OWNER_ACTIVE, and the
 * size of an entry is still sizeof(struct page_ext) + extra_mem.
 */
#ifdef FEATURES
#define UTS_RELEASE "5.3.18-lp152"
#define GFP_BITS 420
#define OWNER_ALLOCATED PAGE_EXT_OWNER_ACTIVE
#include "features-5.4.h"
#undef PAGE_EXT_SIZE
#else
#include "page_ext-5.4.h"

struct page_owner {
	unsigned short order;
	short last_migrate_reason;
	gfp_t gfp_mask;
	depot_stack_handle_t handle;
	depot_stack_handle_t free_handle;
};

#define PRINT_RECORD PRINT_FLAGS
#endif
