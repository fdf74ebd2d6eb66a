/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sizes of this kernel's pages. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PAGE ((size_t)sysconf(_SC_PAGESIZE))

/* What a transparent huge page is here; without them, some size to align to. */
static inline size_t huge_page_size(void)
{
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "r");
	size_t size = 0;

	if (file && fscanf(file, "%zu", &size) != 1)
		size = 0;
	if (file)
		fclose(file);
	return size ? size : 2UL << 20;
}

/* hugetlbfs' default: HPAGE_SIZE. */
static inline size_t hugetlb_page_size(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	char line[100];
	size_t kilobytes = 0;

	while (file && !kilobytes && fgets(line, sizeof(line), file))
		sscanf(line, "Hugepagesize: %zu kB", &kilobytes);
	if (file)
		fclose(file);
	return kilobytes << 10;
}
