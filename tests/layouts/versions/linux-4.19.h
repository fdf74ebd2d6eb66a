/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* v4.19. */
#ifdef FEATURES
#define UTS_RELEASE "4.19.325"
#define GFP_BITS 411
#define HAVE_PG_WAITERS
#define MEM_SECTION_POINTER
#include "features-4.9.h"
#else
#include "lib/stackdepot.c"

enum page_ext_flags {
	PAGE_EXT_DEBUG_GUARD, PAGE_EXT_OWNER, PAGE_EXT_YOUNG, PAGE_EXT_IDLE
};

struct page_ext { unsigned long flags; };

struct page_owner {
	unsigned short order;
	short last_migrate_reason;
	gfp_t gfp_mask;
	depot_stack_handle_t handle;
};

#define PRINT_RECORD PRINT_FLAGS
#endif
