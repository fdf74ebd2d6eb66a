/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* v6.4: commit 961c949b012f ("lib/stackdepot: rename slab to pool") (in v6.3). */
#ifdef FEATURES
#define UTS_RELEASE "6.4.16"
#define GFP_BITS 420
#define PAGE_FLAG_FIELDS
#define PGP_PRINTS_THE_NUMBER
#define DEPOT_POOLS
#define DEPOT_EXTRA_BITS 5
#define OWNER_PID
#define OWNER_COMM
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
	char comm[16];
	int pid;
	int tgid;
};

#define PRINT_RECORD PRINT_COMM
#define PFN_FORMAT "PFN %lu"
#endif
