// SPDX-License-Identifier: LGPL-2.1-or-later
/* Setting, moving, clearing and printing a record, as mm/page_owner.c of the layout's kernel. */

#ifdef STATIC_KEY	/* since v4.6 */
struct static_key { atomic_t enabled; };
struct static_key_false { struct static_key key; };
struct static_key_false page_owner_inited;
#else
bool page_owner_inited;
#endif

#ifndef OWNER_ALLOCATED	/* before v5.4 a freed page has no record */
#define OWNER_ALLOCATED PAGE_EXT_OWNER
#endif

/* What the CPU does just now. */
static struct { int pid, tgid; char comm[16]; u64 clock; } current;
static struct { unsigned int size; unsigned long entries[16]; } current_stack;

#ifdef PAGE_EXT_OFFSET
#define OWNER struct page_owner
static OWNER *get_page_owner(struct page_ext *page_ext)
{
	return (void *)((char *)page_ext + page_owner_ops.offset);
}
#else
#define OWNER struct page_ext	/* the record is in struct page_ext itself */
static OWNER *get_page_owner(struct page_ext *page_ext)
{
	return page_ext;
}
#endif

static void save_stack(OWNER *owner)
{
#ifdef OWNER_HANDLE	/* since v4.8 */
	owner->handle = stack_depot_save(current_stack.entries, current_stack.size);
#else
	unsigned int size = current_stack.size;
	if (size > ARRAY_SIZE(owner->trace_entries))
		size = ARRAY_SIZE(owner->trace_entries);
	memcpy(owner->trace_entries, current_stack.entries, size * sizeof(unsigned long));
	/* So ended the stacks that save_stack_trace() saved, where there was room. */
	if (size < ARRAY_SIZE(owner->trace_entries))
		owner->trace_entries[size++] = -1UL;
#ifdef OWNER_TRACE	/* in v3.19 only */
	owner->trace.nr_entries = size;
	owner->trace.max_entries = ARRAY_SIZE(owner->trace_entries);
	owner->trace.entries = owner->trace_entries;
	owner->trace.skip = 3;
#else
	owner->nr_entries = size;
#endif
#endif
}

static void __set_page_owner(unsigned long pfn, unsigned int order, gfp_t gfp_mask)
{
#ifdef OWNER_OF_TAILS	/* since v5.4 every page of an allocation has a record */
	unsigned long end = pfn + (1UL << order);
#else
	unsigned long end = pfn + 1;
#endif
	for (; pfn < end; pfn++) {
		struct page_ext *page_ext = lookup_page_ext(pfn);
		OWNER *owner = get_page_owner(page_ext);

		save_stack(owner);
		owner->order = order;
		owner->gfp_mask = gfp_mask;
#ifdef OWNER_MIGRATE_REASON
		owner->last_migrate_reason = -1;
#endif
#ifdef OWNER_PID
		owner->pid = current.pid;
		owner->ts_nsec = current.clock;
#endif
#ifdef OWNER_COMM
		owner->tgid = current.tgid;
		strcpy(owner->comm, current.comm);
#endif
		page_ext->flags |= 1UL << PAGE_EXT_OWNER;
		page_ext->flags |= 1UL << OWNER_ALLOCATED;
	}
}

static void __reset_page_owner(unsigned long pfn, unsigned int order)
{
	for (unsigned long end = pfn + (1UL << order); pfn < end; pfn++) {
		struct page_ext *page_ext = lookup_page_ext(pfn);
		page_ext->flags &= ~(1UL << OWNER_ALLOCATED);
#ifdef OWNER_FREE_HANDLE
		OWNER *owner = get_page_owner(page_ext);
		owner->free_handle = stack_depot_save(current_stack.entries, current_stack.size);
#ifdef OWNER_FREE_TS
		owner->free_ts_nsec = current.clock;
#endif
#ifdef OWNER_FREE_PID
		owner->free_pid = current.pid;
		owner->free_tgid = current.tgid;
#endif
#endif
	}
}

#ifdef OWNER_MIGRATE_REASON
static void __copy_page_owner(unsigned long old, unsigned long new, int reason)
{
	struct page_ext *old_ext = lookup_page_ext(old), *new_ext = lookup_page_ext(new);
	unsigned long flags = new_ext->flags;

	*get_page_owner(new_ext) = *get_page_owner(old_ext);
	new_ext->flags = flags | 1UL << PAGE_EXT_OWNER | 1UL << OWNER_ALLOCATED;
	get_page_owner(new_ext)->last_migrate_reason = reason;
}
#endif

