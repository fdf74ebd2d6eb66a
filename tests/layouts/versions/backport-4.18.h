/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A distribution's 4.18 (as RHEL 8's): sections, gfp flags and symbols are those of 4.18, the records
 * are v5.4's and later ones'.
 */
#ifdef FEATURES
#define UTS_RELEASE "4.18.0-553.el8.x86_64"
#define GFP_BITS 411
#define HAVE_PG_WAITERS
#define MEM_SECTION_POINTER
#define PAGE_EXT_SIZE
#define OWNER_OF_TAILS
#define OWNER_ALLOCATED PAGE_EXT_OWNER_ALLOCATED
#define OWNER_FREE_HANDLE
#define OWNER_PID
#include "features-4.9.h"
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
