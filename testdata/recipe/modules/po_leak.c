// SPDX-License-Identifier: GPL-2.0
/*
 * Drops pages in many ways and holds pages in many others; says which on the kernel log.
 *
 * What it remembers in order to say so is masked, and written to memory in no other form: the only
 * references are those that the way of holding a page is made of. With leak=0 a table has the
 * address of everything that would have been dropped.
 */
#include <linux/completion.h>
#include <linux/gfp.h>
#include <linux/idr.h>
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/vmalloc.h>
#include <linux/xarray.h>

#define PAGES 8			/* of each way to hold pages: the first 6 of order 0, then order 2 */
#define SINGLES 24
#define RING 16
#define RECENT 1000
#define MASK ((unsigned long)0xa5c39f1724d86be1ULL)
#define DAY (24UL * 3600 * HZ)

static bool leak = true;
module_param(leak, bool, 0);

/* --- what is said in the end -------------------------------------------------------------------*/

static struct note {
	const char *what, *how;
	unsigned long masked_pfn, masked_object;
	unsigned int order, size;
} notes[400];
static unsigned int note_count;

static struct note *note(const char *what, const char *how, struct page *page, unsigned int order)
{
	struct note *n = &notes[note_count < ARRAY_SIZE(notes) - 1 ? note_count++ : note_count];

	n->what = what;
	n->how = how;
	n->masked_pfn = page_to_pfn(page) ^ MASK;
	n->order = order;
	return n;
}

static void note_held(const char *how, struct page *page, unsigned int order)
{
	note("held", how, page, order);
}

static struct note *note_leaked(const char *how, struct page *page, unsigned int order)
{
	return note(leak ? "leaked" : "held", how, page, order);
}

static void say(void)
{
	struct note *n;

	for (n = notes; n < notes + note_count; n++) {
		pr_info("po_leak: %s how=%s pfn=%lu order=%u\n", n->what, n->how,
			n->masked_pfn ^ MASK, n->order);
		if (n->masked_object)
			pr_info("po_leak: %s how=%s size=%u offset=%lu obj_pfn=%lu\n",
				leak ? "lostobj" : "heldobj", n->how, n->size,
				(n->masked_object ^ MASK) & ~PAGE_MASK,
				PHYS_PFN(virt_to_phys((void *)(n->masked_object ^ MASK))));
	}
}

/* What is dropped goes through here. */
static void *dropped[128];
static unsigned int dropped_count;

static void drop(void *address)
{
	if (!leak && dropped_count < ARRAY_SIZE(dropped))
		WRITE_ONCE(dropped[dropped_count++], address);
}

static void *must(void *memory)
{
	if (!memory)
		panic("po_leak: no memory");
	return memory;
}

static unsigned int order_of(unsigned int i)
{
	return i < 6 ? 0 : 2;
}

/*
 * Allocate in the caller, a noinline function whose name tells what the page is for. The page is
 * empty, and nothing in its struct page is left from before.
 */
static __always_inline struct page *get(unsigned int order)
{
	struct page *page = must(alloc_pages(GFP_KERNEL | __GFP_ZERO, order));

	INIT_LIST_HEAD(&page->lru);
	page->lru.next = NULL;
	page->lru.prev = NULL;
	set_page_private(page, 0);
	return page;
}

/* --- held --------------------------------------------------------------------------------------*/

static void *array[PAGES];

static noinline void po_hold_array(void)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		WRITE_ONCE(array[i], page_address(page));
		note_held("array", page, order_of(i));
	}
}

static LIST_HEAD(content_list);

static noinline void po_hold_list_content(void)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		list_add((struct list_head *)page_address(page), &content_list);
		note_held("list_content", page, order_of(i));
	}
}

static LIST_HEAD(lru_list);

static noinline void po_hold_list_lru(void)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		list_add(&page->lru, &lru_list);
		note_held("list_lru", page, order_of(i));
	}
}

static DEFINE_XARRAY(xarray);

static noinline void po_hold_xarray(void)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		if (!xa_err(xa_store(&xarray, i * 1000, page, GFP_KERNEL)))
			note_held("xarray", page, order_of(i));
	}
}

static DEFINE_IDR(idr);

static noinline void po_hold_idr(void)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		if (idr_alloc(&idr, page_address(page), 1, 0, GFP_KERNEL) > 0)
			note_held("idr", page, order_of(i));
	}
}

struct pocket {
	void *page;
};

static DEFINE_PER_CPU(struct pocket, static_pockets[PAGES / 2]);
static struct pocket __percpu *pockets[PAGES / 2];

static noinline void po_hold_percpu(void)
{
	unsigned int i, cpu = cpumask_first(cpu_online_mask);

	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		if (i % 2) {
			WRITE_ONCE(pockets[i / 2], alloc_percpu(struct pocket));
			if (!pockets[i / 2])
				continue;
			per_cpu_ptr(pockets[i / 2], cpu)->page = page_address(page);
		} else {
			per_cpu(static_pockets[i / 2], cpu).page = page_address(page);
		}
		note_held(i % 2 ? "percpu_alloc" : "percpu", page, order_of(i));
		cpu = cpumask_next(cpu, cpu_online_mask);
		if (cpu >= nr_cpu_ids)
			cpu = cpumask_first(cpu_online_mask);
	}
}

