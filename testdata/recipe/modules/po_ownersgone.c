// SPDX-License-Identifier: GPL-2.0
/*
 * Drops pages, slab objects and per-CPU memory, some of which only its own data knows, and is then
 * unloaded: its allocation tags, its functions and the operations that its objects point to are gone.
 */
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/slab.h>

#define COUNT 8
#define RECENT 600

static void *pages[COUNT], *objects[COUNT], *items[COUNT];
static u64 __percpu *counters[COUNT];
static struct kmem_cache *cache;

static noinline int po_ownersgone_open(void *object)
{
	return object ? 0 : -EINVAL;
}

static const struct po_operations {
	int (*open)(void *);
} po_ownersgone_ops = {
	.open = po_ownersgone_open,
};

static noinline void *po_ownersgone_page(unsigned int order)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_ZERO, order);
	unsigned int line = __LINE__ - 1;

	if (!page)
		return NULL;
	pr_info("po_ownersgone: leaked how=gone func=%s line=%u pfn=%lu order=%u\n", __func__, line,
		page_to_pfn(page), order);
	return page_address(page);
}

static void say_object(const char *how, const char *func, unsigned int line, void *object,
		       unsigned int size)
{
	if (object)
		pr_info("po_ownersgone: lostobj how=%s func=%s line=%u va=0x%lx size=%u offset=%lu obj_pfn=%lu\n",
			how, func, line, (unsigned long)object, size, offset_in_page(object),
			PHYS_PFN(virt_to_phys(object)));
}

static noinline void *po_ownersgone_object(void)
{
	const void **object = kzalloc(160, GFP_KERNEL);
	unsigned int line = __LINE__ - 1;

	if (object)
		object[1] = &po_ownersgone_ops;
	say_object("gone_object", __func__, line, object, 160);
	return object;
}

static noinline void *po_ownersgone_item(void)
{
	const void **object = kmem_cache_zalloc(cache, GFP_KERNEL);
	unsigned int line = __LINE__ - 1;

	if (object)
		object[1] = &po_ownersgone_ops;
	say_object("gone_item", __func__, line, object, 88);
	return object;
}

static noinline u64 __percpu *po_ownersgone_percpu(void)
{
	u64 __percpu *counter = alloc_percpu(u64);
	unsigned int line = __LINE__ - 1;
	void *first;

	if (!counter)
		return NULL;
	first = per_cpu_ptr(counter, 0);
	pr_info("po_ownersgone: lostpercpu how=gone_percpu func=%s line=%u percpu=0x%lx cpu0=0x%lx size=8 cpu0_pfn=%lu\n",
		__func__, line, (unsigned long)counter, (unsigned long)first,
		is_vmalloc_addr(first) ? vmalloc_to_pfn(first) : PHYS_PFN(virt_to_phys(first)));
	return counter;
}

static noinline void clear_stack(int depth)
{
	char bytes[1024];

	memset(bytes, 0, sizeof(bytes));
	if (depth)
		clear_stack(depth - 1);
	asm volatile("" : : "r"(bytes) : "memory");
}

static int __init po_ownersgone_init(void)
{
	struct list_head *object, *next_object;
	struct page *page, *next;
	LIST_HEAD(recent_objects);
	LIST_HEAD(recent);
	int i;

	/* Not merged with a cache that others have. */
	cache = kmem_cache_create_usercopy("po_ownersgone_item", 88, 0, 0, 40, 8, NULL);
	if (!cache)
		return -ENOMEM;
	/* What was freed last is known to others by stale addresses: take something else. */
	for (i = 0; i < RECENT; i++) {
		page = alloc_pages(GFP_KERNEL, 0);
		if (page)
			list_add(&page->lru, &recent);
		object = kmalloc(160, GFP_KERNEL);
		if (object)
			list_add(object, &recent_objects);
	}
	for (i = 0; i < COUNT; i++) {
		WRITE_ONCE(pages[i], po_ownersgone_page(i < 6 ? 0 : 2));
		WRITE_ONCE(objects[i], po_ownersgone_object());
		WRITE_ONCE(items[i], po_ownersgone_item());
		WRITE_ONCE(counters[i], po_ownersgone_percpu());
	}
	list_for_each_safe(object, next_object, &recent_objects)
		kfree(object);
	list_for_each_entry_safe(page, next, &recent, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
	clear_stack(7);
	return 0;
}

static void __exit po_ownersgone_exit(void)
{
}

module_init(po_ownersgone_init);
module_exit(po_ownersgone_exit);
MODULE_DESCRIPTION("leaves memory of several kinds behind");
MODULE_LICENSE("GPL");
