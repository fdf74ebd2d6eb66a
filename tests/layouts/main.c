// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A machine of one layout lives for a while, prints what its kernel would print of page_owner,
 * and dumps its own memory: main CORE > page_owner. The program itself is the vmlinux.
 */
#define FEATURES
#include LAYOUT
#undef FEATURES
#include "kernel.h"
#include "names.h"
#include "versions/print.h"
#include LAYOUT
#include "mm/hugetlb.c"
#include "mm/page_ext.c"
#include "kernel/module.c"
#include "lib/vsprintf.c"
#include "mm/page_owner.c"

#include <link.h>

struct new_utsname { char sysname[65], nodename[65], release[65], version[65], machine[65]; };
struct uts_namespace { struct new_utsname name; };
struct uts_namespace init_uts_ns = { { "Linux", "layout", UTS_RELEASE, "#1 SMP", "x86_64" } };
/* By this drgn tells that the vmlinux is the dump's where VMCOREINFO has no build ID. */
const char linux_banner[] = "Linux version " UTS_RELEASE " (cc) #1 SMP\n";
phys_addr_t phys_base;
char swapper_pg_dir[4096] ALIGNED;

/* drgn knows a vmlinux by this section. */
__attribute__((used, section(".init.text"))) static void start_kernel(void) { }

static unsigned int randomly(unsigned int below)
{
	static u64 state = 1;
	state = state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (state >> 33) % below;
}

static const unsigned long chains[][6] = {
#define PC(function, offset) (unsigned long)(function) + offset
	{ PC(__alloc_pages_nodemask, 0x11a), PC(alloc_pages_current, 0x88), PC(new_slab, 0x2ce),
	  PC(___slab_alloc, 0x199), PC(kmem_cache_alloc, 0x1a1), PC(copy_process, 0x40) },
	{ PC(__alloc_pages_nodemask, 0x11a), PC(alloc_pages_current, 0x88),
	  PC(pagecache_get_page, 0xc1), PC(generic_file_read_iter, 0x37), PC(do_syscall_64, 0x6e) },
	{ PC(__alloc_pages_nodemask, 0x15a), PC(handle_mm_fault, 0x1b0), PC(do_page_fault, 0x12) },
	{ PC(__alloc_pages_nodemask, 0x11a), PC(alloc_skb_with_frags, 0x5f),
	  PC(sock_alloc_send_pskb, 0x18b), PC(do_syscall_64, 0x6e), PC(entry_SYSCALL_64, 0x1c) },
	{ PC(__alloc_pages_nodemask, 0x11a), PC(po_grow, 0x2a), PC(po_init, 0x10) },
	{ PC(__alloc_pages_nodemask, 0x11a), PC(__vmalloc_node_range, 0x105), 0xbad0 },
	{ PC(free_pcppages_bulk, 0x77), PC(exit_mmap, 0x9a), PC(do_syscall_64, 0x90) },
};
#define FREEING (ARRAY_SIZE(chains) - 1)

/* One of the chains, or with some frames behind it that make many stacks of few functions. */
static void run_in(size_t chain)
{
	static const char *const tasks[] = { "init", "kworker/0:1", "po holder", "sshd" };
	unsigned int task = randomly(ARRAY_SIZE(tasks)), more = randomly(40);

	current_stack.size = 0;
	for (size_t i = 0; i < 6 && chains[chain][i]; i++)
		current_stack.entries[current_stack.size++] = chains[chain][i];
	for (unsigned int i = 0; i < more % 10; i++)
		current_stack.entries[current_stack.size++] =
			(unsigned long)symbols + 0x40 * more + 0x100 * i;
	current.pid = 100 + task;
	current.tgid = 100 + task / 2;
	strcpy(current.comm, tasks[task]);
	current.clock += 1 + randomly(1000000);
}

