/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the layouts have in common: a small machine with page structs, zones, nodes, sections and
 * pageblocks, the kernel's own printf, kallsyms and one module. Names and members are the
 * kernel's; a layout's header chooses among the variants by the macros that it defines before.
 *
 * MEMORY_MODEL is FLATMEM, SPARSEMEM or SPARSEMEM_VMEMMAP.
 */
#include <elf.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLATMEM 1
#define SPARSEMEM 2
#define SPARSEMEM_VMEMMAP 3

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned int gfp_t;
typedef u64 phys_addr_t;
typedef struct { int counter; } atomic_t;
typedef struct { long counter; } atomic_long_t;
struct list_head { struct list_head *next, *prev; };

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define PAGE_SHIFT 12
#define PAGE_SIZE 4096UL
#define MAX_ORDER 11
#define ALIGNED __attribute__((aligned(4096), used))

/* --- struct page ---------------------------------------------------------------------------- */

enum pageflags {
	PG_locked, PG_error, PG_referenced, PG_uptodate, PG_dirty, PG_lru, PG_active,
#ifdef HAVE_PG_WAITERS	/* since v4.10 */
	PG_waiters,
#endif
	PG_slab, PG_owner_priv_1, PG_arch_1, PG_reserved, PG_private, PG_private_2, PG_writeback,
	PG_head,
#ifdef HAVE_PG_TAIL	/* before v4.4 */
	PG_tail,
#endif
#ifndef HAVE_PG_WAITERS
	PG_swapcache,
#endif
	PG_mappedtodisk, PG_reclaim, PG_swapbacked, PG_unevictable, PG_mlocked,
	__NR_PAGEFLAGS,
#ifdef HAVE_PG_WAITERS
	PG_swapcache = PG_owner_priv_1,
#endif
};

struct mem_cgroup;

#ifndef PAGE_REFCOUNT
#define PAGE_REFCOUNT _refcount	/* _count before v4.7 */
#endif

struct page {
	unsigned long flags;
	void *mapping;
	unsigned long index;
	atomic_t _mapcount;
	atomic_t PAGE_REFCOUNT;
#ifdef HAVE_PG_TAIL
	struct list_head lru;
	union { unsigned long private; struct page *first_page; };
#else
	union { struct list_head lru; unsigned long compound_head; };
	unsigned long private;
#endif
#ifdef PAGE_FLAG_FIELDS	/* both since v5.11 or v5.12 */
	unsigned long memcg_data;
#else
	struct mem_cgroup *mem_cgroup;
#endif
};

struct page_ext;

/* --- zones, nodes, sections ----------------------------------------------------------------- */

#if MEMORY_MODEL == FLATMEM
#define NODES 1
#else
#define NODES 2
#endif
#define NODES_SHIFT 6
#define PAGES_PER_SECTION 32768UL
#define SECTIONS 3	/* the second one is a hole */

enum zone_type { ZONE_DMA, ZONE_DMA32, ZONE_NORMAL, ZONE_MOVABLE, __MAX_NR_ZONES };
enum node_states { N_POSSIBLE, N_ONLINE, NR_NODE_STATES };

#ifdef MIGRATE_RECLAIMABLE_FIRST	/* before v4.4 */
enum migratetype {
	MIGRATE_UNMOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE, MIGRATE_PCPTYPES,
	MIGRATE_RESERVE = MIGRATE_PCPTYPES, MIGRATE_CMA, MIGRATE_ISOLATE, MIGRATE_TYPES
};
#else
enum migratetype {
	MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_PCPTYPES,
	MIGRATE_HIGHATOMIC = MIGRATE_PCPTYPES, MIGRATE_CMA, MIGRATE_ISOLATE, MIGRATE_TYPES
};
#endif

enum pageblock_bits {
	PB_migrate, PB_migrate_end = PB_migrate + 3 - 1, PB_migrate_skip, NR_PAGEBLOCK_BITS
};

struct free_area {
	struct list_head free_list[MIGRATE_TYPES];
	unsigned long nr_free;
};

struct pglist_data;

struct zone {
	unsigned long watermark[3];
	struct pglist_data *zone_pgdat;
#if MEMORY_MODEL == FLATMEM
	unsigned long *pageblock_flags;
#endif
	unsigned long zone_start_pfn;
#ifdef ATOMIC_MANAGED_PAGES	/* since v5.0 */
	atomic_long_t managed_pages;
#else
	unsigned long managed_pages;
#endif
	unsigned long spanned_pages;
	unsigned long present_pages;
	const char *name;
	struct free_area free_area[MAX_ORDER];
};

