// SPDX-License-Identifier: GPL-2.0
/*
 * Fragments memory in a known way; says which pages on the kernel log.
 *
 * It takes whole Movable pageblocks and lets them go again but for a few pages that are its own:
 * GFP_KERNEL pages that lie in a Movable pageblock. Parameters: node=N, where; pin=PFN,...: pages of
 * a process to take a reference to.
 */
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mmzone.h>

#define BLOCK_PAGES (1U << pageblock_order)
#define MIN_ORDER 9 /* what the holes need */
#define MAX_ORDER_HERE 11
#define MAX_PAGES (1U << MAX_ORDER_HERE)
#define PATTERN_BLOCKS 18
#define HOLE_BLOCKS 2
/* Blocks of which every other page is freed last: what later order-0 allocations take first. */
#define SHIELD_BLOCKS 3
#define BLOCKS (PATTERN_BLOCKS + HOLE_BLOCKS + SHIELD_BLOCKS)
#define TRIES 2000

typedef struct page *getter(int nid);

static unsigned long pin[16];
static unsigned int pins;
module_param_array(pin, ulong, &pins, 0);
static int node = NUMA_NO_NODE;
module_param(node, int, 0);

static struct page *kept[4 * MAX_PAGES];
static unsigned int kept_count;

/* Naturally aligned runs, none next to another: where in the block, and of which order. */
static const struct hole {
	unsigned int block, offset, order;
} holes[] = {
	{ 0, 16, 0 }, { 0, 32, 2 }, { 0, 64, 4 }, { 0, 128, 6 }, { 0, 256, 8 },
	{ 1, 450, 1 }, { 1, 400, 3 }, { 1, 320, 5 }, { 1, 128, 7 },
};

/* The calls are no tail calls, so that the function is in the stack that page_owner records. */
static noinline struct page *po_frag_single(int nid)
{
	struct page *page = alloc_pages_node(nid, GFP_KERNEL, 0);

	barrier();
	return page;
}

static noinline struct page *po_frag_pair(int nid)
{
	struct page *page = alloc_pages_node(nid, GFP_KERNEL, 0);

	barrier();
	return page;
}

static noinline struct page *po_frag_comb(int nid)
{
	struct page *page = alloc_pages_node(nid, GFP_KERNEL, 0);

	barrier();
	return page;
}

static noinline struct page *po_frag_take(void)
{
	struct page *page = alloc_pages_node(node, GFP_HIGHUSER_MOVABLE | __GFP_THISNODE |
					     __GFP_NORETRY | __GFP_NOWARN, pageblock_order);

	barrier();
	return page;
}

static unsigned long *type_bits(struct page *block, unsigned int *bit)
{
	unsigned long pfn = page_to_pfn(block);

#ifdef CONFIG_SPARSEMEM
	*bit = ((pfn & (PAGES_PER_SECTION - 1)) >> pageblock_order) * NR_PAGEBLOCK_BITS;
	return section_to_usemap(__pfn_to_section(pfn));
#else
	struct zone *zone = page_zone(block);
	unsigned long start = zone->zone_start_pfn & ~((1UL << pageblock_order) - 1);

	*bit = ((pfn - start) >> pageblock_order) * NR_PAGEBLOCK_BITS;
	return zone->pageblock_flags;
#endif
}

static unsigned int block_type(struct page *block)
{
	unsigned int bit, type = 0, i;
	unsigned long *bits = type_bits(block, &bit);

	for (i = 0; i < 3; i++)
		type |= test_bit(bit + i, bits) << i;
	return type;
}

/* Only while no page of the block is free. Unmovable is 0 and Movable 1: one bit to change. */
static void set_movable(struct page *block, bool movable)
{
	unsigned int bit;
	unsigned long *bits = type_bits(block, &bit);

	BUILD_BUG_ON(MIGRATE_UNMOVABLE != 0 || MIGRATE_MOVABLE != 1);
	if (movable)
		set_bit(bit, bits);
	else
		clear_bit(bit, bits);
}

