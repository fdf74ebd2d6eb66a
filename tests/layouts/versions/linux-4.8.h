/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* v4.8: commit f2ca0b557107 ("mm/page_owner: use stackdepot to store stacktrace"). */
#ifdef FEATURES
#define UTS_RELEASE "4.8.17"
#define GFP_BITS 404
#define MODULE_LAYOUT
#define KALLSYMS_BASE_RELATIVE
#define KALLSYMS_ABSOLUTE_PERCPU
#define HUGE_PAGEBLOCKS
#define STACK_TRACE_ADDRESSES
#define STATIC_KEY
#define OWNER_HANDLE
#define OWNER_MIGRATE_REASON
#else
#include "lib/stackdepot.c"

#include "page_ext-3.19.h"

struct page_ext {
	unsigned long flags;
	unsigned int order;
	gfp_t gfp_mask;
	int last_migrate_reason;
	depot_stack_handle_t handle;
};

#define PRINT_RECORD PRINT_FLAGS
#endif