typedef struct pglist_data {
	struct zone node_zones[__MAX_NR_ZONES];
	int nr_zones;
#if MEMORY_MODEL == FLATMEM
	struct page *node_mem_map;
	struct page_ext *node_page_ext;
#endif
	unsigned long node_start_pfn;
	unsigned long node_present_pages;
	unsigned long node_spanned_pages;
	int node_id;
} pg_data_t;

typedef struct { unsigned long bits[(1 << NODES_SHIFT) / 64]; } nodemask_t;
nodemask_t node_states[NR_NODE_STATES];
static pg_data_t nodes[NODES] ALIGNED;
unsigned long min_low_pfn, max_pfn;

#ifdef HUGE_PAGEBLOCKS	/* CONFIG_HUGETLB_PAGE */
#define pageblock_order 9
#else
#define pageblock_order (MAX_ORDER - 1)
#endif

#if MEMORY_MODEL == FLATMEM
#define PAGES 20000UL
#define MIN_LOW_PFN 16UL
pg_data_t contig_page_data;
struct page mem_map[PAGES] ALIGNED;
static unsigned long pageblocks[2][64] ALIGNED;
#else
#define PAGES (SECTIONS * PAGES_PER_SECTION - 12345)
#define MIN_LOW_PFN 1UL
pg_data_t *node_data[1 << NODES_SHIFT];

#ifdef MEM_SECTION_USAGE	/* since v5.3 */
struct mem_section_usage {
#if MEMORY_MODEL == SPARSEMEM_VMEMMAP
	unsigned long subsection_map[1];
#endif
	unsigned long pageblock_flags[0];
};
#endif

struct mem_section {
	unsigned long section_mem_map;
#ifdef MEM_SECTION_USAGE
	struct mem_section_usage *usage;
#else
	unsigned long *pageblock_flags;
#endif
	struct page_ext *page_ext;
	unsigned long pad;
};

#define SECTIONS_PER_ROOT (PAGE_SIZE / sizeof(struct mem_section))
#define NR_SECTION_ROOTS ((1UL << (46 - 27)) / SECTIONS_PER_ROOT)
static struct mem_section section_root[SECTIONS_PER_ROOT] ALIGNED;
#ifdef MEM_SECTION_POINTER	/* since v4.15 */
static struct mem_section *section_roots[NR_SECTION_ROOTS] ALIGNED;
struct mem_section **mem_section = section_roots;
unsigned long __highest_present_section_nr = SECTIONS - 1;
#else
struct mem_section *mem_section[NR_SECTION_ROOTS];
#endif

#if MEMORY_MODEL == SPARSEMEM_VMEMMAP
/* One array with a hole in it, as the hardware's page tables make one. */
static struct page vmemmap_pages[SECTIONS * PAGES_PER_SECTION] ALIGNED;
int vmemmap_populate(void) { return 0; }
#else
/* Anywhere, in any order. */
static struct page section_pages[2][PAGES_PER_SECTION] ALIGNED;
#endif
static unsigned long section_pageblocks[SECTIONS][1 + 64] ALIGNED;
#endif

static bool pfn_valid(unsigned long pfn)
{
#if MEMORY_MODEL == FLATMEM
	return pfn < PAGES;
#else
	return pfn / PAGES_PER_SECTION == 0 || pfn / PAGES_PER_SECTION == 2;
#endif
}

static struct page *pfn_to_page(unsigned long pfn)
{
#if MEMORY_MODEL == FLATMEM
	return mem_map + pfn;
#elif MEMORY_MODEL == SPARSEMEM_VMEMMAP
	return vmemmap_pages + pfn;
#else
	return section_pages[pfn < PAGES_PER_SECTION] + pfn % PAGES_PER_SECTION;
#endif
}

static struct zone *zone_of(unsigned long pfn)
{
	for (int node = 0; node < NODES; node++)
		for (int type = 0; type < __MAX_NR_ZONES; type++) {
			struct zone *zone = nodes[node].node_zones + type;
			if (pfn >= zone->zone_start_pfn &&
			    pfn < zone->zone_start_pfn + zone->spanned_pages)
				return zone;
		}
	return NULL;
}

