/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * v5.15: commit 866b48526217 ("mm/page_owner: record the timestamp of all pages during free") (in
 * v5.13).
 */
#ifdef FEATURES
#define UTS_RELEASE "5.15.180"
#define GFP_BITS 420
#define PAGE_FLAG_FIELDS
#define OWNER_PID
#define OWNER_FREE_TS
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
	u64 free_ts_nsec;
	int pid;
};

#define PRINT_RECORD PRINT_FREE_TS
#endif
