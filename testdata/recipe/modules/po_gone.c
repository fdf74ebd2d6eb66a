// SPDX-License-Identifier: GPL-2.0
/* Allocates pages and is unloaded without freeing them: their frames have no symbol any more. */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>

static noinline void po_gone_get(unsigned int order)
{
	struct page *page = alloc_pages(GFP_KERNEL, order);

	if (page)
		pr_info("po_gone: pages pfn=%lu order=%u\n", page_to_pfn(page), order);
}

static int __init po_gone_init(void)
{
	int i;

	for (i = 0; i < 12; i++)
		po_gone_get(0);
	for (i = 0; i < 3; i++)
		po_gone_get(2);
	return 0;
}

static void __exit po_gone_exit(void)
{
}

module_init(po_gone_init);
module_exit(po_gone_exit);
MODULE_DESCRIPTION("leaves pages behind");
MODULE_LICENSE("GPL");
