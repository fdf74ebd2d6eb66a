/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * v4.9: commit 9300d8dfd287 ("mm/page_owner: don't define fields on struct page_ext by
 * hard-coding").
 */
#ifdef FEATURES
#define UTS_RELEASE "4.9.337"
#define GFP_BITS 404
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
};

#define PRINT_RECORD PRINT_FLAGS
#endif
