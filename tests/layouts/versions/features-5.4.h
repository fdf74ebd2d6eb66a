/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What mainline has since v5.4. */
#include "features-4.9.h"
#define HAVE_PG_WAITERS
#define MEM_SECTION_POINTER
#define PAGE_EXT_SIZE
#define OWNER_OF_TAILS
#define OWNER_FREE_HANDLE
#define ATOMIC_MANAGED_PAGES
#define MEM_SECTION_USAGE
#define KALLSYMS_MARKER unsigned int
#ifndef OWNER_ALLOCATED
#define OWNER_ALLOCATED PAGE_EXT_OWNER_ALLOCATED
#endif