/* set_page_links(): section, node and zone above the flags, in that order. */
static void set_page_links(unsigned long pfn)
{
	struct zone *zone = zone_of(pfn);
	unsigned long node = zone->zone_pgdat->node_id;
	unsigned long type = zone - zone->zone_pgdat->node_zones;
	int shift = 64;

#if MEMORY_MODEL == SPARSEMEM
	shift -= 46 - 27;
	pfn_to_page(pfn)->flags |= pfn / PAGES_PER_SECTION << shift;
#endif
#if MEMORY_MODEL != FLATMEM
	shift -= NODES_SHIFT;
	pfn_to_page(pfn)->flags |= node << shift;
#else
	(void)node;
#endif
	shift -= 2;
	pfn_to_page(pfn)->flags |= type << shift;
}

static unsigned long *pageblock_bitmap(unsigned long pfn, unsigned long *block)
{
#if MEMORY_MODEL == FLATMEM
	struct zone *zone = zone_of(pfn);
	unsigned long first = zone->zone_start_pfn >> pageblock_order << pageblock_order;
	*block = (pfn - first) >> pageblock_order;
	return zone->pageblock_flags;
#else
	*block = pfn % PAGES_PER_SECTION >> pageblock_order;
#ifdef MEM_SECTION_USAGE
	return section_root[pfn / PAGES_PER_SECTION].usage->pageblock_flags;
#else
	return section_root[pfn / PAGES_PER_SECTION].pageblock_flags;
#endif
#endif
}

static int get_pageblock_migratetype(unsigned long pfn)
{
	unsigned long block, *bitmap = pageblock_bitmap(pfn, &block);
	return bitmap[block / 16] >> block % 16 * NR_PAGEBLOCK_BITS & 7;
}

static void set_pageblock_migratetype(unsigned long pfn, unsigned long type)
{
	unsigned long block, *bitmap = pageblock_bitmap(pfn, &block);
	bitmap[block / 16] &= ~(7UL << block % 16 * NR_PAGEBLOCK_BITS);
	bitmap[block / 16] |= type << block % 16 * NR_PAGEBLOCK_BITS;
}

static void init_zone(int node, int type, const char *name, unsigned long start,
		      unsigned long end)
{
	struct zone *zone = nodes[node].node_zones + type;
	zone->zone_pgdat = nodes + node;
	zone->name = name;
	zone->zone_start_pfn = start;
	zone->spanned_pages = zone->present_pages = end - start;
#ifdef ATOMIC_MANAGED_PAGES
	zone->managed_pages.counter = end - start;
#else
	zone->managed_pages = end - start;
#endif
	nodes[node].node_id = node;
	if (!nodes[node].node_spanned_pages)
		nodes[node].node_start_pfn = start;
	nodes[node].node_spanned_pages = end - nodes[node].node_start_pfn;
	nodes[node].node_present_pages += end - start;
	nodes[node].nr_zones = type + 1;
}

static void init_memory(void)
{
	min_low_pfn = MIN_LOW_PFN;
	max_pfn = PAGES;
	init_zone(0, ZONE_DMA, "DMA", 1, 4096);
#if MEMORY_MODEL == FLATMEM
	init_zone(0, ZONE_DMA32, "DMA32", 4096, PAGES);
	nodes[0].node_mem_map = mem_map + 1;
	for (int type = 0; type < 2; type++)
		nodes[0].node_zones[type].pageblock_flags = pageblocks[type];
	nodes[0].node_start_pfn = 1;
	node_states[N_ONLINE].bits[0] = 1;
	contig_page_data = nodes[0];
#else
	init_zone(0, ZONE_DMA32, "DMA32", 4096, PAGES_PER_SECTION);
	init_zone(1, ZONE_NORMAL, "Normal", 2 * PAGES_PER_SECTION, PAGES);
#ifdef MEM_SECTION_POINTER
	section_roots[0] = section_root;
#else
	mem_section[0] = section_root;
#endif
	for (unsigned long nr = 0; nr < SECTIONS; nr += 2) {
		struct mem_section *section = section_root + nr;
		unsigned long start = nr * PAGES_PER_SECTION;
		/* sparse_encode_mem_map(), SECTION_MARKED_PRESENT | SECTION_HAS_MEM_MAP */
		section->section_mem_map =
			((unsigned long)pfn_to_page(start) - start * sizeof(struct page)) | 3;
#ifdef MEM_SECTION_POINTER	/* SECTION_IS_ONLINE since v4.13 */
		section->section_mem_map |= 4;
#endif
#ifdef MEM_SECTION_USAGE
		section->usage = (void *)section_pageblocks[nr];
#else
		section->pageblock_flags = section_pageblocks[nr];
#endif
		node_data[nr / 2] = nodes + nr / 2;
		node_states[N_ONLINE].bits[0] |= 1UL << nr / 2;
	}
#endif
	for (unsigned long pfn = 1; pfn < max_pfn; pfn++)
		if (pfn_valid(pfn))
			set_page_links(pfn);
}

