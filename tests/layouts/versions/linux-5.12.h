/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* v5.12: commit 9cc7e96aa846 ("mm/page_owner: record timestamp and pid") (in v5.11). */
#ifdef FEATURES
#define UTS_RELEASE "5.12.19"
#define GFP_BITS 420
#define PAGE_FLAG_FIELDS
#define OWNER_PID
#include "features-5.4.h"
#else
#include "page_ext-5.4.h"

struct page_owner {
	unsigned short order;
	short last_migrate_reason;
	gfp_t gfp_mask;
	depot_stack_handle_t handle;
	depot_stack_handle_t free_handle;
	u64 ts_nsec;
	int pid;
};

#define PRINT_RECORD PRINT_PID
#endif