static const gfp_t masks[] = {
	GFP_KERNEL, GFP_KERNEL | __GFP_ZERO, GFP_ATOMIC | __GFP_NOWARN | __GFP_COMP,
	GFP_HIGHUSER_MOVABLE, GFP_HIGHUSER_MOVABLE | __GFP_ZERO,
	GFP_NOFS | __GFP_RECLAIMABLE, GFP_USER | __GFP_RECLAIMABLE, 0, 0x40000000 | GFP_KERNEL,
};

static const unsigned long page_flags[] = {
	0, 1UL << PG_slab, 1UL << PG_locked | 1UL << PG_dirty | 1UL << PG_uptodate,
	1UL << PG_lru | 1UL << PG_active | 1UL << PG_referenced | 1UL << PG_swapbacked,
	1UL << PG_error | 1UL << PG_writeback | 1UL << PG_mappedtodisk, 1UL << PG_reserved,
	1UL << PG_swapcache | 1UL << PG_lru | 1UL << PG_uptodate,
};

#ifdef HAVE_PG_TAIL
#define SET_TAIL(page, head) ((page)->flags |= 1UL << PG_tail, (page)->first_page = (head))
#define CLEAR_TAIL(page) ((page)->first_page = NULL)
#else
#define SET_TAIL(page, head) ((page)->compound_head = (unsigned long)(head) | 1)
#define CLEAR_TAIL(page) ((page)->compound_head = 0)
#endif

struct allocation { unsigned long pfn; unsigned int order; bool free; };

static struct allocation allocated[20000];
static unsigned int number;

static void allocate(unsigned long pfn, unsigned int order)
{
	struct page *page = pfn_to_page(pfn);

	run_in(randomly(FREEING));
	page->flags |= page_flags[randomly(ARRAY_SIZE(page_flags))];
	page->_mapcount.counter = -1;
	page->PAGE_REFCOUNT.counter = 1;
	if (order)
		page->flags |= 1UL << PG_head;
	for (unsigned long i = 1; i < 1UL << order; i++)
		SET_TAIL(page + i, page);
	__set_page_owner(pfn, order, masks[randomly(ARRAY_SIZE(masks))]);
	allocated[number++] = (struct allocation){ pfn, order, false };
}

static void free_pages(struct allocation *allocation)
{
	run_in(FREEING);
	for (unsigned long i = 0; i < 1UL << allocation->order; i++) {
		struct page *page = pfn_to_page(allocation->pfn) + i;
		CLEAR_TAIL(page);
		page->flags &= ~((1UL << __NR_PAGEFLAGS) - 1);
		page->PAGE_REFCOUNT.counter = 0;
	}
	__reset_page_owner(allocation->pfn, allocation->order);
	allocation->free = true;
}

/* Fill memory, free a third, put other orders into some of the holes, migrate some. */
static void live(void)
{
	unsigned long pfn = 1;
	unsigned int filled;

	for (unsigned long block = 0; block < PAGES; block += 1UL << pageblock_order)
		if (pfn_valid(block))
			set_pageblock_migratetype(block ? block : 1, randomly(MIGRATE_TYPES));
	while (number < 1200) {
		unsigned int order = randomly(20) ? randomly(4) : 4 + randomly(6);
		/* As the buddy allocator gives them out: at a multiple of their size. */
		pfn = (pfn + (1UL << order) - 1) >> order << order;
		if (pfn + (1UL << order) > PAGES)
			break;
		if (pfn_valid(pfn) && pfn_valid(pfn + (1UL << order) - 1) && zone_of(pfn))
			allocate(pfn, order);
		pfn += 1UL << order;
		/* Jump, so that the records are all over the memory. */
		pfn += randomly(4) ? 0 : randomly(PAGES / 1500);
	}
	filled = number;
	for (unsigned int i = 0; i < filled; i++)
		if (!randomly(3))
			free_pages(allocated + i);
	for (unsigned int i = 0; i < filled; i++)
		if (allocated[i].free && !randomly(3))
			allocate(allocated[i].pfn, randomly(allocated[i].order + 1));
#ifdef OWNER_MIGRATE_REASON
	for (unsigned int i = 0; i < filled; i++) {
		struct allocation *from = allocated + randomly(filled);
		if (allocated[i].free && !allocated[i].order && !from->free && !from->order &&
		    !(lookup_page_ext(allocated[i].pfn)->flags & 1UL << OWNER_ALLOCATED)) {
			__copy_page_owner(from->pfn, allocated[i].pfn, randomly(7));
			free_pages(from);
		}
	}
#endif
}