/* --- code, kallsyms, a module ---------------------------------------------------------------- */

#define CODE(section_, name) \
	__attribute__((used, noinline, section(section_))) static void name(void) \
	{ asm volatile(".skip 0x1d3, 0x90"); }
#define KERNEL_CODE(name) CODE("kernel_text", name)
#define MODULE_CODE(name) CODE("module_text", name)
KERNEL_CODE(__alloc_pages_nodemask)
KERNEL_CODE(alloc_pages_current)
KERNEL_CODE(pagecache_get_page)
KERNEL_CODE(generic_file_read_iter)
KERNEL_CODE(new_slab)
KERNEL_CODE(___slab_alloc)
KERNEL_CODE(kmem_cache_alloc)
KERNEL_CODE(handle_mm_fault)
KERNEL_CODE(do_page_fault)
KERNEL_CODE(__vmalloc_node_range)
KERNEL_CODE(alloc_skb_with_frags)
KERNEL_CODE(sock_alloc_send_pskb)
KERNEL_CODE(copy_process)
KERNEL_CODE(_do_fork)
KERNEL_CODE(do_syscall_64)
KERNEL_CODE(entry_SYSCALL_64)
KERNEL_CODE(free_pcppages_bulk)
KERNEL_CODE(exit_mmap)
/* Enough symbols for a second marker. */
__attribute__((used, noinline, section("kernel_text"))) static void symbols(void)
{ asm volatile(".skip 0x4000, 0x90"); }
MODULE_CODE(po_init)
MODULE_CODE(po_grow)

extern char __start_kernel_text[], __stop_kernel_text[];
extern char __start_module_text[], __stop_module_text[];

struct symbol { unsigned long address; const char *name; };
#define SYMBOL(name) { (unsigned long)name, #name }
static const struct symbol known_symbols[] = {
	SYMBOL(__alloc_pages_nodemask), SYMBOL(alloc_pages_current), SYMBOL(pagecache_get_page),
	SYMBOL(generic_file_read_iter), SYMBOL(new_slab), SYMBOL(___slab_alloc),
	SYMBOL(kmem_cache_alloc), SYMBOL(handle_mm_fault), SYMBOL(do_page_fault),
	SYMBOL(__vmalloc_node_range), SYMBOL(alloc_skb_with_frags), SYMBOL(sock_alloc_send_pskb),
	SYMBOL(copy_process), SYMBOL(_do_fork), SYMBOL(do_syscall_64), SYMBOL(entry_SYSCALL_64),
	SYMBOL(free_pcppages_bulk), SYMBOL(exit_mmap),
};
static const struct symbol module_symbols[] = { SYMBOL(po_init), SYMBOL(po_grow) };

#define GENERATED 300
static struct symbol core_symbols[ARRAY_SIZE(known_symbols) + GENERATED + 2];
static char generated_names[GENERATED][16];

static int by_address(const void *a, const void *b)
{
	unsigned long first = ((const struct symbol *)a)->address;
	unsigned long second = ((const struct symbol *)b)->address;
	return first < second ? -1 : first > second;
}

#ifndef KALLSYMS_MARKER
#define KALLSYMS_MARKER unsigned long	/* unsigned int since v4.20 */
#endif
#define KALLSYMS_NUM ARRAY_SIZE(core_symbols)
unsigned long kallsyms_num_syms;
u8 kallsyms_names[32 * KALLSYMS_NUM];
KALLSYMS_MARKER kallsyms_markers[KALLSYMS_NUM / 256 + 1];
char kallsyms_token_table[600];
u16 kallsyms_token_index[256];
#ifdef KALLSYMS_BASE_RELATIVE	/* since v4.6 */
int kallsyms_offsets[KALLSYMS_NUM];
unsigned long kallsyms_relative_base;
#else
unsigned long kallsyms_addresses[KALLSYMS_NUM];
#endif