/* Free the block's page and allocate until it comes back: now it is get()'s. */
static void keep(struct page *block, unsigned int offset, const char *what, getter *get)
{
	struct page *wanted = block + offset, *page, *next;
	LIST_HEAD(others);
	int i;

	set_movable(block, false);
	__free_page(wanted);
	for (i = 0; i < TRIES; i++) {
		page = get(page_to_nid(block));
		if (!page || page == wanted)
			break;
		list_add(&page->lru, &others);
	}
	set_movable(block, true);
	if (page == wanted) {
		/* What nobody reads the compiler would not write at all. */
		WRITE_ONCE(kept[kept_count++], page);
		pr_info("po_frag: %s pfn=%lu order=0\n", what, page_to_pfn(page));
	} else {
		pr_info("po_frag: missed pfn=%lu order=0\n", page_to_pfn(wanted));
	}
	list_for_each_entry_safe(page, next, &others, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
}

/* Which pages of the pattern's i-th block stay: single, pair, pair and single, or none. */
static void keep_pattern(struct page *block, unsigned int i, unsigned long *mine)
{
	unsigned int first = (37 + 61 * i) % BLOCK_PAGES;
	unsigned int second = (first + 200) % BLOCK_PAGES;
	bool both = i == 2 || i == 5;

	if (i % 3 == 0 || both) {
		keep(block, first, "single", po_frag_single);
		set_bit(first, mine);
	}
	if (both || i == 1 || i == 4 || i == 7 || i == 10) {
		keep(block, second, "pair", po_frag_pair);
		set_bit(second, mine);
	}
	if (!both && test_bit(second, mine)) {
		keep(block, first, "pair", po_frag_pair);
		set_bit(first, mine);
	}
}

static void keep_around_holes(struct page *block, unsigned int number, unsigned long *mine)
{
	unsigned int i;

	bitmap_fill(mine, BLOCK_PAGES);
	for (i = 0; i < ARRAY_SIZE(holes); i++)
		if (holes[i].block == number)
			bitmap_clear(mine, holes[i].offset, 1 << holes[i].order);
	for_each_set_bit(i, mine, BLOCK_PAGES)
		keep(block, i, "comb", po_frag_comb);
}

static void keep_every_other(struct page *block, unsigned long *mine)
{
	unsigned int i;

	for (i = 0; i < BLOCK_PAGES; i += 2) {
		keep(block, i, "comb", po_frag_comb);
		set_bit(i, mine);
	}
}

static void free_rest(struct page *block, unsigned long *mine)
{
	unsigned int i;

	for (i = 0; i < BLOCK_PAGES; i++)
		if (!test_bit(i, mine))
			__free_page(block + i);
}

static unsigned int take(struct page **blocks)
{
	struct page *aside[BLOCKS], *page;
	unsigned int taken = 0, others = 0;

	while (taken < BLOCKS && others < BLOCKS && (page = po_frag_take())) {
		if (block_type(page) == MIGRATE_MOVABLE)
			blocks[taken++] = page;
		else
			aside[others++] = page;
	}
	while (others)
		__free_pages(aside[--others], pageblock_order);
	return taken;
}

static void pin_pages(void)
{
	unsigned int i;

	for (i = 0; i < pins; i++) {
		struct page *page = pfn_valid(pin[i]) ? pfn_to_page(pin[i]) : NULL;

		if (!page || !PageAnon(page))
			continue;
		get_page(page);
		pr_info("po_frag: pinned pfn=%lu order=0\n", pin[i]);
	}
}

static int __init po_frag_init(void)
{
	static DECLARE_BITMAP(mine[BLOCKS], MAX_PAGES) __initdata;
	static struct page *blocks[BLOCKS] __initdata;
	unsigned int count, i, j;

	if (pageblock_order < MIN_ORDER || pageblock_order > MAX_ORDER_HERE)
		return -EINVAL;
	pin_pages();
	count = take(blocks);
	if (count < BLOCKS) {
		pr_err("po_frag: only %u blocks\n", count);
		while (count)
			__free_pages(blocks[--count], pageblock_order);
		return -ENOMEM;
	}
	for (i = 0; i < BLOCKS; i++) {
		split_page(blocks[i], pageblock_order);
		pr_info("po_frag: block pfn=%lu order=%u\n", page_to_pfn(blocks[i]),
			(unsigned int)pageblock_order);
	}
	for (i = 0; i < PATTERN_BLOCKS; i++)
		keep_pattern(blocks[i], i, mine[i]);
	for (j = 0; j < HOLE_BLOCKS; j++, i++)
		keep_around_holes(blocks[i], j, mine[i]);
	for (; i < BLOCKS; i++)
		keep_every_other(blocks[i], mine[i]);
	for (i = 0; i < BLOCKS; i++)
		free_rest(blocks[i], mine[i]);
	for (i = 0; i < ARRAY_SIZE(holes); i++)
		pr_info("po_frag: hole pfn=%lu order=%u\n",
			page_to_pfn(blocks[PATTERN_BLOCKS + holes[i].block]) + holes[i].offset,
			holes[i].order);
	return 0;
}

static void __exit po_frag_exit(void)
{
}

module_init(po_frag_init);
module_exit(po_frag_exit);
MODULE_DESCRIPTION("fragments memory");
MODULE_LICENSE("GPL");