static DECLARE_COMPLETION(stack_ready);

static noinline void *po_hold_stack(unsigned int i)
{
	struct page *page = get(order_of(i));

	note_held("stack", page, order_of(i));
	return page_address(page);
}

static noinline void stack_sleep(void *volatile *pages)
{
	complete(&stack_ready);
	for (;;) {
		schedule_timeout_interruptible(1000 * HZ);
		if (!pages[0])
			break;
	}
}

static int stack_thread(void *unused)
{
	void *volatile pages[PAGES];
	unsigned int i;

	for (i = 0; i < PAGES; i++)
		pages[i] = po_hold_stack(i);
	stack_sleep(pages);
	for (i = 0; i < PAGES; i++)
		WRITE_ONCE(array[i], pages[i]);
	return 0;
}

/* Only the timer wheel knows where it is. */
struct bomb {
	void *pages[PAGES];
	struct timer_list timer;
};

static void bomb_fires(struct timer_list *timer)
{
}

static noinline void po_hold_timer(void)
{
	struct bomb *bomb = must(kzalloc(sizeof(*bomb), GFP_KERNEL));
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		bomb->pages[i] = page_address(page);
		note_held("timer", page, order_of(i));
	}
	timer_setup(&bomb->timer, bomb_fires, 0);
	mod_timer(&bomb->timer, jiffies + DAY);
}

static void **vmalloc_table;

static noinline void po_hold_vmalloc_table(void)
{
	unsigned int i;

	vmalloc_table = must(vzalloc(2 * PAGE_SIZE));
	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		vmalloc_table[i * 100] = page_address(page);
		note_held("vmalloc_table", page, order_of(i));
	}
}

/* Known only by number, by physical address, by struct page, by an address in its middle. */
static unsigned long *pfns;

static noinline void po_hold_pfn_only(void)
{
	unsigned int i;

	pfns = must(kcalloc(PAGES, sizeof(*pfns), GFP_KERNEL));
	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		pfns[i] = page_to_pfn(page);
		note_held("pfn_only", page, order_of(i));
	}
}

static u32 *short_pfns;

static noinline void po_hold_pfn32(void)
{
	unsigned int i;

	short_pfns = must(kcalloc(PAGES, sizeof(*short_pfns), GFP_KERNEL));
	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		short_pfns[i] = page_to_pfn(page);
		note_held("pfn32", page, order_of(i));
	}
}

/* Only the kernel's page tables know them: the list that vmap() was given is gone. */
static void *mapped;

static noinline void po_hold_vmap(void)
{
	struct page **list = must(kcalloc(PAGES, sizeof(*list), GFP_KERNEL));
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		list[i] = get(0);
		note_held("vmap", list[i], 0);
	}
	WRITE_ONCE(mapped, must(vmap(list, PAGES, VM_MAP, PAGE_KERNEL)));
	memset(list, 0, PAGES * sizeof(*list));
	kfree(list);
}

static phys_addr_t *physical;

static noinline void po_hold_phys_only(void)
{
	unsigned int i;

	physical = must(kcalloc(PAGES, sizeof(*physical), GFP_KERNEL));
	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		physical[i] = page_to_phys(page);
		note_held("phys_only", page, order_of(i));
	}
}

static struct page **struct_pages;

static noinline void po_hold_struct_page_ptr(void)
{
	unsigned int i;

	struct_pages = must(kcalloc(PAGES, sizeof(*struct_pages), GFP_KERNEL));
	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		struct_pages[i] = page;
		note_held("struct_page_ptr", page, order_of(i));
	}
}

static void *interior[PAGES];

static noinline void po_hold_interior(void)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		struct page *page = get(order_of(i));

		WRITE_ONCE(interior[i],
			   page_address(page) + (PAGE_SIZE << order_of(i)) / 2 + 8 * i + 8);
		note_held("interior", page, order_of(i));
	}
}

/* Pages of a process: what maps them holds the only reference. */
static noinline int po_hold_user(struct file *file, struct vm_area_struct *vma)
{
	unsigned long at;

	for (at = vma->vm_start; at < vma->vm_end; at += PAGE_SIZE) {
		struct page *page = get(0);
		int error = vm_insert_page(vma, at, page);

		if (!error)
			pr_info("po_leak: held how=user pfn=%lu order=0\n", page_to_pfn(page));
		put_page(page);
		if (error)
			return error;
	}
	return 0;
}

static const struct proc_ops user_ops = {
	.proc_mmap = po_hold_user,
};

/* --- leaked ------------------------------------------------------------------------------------*/

static noinline void po_leak_single(void)
{
	struct page *page = get(0);

	note_leaked("single", page, 0);
	drop(page_address(page));
}

