/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * v5.4: commits 37389167a281 ("mm, page_owner: keep owner info when freeing the page") and
 * 5556cfe8d994 ("mm, page_owner: fix off-by-one error in __set_page_owner_handle()").
 */
#ifdef FEATURES
#define UTS_RELEASE "5.4.293"
#define GFP_BITS 420
#include "features-5.4.h"
#else
#include "page_ext-5.4.h"

struct page_owner {
	unsigned short order;
	short last_migrate_reason;
	gfp_t gfp_mask;
	depot_stack_handle_t handle;
	depot_stack_handle_t free_handle;
};

#define PRINT_RECORD PRINT_FLAGS
#endif
