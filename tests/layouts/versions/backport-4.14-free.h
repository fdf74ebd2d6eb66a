/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A vendor's 4.14 that remembers who freed a page, but has no bit that says that it is allocated: the
 * owner bit alone does.
 */
#ifdef FEATURES
#define UTS_RELEASE "4.14.336-android"
#define GFP_BITS 411
#define HAVE_PG_WAITERS
#define OWNER_FREE_HANDLE
#include "features-4.9.h"
#else
#include "lib/stackdepot.c"

#include "page_ext-3.19.h"

struct page_ext { unsigned long flags; };

struct page_owner {
	unsigned int order;
	gfp_t gfp_mask;
	int last_migrate_reason;
	depot_stack_handle_t handle;
	depot_stack_handle_t free_handle;
};

#define PRINT_RECORD PRINT_FLAGS
#endif
