/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * v6.8: "lib/stackdepot: drop valid bit from handles". No bit says any more that a handle is valid,
 * and the first one is 0.
 */
#ifdef FEATURES
#ifndef UTS_RELEASE
#define UTS_RELEASE "6.8.0"
#endif
#define GFP_BITS 420
#define PAGE_FLAG_FIELDS
#define PGP_PRINTS_THE_NUMBER
#define DEPOT_POOLS
#define DEPOT_NO_VALID
#define DEPOT_EXTRA_BITS 5
#define OWNER_PID
#define OWNER_COMM
#define OWNER_FREE_TS
#define OWNER_FREE_PID
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
	int free_pid;
	int free_tgid;
};

#define PRINT_RECORD PRINT_NO_FREE_TS
#define PFN_FORMAT "PFN 0x%lx"
#endif
