// SPDX-License-Identifier: GPL-2.0
/* Its only pointers to its pages are in its own data, and it is unloaded without freeing them. */
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>

static void *pages[12];

static noinline void *po_leakgone_get(unsigned int order)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_ZERO, order);

	if (!page)
		return NULL;
	pr_info("po_leakgone: leaked how=gone pfn=%lu order=%u\n", page_to_pfn(page), order);
	return page_address(page);
}

static noinline void clear_stack(int depth)
{
	char bytes[1024];

	memset(bytes, 0, sizeof(bytes));
	if (depth)
		clear_stack(depth - 1);
	asm volatile("" : : "r"(bytes) : "memory");
}

static int __init po_leakgone_init(void)
{
	struct page *page, *next;
	LIST_HEAD(recent);
	int i;

	/* The pages that were freed last are known to others by stale addresses: take others. */
	for (i = 0; i < 1000; i++) {
		page = alloc_pages(GFP_KERNEL, 0);
		if (page)
			list_add(&page->lru, &recent);
	}
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		WRITE_ONCE(pages[i], po_leakgone_get(i < 8 ? 0 : 2));
	list_for_each_entry_safe(page, next, &recent, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
	clear_stack(7);
	return 0;
}

static void __exit po_leakgone_exit(void)
{
}

module_init(po_leakgone_init);
module_exit(po_leakgone_exit);
MODULE_DESCRIPTION("leaves pages behind that only its data pointed to");
MODULE_LICENSE("GPL");
