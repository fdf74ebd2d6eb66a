// SPDX-License-Identifier: LGPL-2.1-or-later
/* Where the struct page_ext of a page is. */

struct page_ext_operations {
#ifdef PAGE_EXT_OFFSET	/* since v4.9: every user has its own part behind struct page_ext */
	size_t offset;
	size_t size;
#endif
	bool (*need)(void);
	void (*init)(void);
};
struct page_ext_operations page_owner_ops;

#ifdef PAGE_EXT_OFFSET
/* Another user of page_ext has eight bytes in front of page_owner's. */
#define OTHER_USER 8
#define ENTRY_SIZE (sizeof(struct page_ext) + OTHER_USER + sizeof(struct page_owner))
#else
#define ENTRY_SIZE sizeof(struct page_ext)
#endif
#ifdef PAGE_EXT_SIZE	/* since v5.4 */
unsigned long page_ext_size;
#elif defined(PAGE_EXT_OFFSET)
static unsigned long extra_mem __attribute__((used));
#endif

#if MEMORY_MODEL == FLATMEM
static char page_exts[(PAGES + (1 << (MAX_ORDER - 1))) * ENTRY_SIZE] ALIGNED;
#else
static char page_exts[2][PAGES_PER_SECTION * ENTRY_SIZE] ALIGNED;
#endif

static unsigned long get_entry_size(void)
{
#ifdef PAGE_EXT_SIZE
	return page_ext_size;
#elif defined(PAGE_EXT_OFFSET)
	return sizeof(struct page_ext) + extra_mem;
#else
	return sizeof(struct page_ext);
#endif
}

static void page_ext_init(void)
{
#ifdef PAGE_EXT_OFFSET
	page_owner_ops.offset = sizeof(struct page_ext) + OTHER_USER;
	page_owner_ops.size = sizeof(struct page_owner);
#endif
#ifdef PAGE_EXT_SIZE
	page_ext_size = ENTRY_SIZE;
#elif defined(PAGE_EXT_OFFSET)
	extra_mem = OTHER_USER + sizeof(struct page_owner);
#endif
#if MEMORY_MODEL == FLATMEM
	contig_page_data.node_page_ext = (struct page_ext *)page_exts;
#else
	for (unsigned long nr = 0; nr < SECTIONS; nr += 2)
		section_root[nr].page_ext = (struct page_ext *)
			(page_exts[nr / 2] - get_entry_size() * nr * PAGES_PER_SECTION);
#endif
}

static struct page_ext *lookup_page_ext(unsigned long pfn)
{
#if MEMORY_MODEL == FLATMEM
	unsigned long start = contig_page_data.node_start_pfn >> (MAX_ORDER - 1);
	return (void *)((char *)contig_page_data.node_page_ext +
			get_entry_size() * (pfn - (start << (MAX_ORDER - 1))));
#else
	return (void *)((char *)section_root[pfn / PAGES_PER_SECTION].page_ext +
			get_entry_size() * pfn);
#endif
}
