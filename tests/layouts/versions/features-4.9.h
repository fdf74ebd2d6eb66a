/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What every layout since v4.9 has. */
#define MODULE_LAYOUT
#define KALLSYMS_BASE_RELATIVE
#define HUGE_PAGEBLOCKS
#define STATIC_KEY
#define PAGE_EXT_OFFSET
#define OWNER_HANDLE
#define OWNER_MIGRATE_REASON