static void snprint_stack_trace(FILE *out, const unsigned long *entries, unsigned int size)
{
	for (unsigned int i = 0; i < size; i++)
#ifdef STACK_TRACE_ADDRESSES
		kprintf(out, "%*c[<%p>] %pS\n", 1, ' ', entries[i], entries[i]);
#else
		kprintf(out, "%*c%pS\n", 1, ' ', entries[i]);
#endif
}

static int gfpflags_to_migratetype(gfp_t gfp_flags)
{
#ifdef MIGRATE_RECLAIMABLE_FIRST
	return ((gfp_flags & __GFP_MOVABLE) != 0) << 1 | ((gfp_flags & __GFP_RECLAIMABLE) != 0);
#else
	return (gfp_flags & (__GFP_RECLAIMABLE | __GFP_MOVABLE)) >> 3;
#endif
}

#ifdef LETTERS	/* before v4.6 */
static const char *letter(struct page *page, unsigned long bits, const char *text)
{
	return page->flags & bits ? text : " ";
}

static void print_page_flags(FILE *out, unsigned long pfn, struct page *page, int page_mt)
{
	int pageblock_mt = get_pageblock_migratetype(pfn);
	unsigned long compound = 1UL << PG_head;
#ifdef HAVE_PG_TAIL
	compound |= 1UL << PG_tail;
#endif
	kprintf(out, "PFN %lu Block %lu type %d %s Flags %s%s%s%s%s%s%s%s%s%s%s%s\n",
		pfn, pfn >> pageblock_order, pageblock_mt,
		pageblock_mt != page_mt ? "Fallback" : "        ",
		letter(page, 1UL << PG_locked, "K"), letter(page, 1UL << PG_error, "E"),
		letter(page, 1UL << PG_referenced, "R"), letter(page, 1UL << PG_uptodate, "U"),
		letter(page, 1UL << PG_dirty, "D"), letter(page, 1UL << PG_lru, "L"),
		letter(page, 1UL << PG_active, "A"), letter(page, 1UL << PG_slab, "S"),
		letter(page, 1UL << PG_writeback, "W"), letter(page, compound, "C"),
		letter(page, 1UL << PG_swapcache, "B"), letter(page, 1UL << PG_mappedtodisk, "M"));
}
#else
static void print_page_flags(FILE *out, unsigned long pfn, struct page *page, int page_mt)
{
	const char *of_page = migratetype_names[page_mt];
	const char *of_block = migratetype_names[get_pageblock_migratetype(pfn)];
#ifdef PGP_PRINTS_THE_NUMBER
	kprintf(out, PFN_FORMAT " type %s Block %lu type %s Flags %pGp\n", pfn, of_page,
		pfn >> pageblock_order, of_block, &page->flags);
#else
	kprintf(out, "PFN %lu type %s Block %lu type %s Flags %#lx(%pGp)\n", pfn, of_page,
		pfn >> pageblock_order, of_block, page->flags, &page->flags);
#endif
}
#endif

static void print_page_owner(FILE *out, unsigned long pfn, struct page *page, OWNER *owner)
{
	unsigned long *entries;
	unsigned int size;

#ifdef OWNER_HANDLE
	if (!owner->handle)
		return;
	size = stack_depot_fetch(owner->handle, &entries);
#else
	entries = owner->trace_entries;
#ifdef OWNER_TRACE
	size = owner->trace.nr_entries;
#else
	size = owner->nr_entries;
#endif
#endif
	PRINT_RECORD(out, owner);
	print_page_flags(out, pfn, page, gfpflags_to_migratetype(owner->gfp_mask));
	snprint_stack_trace(out, entries, size);
#ifdef OWNER_MIGRATE_REASON
	if (owner->last_migrate_reason != -1)
		kprintf(out, "Page has been migrated, last migrate reason: %s\n",
			migrate_reason_names[owner->last_migrate_reason]);
#endif
	kprintf(out, "\n");
}

static void read_page_owner(FILE *out)
{
	for (unsigned long pfn = min_low_pfn; pfn < max_pfn; pfn++) {
		struct page_ext *page_ext;
		OWNER *owner;

		if (!pfn_valid(pfn))
			continue;
		page_ext = lookup_page_ext(pfn);
		if (!(page_ext->flags & 1UL << PAGE_EXT_OWNER) ||
		    !(page_ext->flags & 1UL << OWNER_ALLOCATED))
			continue;
		owner = get_page_owner(page_ext);
#ifdef OWNER_OF_TAILS
		if (pfn & ((1UL << owner->order) - 1))
			continue;
#endif
		print_page_owner(out, pfn, pfn_to_page(pfn), owner);
	}
}
