/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* struct page_ext since v5.4. */
#include "lib/stackdepot.c"

enum page_ext_flags { PAGE_EXT_OWNER, OWNER_ALLOCATED, PAGE_EXT_YOUNG, PAGE_EXT_IDLE };

struct page_ext { unsigned long flags; };