static noinline void po_leak_order(unsigned int order)
{
	struct page *page = get(order);

	note_leaked("order", page, order);
	drop(page_address(page));
}

static noinline void po_leak_ring(void)
{
	void **first = NULL, **last = NULL;
	unsigned int i;

	for (i = 0; i < RING; i++) {
		struct page *page = get(0);
		void **content = page_address(page);

		note_leaked("ring", page, 0);
		if (last)
			last[i] = content;
		else
			first = content;
		last = content;
	}
	last[RING] = first;
	drop(first);
}

static noinline void po_leak_tree(void)
{
	struct page *head = get(0);
	unsigned int i, j;

	note_leaked("tree", head, 0);
	for (i = 0; i < 8; i++) {
		struct page *child = get(0);

		note_leaked("tree", child, 0);
		((void **)page_address(head))[i] = page_address(child);
		for (j = 0; j < 2; j++) {
			struct page *leaf = get(0);

			note_leaked("tree", leaf, 0);
			((void **)page_address(child))[100 + j] = page_address(leaf);
		}
	}
	drop(page_address(head));
}

static noinline void po_leak_lru_ring(void)
{
	struct page *first = get(0);
	unsigned int i;

	INIT_LIST_HEAD(&first->lru);
	note_leaked("lru_ring", first, 0);
	for (i = 1; i < RING; i++) {
		struct page *page = get(0);

		list_add_tail(&page->lru, &first->lru);
		note_leaked("lru_ring", page, 0);
	}
	drop(first);
}

static noinline void po_leak_kmalloc_large(size_t size)
{
	void *memory = must(kzalloc(size, GFP_KERNEL));

	note_leaked("kmalloc_large", virt_to_page(memory), get_order(size));
	drop(memory);
}

static noinline void po_leak_object(size_t size)
{
	void **object = must(kzalloc(size, GFP_KERNEL));
	struct page *page = get(0);
	struct note *n = note_leaked("object", page, 0);

	object[size / sizeof(*object) / 2] = page_address(page);
	n->masked_object = (unsigned long)object ^ MASK;
	n->size = size;
	drop(object);
}

static noinline void po_leak_exact(void)
{
	void *memory = must(alloc_pages_exact(5 * PAGE_SIZE, GFP_KERNEL | __GFP_ZERO));
	unsigned int i;

	for (i = 0; i < 5; i++)
		note_leaked("exact", virt_to_page(memory + i * PAGE_SIZE), 0);
	drop(memory);
}

/* --- ------------------------------------------------------------------------------------------ */

static noinline void hold_all(void)
{
	po_hold_array();
	po_hold_list_content();
	po_hold_list_lru();
	po_hold_xarray();
	po_hold_idr();
	po_hold_percpu();
	po_hold_timer();
	po_hold_vmalloc_table();
	po_hold_pfn_only();
	po_hold_pfn32();
	po_hold_vmap();
	po_hold_phys_only();
	po_hold_struct_page_ptr();
	po_hold_interior();
}

static noinline void leak_all(void)
{
	unsigned int i;

	for (i = 0; i < SINGLES; i++)
		po_leak_single();
	for (i = 0; i < 12; i++)
		po_leak_order(1 + i % 3);
	po_leak_ring();
	po_leak_tree();
	po_leak_lru_ring();
	for (i = 0; i < 8; i++)
		po_leak_kmalloc_large((i % 2 ? 16 : 4) * PAGE_SIZE);
	for (i = 0; i < 16; i++)
		po_leak_object(i % 2 ? 256 : 64);
	for (i = 0; i < 4; i++)
		po_leak_exact();
}

/*
 * The pages that were freed last are known to others by stale addresses. Hold them while something
 * else is allocated, which gets other pages then.
 */
static noinline void with_fresh_pages(void (*allocate)(void))
{
	struct page *page, *next;
	LIST_HEAD(recent);
	unsigned int i;

	for (i = 0; i < RECENT; i++) {
		page = must(alloc_pages(GFP_KERNEL, 0));
		list_add(&page->lru, &recent);
	}
	allocate();
	list_for_each_entry_safe(page, next, &recent, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
}

static noinline void clear_stack(int depth)
{
	char bytes[1024];

	memset(bytes, 0, sizeof(bytes));
	if (depth)
		clear_stack(depth - 1);
	asm volatile("" : : "r"(bytes) : "memory");
}

static int __init po_leak_init(void)
{
	struct task_struct *thread = kthread_run(stack_thread, NULL, "po_hold_stack");

	if (IS_ERR(thread))
		return PTR_ERR(thread);
	wait_for_completion(&stack_ready);
	hold_all();
	proc_create("po_leak", 0, NULL, &user_ops);
	with_fresh_pages(leak_all);
	say();
	clear_stack(7);
	return 0;
}

/* It stays: it has no exit function. */
module_init(po_leak_init);
MODULE_DESCRIPTION("leaks pages, and holds pages");
MODULE_LICENSE("GPL");