/* As scripts/kallsyms.c does it, with three tokens of more than one character. */
static const char *token(int number, char *own)
{
	own[0] = number;
	own[1] = 0;
	return number == 1 ? "alloc" : number == 2 ? "page" : number == 3 ? "sym_" : own;
}

static void init_kallsyms(void)
{
	unsigned int at = 0, number = 0;
	char own[2];

	for (int i = 0; i < 256; i++) {
		kallsyms_token_index[i] = at;
		at += sprintf(kallsyms_token_table + at, "%s", token(i, own)) + 1;
	}
	memcpy(core_symbols, known_symbols, sizeof(known_symbols));
	number = ARRAY_SIZE(known_symbols);
	for (int i = 0; i < GENERATED; i++) {
		sprintf(generated_names[i], "sym_%03d", i);
		core_symbols[number++] =
			(struct symbol){ (unsigned long)symbols + 16 + 0x20 * i, generated_names[i] };
	}
	core_symbols[number++] = (struct symbol){ (unsigned long)__stop_kernel_text, "_etext" };
	core_symbols[number++] = (struct symbol){ (unsigned long)__stop_module_text + 4096, "_end" };
	qsort(core_symbols, number, sizeof(core_symbols[0]), by_address);

	kallsyms_num_syms = number;
#ifdef KALLSYMS_BASE_RELATIVE
	kallsyms_relative_base = core_symbols[0].address;
#endif
	at = 0;
	for (unsigned int i = 0; i < number; i++) {
		const char *name = core_symbols[i].name;
		unsigned int length = at;
#ifdef KALLSYMS_ABSOLUTE_PERCPU
		kallsyms_offsets[i] = kallsyms_relative_base - 1 - core_symbols[i].address;
#elif defined(KALLSYMS_BASE_RELATIVE)
		kallsyms_offsets[i] = core_symbols[i].address - kallsyms_relative_base;
#else
		kallsyms_addresses[i] = core_symbols[i].address;
#endif
		if (i % 256 == 0)
			kallsyms_markers[i / 256] = at;
		at++;
		kallsyms_names[at++] = 't';
		while (*name) {
			int best = *name;
			for (int t = 1; t < 4; t++)
				if (!strncmp(name, token(t, own), strlen(token(t, own))))
					best = t;
			name += strlen(token(best, own));
			kallsyms_names[at++] = best;
		}
		kallsyms_names[length] = at - length - 1;
	}
}

/* sprint_symbol() */
static int sprint_symbol(char *buffer, unsigned long address)
{
	bool module = address >= (unsigned long)__start_module_text &&
		      address < (unsigned long)__stop_module_text;
	const struct symbol *table = module ? module_symbols : core_symbols;
	size_t number = module ? ARRAY_SIZE(module_symbols) : ARRAY_SIZE(core_symbols);
	unsigned long end = (unsigned long)__stop_module_text;
	const struct symbol *found = NULL;

	if (!module && (address < (unsigned long)__start_kernel_text ||
			address >= (unsigned long)__stop_kernel_text))
		return sprintf(buffer, "0x%lx", address);
	for (size_t i = 0; i < number; i++) {
		if (table[i].address <= address)
			found = table + i;
		else if (found && table[i].address < end) {
			end = table[i].address;
			break;
		}
	}
	return sprintf(buffer, "%s+0x%lx/0x%lx%s", found->name, address - found->address,
		       end - found->address, module ? " [po_mod]" : "");
}

/* --- names, printf ---------------------------------------------------------------------------- */

struct trace_print_flags { unsigned long mask; const char *name; };

static char *format_flags(char *buffer, unsigned long flags, const struct trace_print_flags *names)
{
	for (; flags && names->name; names++) {
		if ((flags & names->mask) != names->mask)
			continue;
		buffer += sprintf(buffer, "%s", names->name);
		flags &= ~names->mask;
		if (flags)
			*buffer++ = '|';
	}
	if (flags)
		buffer += sprintf(buffer, "%#lx", flags);
	*buffer = 0;
	return buffer;
}
