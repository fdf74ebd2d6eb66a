/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The flags of struct page_ext from v3.19 (without the last two until v4.3) to v4.17. */
enum page_ext_flags {
	PAGE_EXT_DEBUG_POISON, PAGE_EXT_DEBUG_GUARD, PAGE_EXT_OWNER, PAGE_EXT_YOUNG, PAGE_EXT_IDLE
};
