/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A 5.15 with the extra bits of v5.18 in its handles, and with its tasks' names. */
#ifdef FEATURES
#define UTS_RELEASE "5.15.0-113-generic"
#define GFP_BITS 420
#define PAGE_FLAG_FIELDS
#define PGP_PRINTS_THE_NUMBER
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