/* --- the dump --------------------------------------------------------------------------------- */

static Elf64_Phdr loads[16];
static int load_count;

static int find_loads(struct dl_phdr_info *info, size_t size, void *data)
{
	(void)size, (void)data;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD)
			loads[load_count++] = info->dlpi_phdr[i];
	return 1;	/* only the program itself, which comes first */
}

static void dump(const char *path)
{
	char vmcoreinfo[4096], note[8192] = { 0 };
	size_t length = sprintf(vmcoreinfo,
		"OSRELEASE=" UTS_RELEASE "\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=%lx\n"
		"SYMBOL(swapper_pg_dir)=%lx\nSYMBOL(_stext)=%lx\nKERNELOFFSET=0\nCRASHTIME=1\n",
		(unsigned long)&init_uts_ns, (unsigned long)swapper_pg_dir,
		(unsigned long)__start_kernel_text);
#if MEMORY_MODEL != FLATMEM
	length += sprintf(vmcoreinfo + length, "SYMBOL(mem_section)=%lx\nLENGTH(mem_section)=%lu\n",
			  (unsigned long)&mem_section, NR_SECTION_ROOTS);
#endif
	Elf64_Nhdr header = { 11, length, 0 };
	size_t note_size = sizeof(header) + 12 + (length + 3) / 4 * 4, offset = 16384;
	FILE *core = fopen(path, "wb");

	memcpy(note, &header, sizeof(header));
	memcpy(note + sizeof(header), "VMCOREINFO", 11);
	memcpy(note + sizeof(header) + 12, vmcoreinfo, length);
	dl_iterate_phdr(find_loads, NULL);

	Elf64_Ehdr ehdr = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_CORE, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
		.e_phoff = sizeof(ehdr), .e_ehsize = sizeof(ehdr),
		.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = load_count + 1,
	};
	Elf64_Phdr phdr = { .p_type = PT_NOTE, .p_offset = 4096, .p_filesz = note_size };
	fwrite(&ehdr, sizeof(ehdr), 1, core);
	fwrite(&phdr, sizeof(phdr), 1, core);
	for (int i = 0; i < load_count; i++) {
		unsigned long start = loads[i].p_vaddr & ~4095UL;
		unsigned long end = (loads[i].p_vaddr + loads[i].p_memsz + 4095) & ~4095UL;
		phdr = (Elf64_Phdr){
			.p_type = PT_LOAD, .p_flags = loads[i].p_flags, .p_offset = offset,
			.p_vaddr = start, .p_filesz = end - start, .p_memsz = end - start,
		};
		loads[i] = phdr;
		offset += end - start;
		fwrite(&phdr, sizeof(phdr), 1, core);
	}
	fseek(core, 4096, SEEK_SET);
	fwrite(note, note_size, 1, core);
	for (int i = 0; i < load_count; i++) {
		fseek(core, loads[i].p_offset, SEEK_SET);
		fwrite((void *)loads[i].p_vaddr, loads[i].p_filesz, 1, core);
	}
	if (fclose(core))
		abort();
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	init_memory();
	init_kallsyms();
	init_module_list();
	page_ext_init();
#ifdef STATIC_KEY
	page_owner_inited.key.enabled.counter = 1;
#else
	page_owner_inited = true;
#endif
	live();
	read_page_owner(stdout);
	dump(argv[1]);
	return fflush(stdout) != 0;
}
