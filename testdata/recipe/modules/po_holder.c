// SPDX-License-Identifier: GPL-2.0
/* Stays loaded and holds pages of several kinds; says which on the kernel log. */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#define SINGLES 24

static struct page *singles[SINGLES], *pairs[6], *blocks[3];
static void *table, *large[2];

static noinline struct page *po_holder_get(unsigned int order)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_ZERO, order);

	if (page)
		pr_info("po_holder: pages pfn=%lu order=%u\n", page_to_pfn(page), order);
	return page;
}

static int __init po_holder_init(void)
{
	void *memory;
	int i;

	/* WRITE_ONCE: what nobody reads the compiler would not write at all. */
	for (i = 0; i < ARRAY_SIZE(singles); i++)
		WRITE_ONCE(singles[i], po_holder_get(0));
	for (i = 0; i < ARRAY_SIZE(pairs); i++)
		WRITE_ONCE(pairs[i], po_holder_get(1));
	for (i = 0; i < ARRAY_SIZE(blocks); i++)
		WRITE_ONCE(blocks[i], po_holder_get(3));
	for (i = 0; i < ARRAY_SIZE(large); i++) {
		memory = kmalloc(4 * PAGE_SIZE, GFP_KERNEL);
		WRITE_ONCE(large[i], memory);
		pr_info("po_holder: kmalloc pfn=%lu order=2\n", page_to_pfn(virt_to_page(memory)));
	}
	memory = vmalloc(10 * PAGE_SIZE);
	WRITE_ONCE(table, memory);
	for (i = 0; memory && i < 10; i++)
		pr_info("po_holder: vmalloc va=0x%lx pfn=%lu order=0\n",
			(unsigned long)memory + i * PAGE_SIZE,
			vmalloc_to_pfn(memory + i * PAGE_SIZE));
	return 0;
}

static void __exit po_holder_exit(void)
{
}

module_init(po_holder_init);
module_exit(po_holder_exit);
MODULE_DESCRIPTION("holds pages");
MODULE_LICENSE("GPL");
