// SPDX-License-Identifier: GPL-2.0
/*
 * Makes millions of page_owner records with tens of thousands of different stacks, for guests with
 * much memory: see large.py.
 *
 * There is a function for each pair of octal digits: f_ab() calls one of f_b0() to f_b7(), as the
 * next digit of a path says. So a path of seven digits is one of two million stacks.
 */
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#define DEPTH 7
/* kmalloc-128. */
#define OBJECT_SIZE 120

static int stacks = 1000;
module_param(stacks, int, 0);
MODULE_PARM_DESC(stacks, "different stacks");
static int order = 4;
module_param(order, int, 0);
MODULE_PARM_DESC(order, "order of blocks, which are split into pages");
static int rounds = 1;
module_param(rounds, int, 0);
MODULE_PARM_DESC(rounds, "blocks of each stack");
static int singles;
module_param(singles, int, 0);
MODULE_PARM_DESC(singles, "single pages");
static int listed;
module_param(listed, int, 0);
MODULE_PARM_DESC(listed, "pages in one list");
static int leaked = 100;
module_param(leaked, int, 0);
MODULE_PARM_DESC(leaked, "pages that nothing points to");
static int slab;
module_param(slab, int, 0);
MODULE_PARM_DESC(slab, "slab objects");
static int areas;
module_param(areas, int, 0);
MODULE_PARM_DESC(areas, "vmalloc areas that nothing but the kernel's list of areas points to");

enum use { BLOCK, SINGLE, LISTED, LEAKED, OBJECT };

static enum use use;
static struct page **pages;
static void **objects;
static unsigned long nr_pages, max_pages, nr_objects;
static LIST_HEAD(list);

static noinline void allocate(void)
{
	struct page *page;
	int i;

	if (use == OBJECT) {
		objects[nr_objects++] = kmalloc(OBJECT_SIZE, GFP_KERNEL);
		return;
	}
	page = alloc_pages(GFP_KERNEL, use == BLOCK ? order : 0);
	if (!page)
		return;
	switch (use) {
	case BLOCK:
		if (order)
			split_page(page, order);
		for (i = 0; i < 1 << order && nr_pages < max_pages; i++)
			pages[nr_pages++] = page + i;
		break;
	case SINGLE:
		if (nr_pages < max_pages)
			pages[nr_pages++] = page;
		break;
	case LISTED:
		list_add(&page->lru, &list);
		break;
	default:
		clear_page(page_address(page));
	}
}

/* Code after each call, which differs, so that the compiler makes neither a jump nor one call. */
#define CALL(b, c)							\
	case c:								\
		if (depth)						\
			f_##b##c(path >> 3, depth - 1);			\
		else							\
			allocate();					\
		asm volatile("# " #b #c ::: "memory");			\
		break;
#define FUNCTION(a, b)							\
	static noinline void f_##a##b(u32 path, int depth)		\
	{								\
		switch (path & 7) {					\
		CALL(b, 0) CALL(b, 1) CALL(b, 2) CALL(b, 3)		\
		CALL(b, 4) CALL(b, 5) CALL(b, 6) CALL(b, 7)		\
		}							\
	}
#define DECLARATION(a, b) static void f_##a##b(u32 path, int depth);
#define EIGHT(M, a) M(a, 0) M(a, 1) M(a, 2) M(a, 3) M(a, 4) M(a, 5) M(a, 6) M(a, 7)
#define ALL(M) EIGHT(M, 0) EIGHT(M, 1) EIGHT(M, 2) EIGHT(M, 3) \
	       EIGHT(M, 4) EIGHT(M, 5) EIGHT(M, 6) EIGHT(M, 7)

ALL(DECLARATION)
ALL(FUNCTION)

static u32 next_number(void)
{
	static u32 state = 12345;

	state = state * 1664525u + 1013904223u;
	return state >> 8;
}

/* Allocates by *number* paths, which are taken in turn from the first *of*. */
static noinline void make(enum use what, const u32 *paths, int number, int of)
{
	int i;

	use = what;
	for (i = 0; i < number; i++) {
		f_00(paths[i % of], DEPTH);
		if (!(i & 255))
			cond_resched();
	}
	pr_info("po_many: use %d done, %lu pages held\n", what, nr_pages);
}

static int __init po_many_init(void)
{
	/* All in one loop, so that the caller of make() is the same in all stacks. */
	const struct { enum use use; int number, of; } steps[] = {
		{ BLOCK, stacks * rounds, stacks },
		{ SINGLE, singles, stacks },
		{ LISTED, listed, min(stacks, 100) },
		{ LEAKED, leaked, min(stacks, 100) },
		{ OBJECT, slab, min(stacks, 1000) },
	};
	u32 *paths = vmalloc_array(stacks, sizeof(*paths));
	int i;

	max_pages = ((unsigned long)stacks * rounds << order) + singles;
	pages = vzalloc(max_pages * sizeof(*pages));
	objects = vzalloc((slab + 1ul) * sizeof(*objects));
	if (!paths || !pages || !objects)
		return -ENOMEM;
	for (i = 0; i < stacks; i++)
		paths[i] = next_number();
	for (i = 0; i < ARRAY_SIZE(steps); i++)
		make(steps[i].use, paths, steps[i].number, steps[i].of);
	for (i = 0; i < areas; i++)
		vmalloc((4 + (i & 7)) * PAGE_SIZE);
	vfree(paths);
	return 0;
}
module_init(po_many_init);
MODULE_DESCRIPTION("Many page_owner records");
MODULE_LICENSE("GPL");
