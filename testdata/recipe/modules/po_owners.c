// SPDX-License-Identifier: GPL-2.0
/*
 * Holds and drops memory of every kind: pages, slab objects, vmalloc areas and per-CPU memory. Each
 * way is a function of its own, so that each is a stack, or an allocation tag, of its own. It says
 * on the kernel log what became of what:
 *
 *   held|leaked|lostobj|heldobj|lostarea|heldarea|lostpercpu|heldpercpu how=... func=... line=...
 *
 * As in po_leak.c what it remembers in order to say so is masked, and with leak=0 a table has the
 * address of everything that would have been dropped.
 */
#include <linux/completion.h>
#include <linux/gfp.h>
#include <linux/hashtable.h>
#include <linux/idr.h>
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/percpu.h>
#include <linux/proc_fs.h>
#include <linux/rbtree.h>
#include <linux/seq_file.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#define FEW 6
#define SOME 12
#define MANY 40
#define AREA_PAGES 3
#define EXACT_PAGES 5
#define LARGE_PERCPU 8000
#define RECENT_PAGES 1000
#define RECENT_OBJECTS 400
#define MAGIC 0x6f57504fU /* "OPWo" */
#define MASK ((unsigned long)0xa5c39f1724d86be1ULL)
#define DAY (24UL * 3600 * HZ)

static bool leak = true;
module_param(leak, bool, 0);

/* --- what is said in the end -------------------------------------------------------------------*/

enum kind { PAGES, OBJECT, AREA, PERCPU };

static struct note {
	const char *how, *func;
	unsigned long masked;
	unsigned int line, size;
	u8 kind;
	bool lost;
} notes[1200];
static unsigned int note_count;

/* The line of the last allocation: what its tag says. */
static unsigned int line;
#define HERE(allocation) ({						\
	__auto_type memory_ = (allocation);				\
									\
	line = __LINE__;						\
	if (!memory_)							\
		panic("po_owners: no memory");				\
	memory_;							\
})
#define HELD(kind, address, size) note(kind, false, how, __func__, (unsigned long)(address), size)
#define LOST(kind, address, size) note(kind, true, how, __func__, (unsigned long)(address), size)

static void note(enum kind kind, bool lost, const char *how, const char *func,
		 unsigned long address, unsigned int size)
{
	struct note *n = &notes[note_count];

	if (note_count == ARRAY_SIZE(notes))
		panic("po_owners: no room for notes");
	note_count++;
	n->how = how;
	n->func = func;
	n->masked = address ^ MASK;
	n->line = line;
	n->size = size;
	n->kind = kind;
	n->lost = lost && leak;
}

static unsigned long pfn_behind(unsigned long address)
{
	if (is_vmalloc_addr((void *)address))
		return vmalloc_to_pfn((void *)address);
	return PHYS_PFN(virt_to_phys((void *)address));
}

static void say_one(const struct note *n)
{
	unsigned long address = n->masked ^ MASK, at;
	const char *page = n->lost ? "leaked" : "held", *what = n->lost ? "lost" : "held";

	switch (n->kind) {
	case PAGES:
		pr_info("po_owners: %s how=%s func=%s line=%u pfn=%lu order=%u\n", page, n->how,
			n->func, n->line, pfn_behind(address), n->size);
		break;
	case OBJECT:
		pr_info("po_owners: %sobj how=%s func=%s line=%u va=0x%lx size=%u offset=%lu obj_pfn=%lu\n",
			what, n->how, n->func, n->line, address, n->size, offset_in_page(address),
			pfn_behind(address));
		break;
	case AREA:
		pr_info("po_owners: %sarea how=%s func=%s line=%u va=0x%lx size=%u area_pfn=%lu\n",
			what, n->how, n->func, n->line, address, n->size, pfn_behind(address));
		for (at = address; at < address + n->size; at += PAGE_SIZE)
			pr_info("po_owners: %s how=%s func=%s line=%u pfn=%lu order=0\n", page,
				n->how, n->func, n->line, pfn_behind(at));
		break;
	case PERCPU:
		at = (unsigned long)per_cpu_ptr((void __percpu *)address, 0);
		pr_info("po_owners: %spercpu how=%s func=%s line=%u percpu=0x%lx cpu0=0x%lx size=%u cpu0_pfn=%lu\n",
			what, n->how, n->func, n->line, address, at, n->size, pfn_behind(at));
		break;
	}
}

static void say(void)
{
	const struct note *n;

	for (n = notes; n < notes + note_count; n++)
		say_one(n);
}

/* What is dropped goes through here. */
static void *dropped[1000];
static unsigned int dropped_count;

static void drop(void *address)
{
	if (!leak && dropped_count < ARRAY_SIZE(dropped))
		WRITE_ONCE(dropped[dropped_count++], address);
}

static void drop_percpu(void __percpu *address)
{
	drop((void __force *)address);
}

/* Nothing in the struct page is left from before. */
static void *clean(struct page *page)
{
	INIT_LIST_HEAD(&page->lru);
	page->lru.next = NULL;
	page->lru.prev = NULL;
	set_page_private(page, 0);
	return page_address(page);
}

/* --- what the objects are ----------------------------------------------------------------------*/

struct po_operations {
	int (*open)(void *);
	int (*release)(void *);
	const char *name;
};

static noinline int po_owners_open(void *object)
{
	return object ? 0 : -EINVAL;
}

static noinline int po_owners_release(void *object)
{
	return object ? 1 : -EINVAL;
}

static const struct po_operations po_owners_ops = {
	.open = po_owners_open,
	.release = po_owners_release,
	.name = "po_owners",
};

/* An object of the module's own caches. */
struct po_item {
	struct list_head list;
	const struct po_operations *ops;
	u32 magic, number;
	void *page;
	char name[32];
	u8 rest[88];
};

static struct kmem_cache *item_cache, *aligned_cache, *rcu_cache, *tracked_cache;

static void po_item_init(struct po_item *item, u32 number)
{
	item->ops = &po_owners_ops;
	item->magic = MAGIC;
	item->number = number;
	snprintf(item->name, sizeof(item->name), "item-%u", number);
}

/* None of these is merged with a cache that others have. */
static void make_caches(void)
{
	item_cache = kmem_cache_create_usercopy("po_owners_item", sizeof(struct po_item), 0, 0,
						offsetof(struct po_item, name), 32, NULL);
	/* With room behind each object: there the kernel puts its tag, if it does. */
	aligned_cache = kmem_cache_create_usercopy("po_owners_aligned", 100, 128, 0, 40, 8, NULL);
	rcu_cache = kmem_cache_create("po_owners_rcu", 120, 0, SLAB_TYPESAFE_BY_RCU, NULL);
	tracked_cache = kmem_cache_create("po_owners_tracked", 72, 0,
					  SLAB_STORE_USER | SLAB_RED_ZONE, NULL);
	if (!item_cache || !aligned_cache || !rcu_cache || !tracked_cache)
		panic("po_owners: no memory");
}

/* --- pages that are lost -----------------------------------------------------------------------*/

static noinline void po_lose_single(void)
{
	static const char how[] = "single";
	void *memory = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, 0)));

	LOST(PAGES, memory, 0);
	drop(memory);
}

static noinline void po_lose_block(unsigned int order)
{
	static const char how[] = "block";
	void *memory = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, order)));

	LOST(PAGES, memory, order);
	drop(memory);
}

static noinline void po_lose_compound(unsigned int order)
{
	static const char how[] = "compound";
	void *memory = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_COMP, order)));

	LOST(PAGES, memory, order);
	drop(memory);
}

static noinline void po_lose_folio(unsigned int order)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 16, 0)
	static const char how[] = "folio";
	struct folio *folio = HERE(folio_alloc(GFP_KERNEL | __GFP_ZERO, order));
	void *memory = clean(folio_page(folio, 0));

	LOST(PAGES, memory, order);
	drop(memory);
#endif
}

static noinline void po_lose_zeroed(void)
{
	static const char how[] = "zeroed";
	void *memory = (void *)HERE(get_zeroed_page(GFP_KERNEL));

	clean(virt_to_page(memory));
	LOST(PAGES, memory, 0);
	drop(memory);
}

static noinline void po_lose_exact(void)
{
	static const char how[] = "exact";
	void *memory = HERE(alloc_pages_exact(EXACT_PAGES * PAGE_SIZE, GFP_KERNEL | __GFP_ZERO));
	unsigned int i;

	for (i = 0; i < EXACT_PAGES; i++)
		LOST(PAGES, memory + i * PAGE_SIZE, 0);
	drop(memory);
}

/* Charged to the memory cgroup of whoever loads the module. */
static noinline void po_lose_account(void)
{
	static const char how[] = "account";
	void *memory = clean(HERE(alloc_pages(GFP_KERNEL_ACCOUNT | __GFP_ZERO, 0)));

	LOST(PAGES, memory, 0);
	drop(memory);
}

/* Each page knows the next, and the last one the first. */
static noinline void po_lose_page_ring(void)
{
	static const char how[] = "page_ring";
	void **first = NULL, **last = NULL;
	unsigned int i;

	for (i = 0; i < SOME; i++) {
		void **content = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, 0)));

		LOST(PAGES, content, 0);
		if (last)
			last[i] = content;
		else
			first = content;
		last = content;
	}
	last[SOME] = first;
	drop(first);
}

static noinline void po_lose_text(unsigned int number)
{
	static const char how[] = "text_page";
	char *memory = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, 0)));

	snprintf(memory, PAGE_SIZE, "GET /po_owners/%u HTTP/1.1\r\nHost: guest\r\nX-Lost: yes\r\n", number);
	LOST(PAGES, memory, 0);
	drop(memory);
}

static noinline void po_lose_kmalloc_large(size_t size)
{
	static const char how[] = "kmalloc_large";
	void *memory = HERE(kzalloc(size, GFP_KERNEL));

	LOST(PAGES, memory, get_order(size));
	drop(memory);
}

static noinline void po_lose_vmalloc(void)
{
	static const char how[] = "vmalloc";
	void *memory = HERE(vzalloc(AREA_PAGES * PAGE_SIZE));

	LOST(AREA, memory, AREA_PAGES * PAGE_SIZE);
	drop(memory);
}

/* The area is mapped, but nobody knows where; the list of its pages is gone. */
static noinline void po_lose_vmap(void)
{
	static const char how[] = "vmap";
	struct page *list[AREA_PAGES];
	unsigned int i;
	void *memory;

	for (i = 0; i < AREA_PAGES; i++) {
		list[i] = HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, 0));
		clean(list[i]);
	}
	memory = vmap(list, AREA_PAGES, VM_MAP, PAGE_KERNEL);
	if (!memory)
		panic("po_owners: no memory");
	LOST(AREA, memory, AREA_PAGES * PAGE_SIZE);
	drop(memory);
}

/* --- objects that are lost ---------------------------------------------------------------------*/

static noinline void po_lose_item(u32 number)
{
	static const char how[] = "item";
	struct po_item *item = HERE(kmem_cache_zalloc(item_cache, GFP_KERNEL));

	INIT_LIST_HEAD(&item->list);
	po_item_init(item, number);
	LOST(OBJECT, item, sizeof(*item));
	drop(item);
}

/* A list without its head. */
static noinline void po_lose_item_ring(void)
{
	static const char how[] = "item_ring";
	struct po_item *first = NULL, *item;
	unsigned int i;

	for (i = 0; i < SOME; i++) {
		item = HERE(kmem_cache_zalloc(item_cache, GFP_KERNEL));
		INIT_LIST_HEAD(&item->list);
		po_item_init(item, 1000 + i);
		if (first)
			list_add_tail(&item->list, &first->list);
		else
			first = item;
		LOST(OBJECT, item, sizeof(*item));
	}
	drop(first);
}

static noinline void po_lose_item_page(u32 number)
{
	static const char how[] = "item_page";
	struct po_item *item = HERE(kmem_cache_zalloc(item_cache, GFP_KERNEL));

	INIT_LIST_HEAD(&item->list);
	po_item_init(item, number);
	LOST(OBJECT, item, sizeof(*item));
	item->page = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, 0)));
	LOST(PAGES, item->page, 0);
	drop(item);
}

static noinline void po_lose_bulk(void)
{
	static const char how[] = "bulk";
	void *items[SOME];
	unsigned int i;

	line = __LINE__ + 1;
	if (!kmem_cache_alloc_bulk(item_cache, GFP_KERNEL | __GFP_ZERO, SOME, items))
		panic("po_owners: no memory");
	for (i = 0; i < SOME; i++) {
		po_item_init(items[i], 2000 + i);
		LOST(OBJECT, items[i], sizeof(struct po_item));
		drop(items[i]);
	}
	memzero_explicit(items, sizeof(items));
}

static noinline void po_lose_rcu(u32 number)
{
	static const char how[] = "rcu";
	u32 *object = HERE(kmem_cache_zalloc(rcu_cache, GFP_KERNEL));

	object[5] = number;
	LOST(OBJECT, object, 120);
	drop(object);
}

static noinline void po_lose_aligned(u32 number)
{
	static const char how[] = "aligned";
	u32 *object = HERE(kmem_cache_zalloc(aligned_cache, GFP_KERNEL));

	object[5] = number;
	LOST(OBJECT, object, 100);
	drop(object);
}

static noinline void po_lose_tracked(u32 number)
{
	static const char how[] = "tracked";
	u32 *object = HERE(kmem_cache_zalloc(tracked_cache, GFP_KERNEL));

	object[5] = number;
	LOST(OBJECT, object, 72);
	drop(object);
}

/* One tag, several caches. */
static noinline void po_lose_ops(size_t size)
{
	static const char how[] = "ops";
	const void **object = HERE(kzalloc(size, GFP_KERNEL));

	object[2] = &po_owners_ops;
	object[3] = po_owners_release;
	LOST(OBJECT, object, size);
	drop(object);
}

static noinline void po_lose_string(u32 number)
{
	static const char how[] = "string";
	char *object = HERE(kzalloc(100, GFP_KERNEL));

	snprintf(object, 100, "po_owners: request %u was never answered", number);
	LOST(OBJECT, object, 100);
	drop(object);
}

static noinline void po_lose_magic(u32 number)
{
	static const char how[] = "magic";
	u32 *object = HERE(kzalloc(32, GFP_KERNEL));

	object[0] = MAGIC;
	object[1] = number;
	object[6] = ~MAGIC;
	LOST(OBJECT, object, 32);
	drop(object);
}

static noinline void po_lose_zero(void)
{
	static const char how[] = "zero";
	void *object = HERE(kzalloc(500, GFP_KERNEL));

	LOST(OBJECT, object, 500);
	drop(object);
}

/* What looks freed: use after free, or a driver's own poison. */
static noinline void po_lose_poison(void)
{
	static const char how[] = "poison";
	void *object = HERE(kmalloc(192, GFP_KERNEL));

	memset(object, 0x6b, 191);
	((u8 *)object)[191] = 0xa5;
	LOST(OBJECT, object, 192);
	drop(object);
}

/* 256 bytes: the cache whose allocations and frees `slub_debug=U,kmalloc-256` records. */
static noinline void po_lose_256(u32 number)
{
	static const char how[] = "of_256";
	u32 *object = HERE(kzalloc(256, GFP_KERNEL));

	object[40] = number;
	object[41] = MAGIC;
	LOST(OBJECT, object, 256);
	drop(object);
}

static noinline void po_lose_array(void)
{
	static const char how[] = "array";
	u32 *object = HERE(kcalloc(150, 4, GFP_KERNEL));
	unsigned int i;

	for (i = 0; i < 150; i++)
		object[i] = i * i;
	LOST(OBJECT, object, 600);
	drop(object);
}

static noinline void po_lose_memdup(void)
{
	static const char how[] = "memdup";
	void *object = HERE(kmemdup(&po_owners_ops, sizeof(po_owners_ops), GFP_KERNEL));

	LOST(OBJECT, object, sizeof(po_owners_ops));
	drop(object);
}

static noinline void po_lose_kvzalloc(void)
{
	static const char how[] = "kvzalloc";
	void **object = HERE(kvzalloc(2000, GFP_KERNEL));

	object[200] = po_lose_kvzalloc;
	LOST(OBJECT, object, 2000);
	drop(object);
}

static noinline void po_lose_account_object(u32 number)
{
	static const char how[] = "account_object";
	u32 *object = HERE(kzalloc(300, GFP_KERNEL_ACCOUNT));

	object[7] = number;
	LOST(OBJECT, object, 300);
	drop(object);
}

/* Objects, pages and an area that know each other. */
static noinline void po_lose_graph(void)
{
	static const char how[] = "graph";
	void **root = HERE(kzalloc(64, GFP_KERNEL)), **page, **leaf;
	unsigned int i;

	LOST(OBJECT, root, 64);
	page = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, 0)));
	LOST(PAGES, page, 0);
	root[3] = page;
	for (i = 0; i < FEW; i++) {
		leaf = HERE(kzalloc(48, GFP_KERNEL));
		LOST(OBJECT, leaf, 48);
		page[50 * i] = leaf;
	}
	leaf = HERE(vzalloc(2 * PAGE_SIZE));
	LOST(AREA, leaf, 2 * PAGE_SIZE);
	page[400] = leaf;
	leaf[100] = root;
	drop(root);
}

/* --- per-CPU memory that is lost ---------------------------------------------------------------*/

struct po_counter {
	u64 count;
	void *page;
	u32 magic;
};

static noinline void po_lose_percpu(void)
{
	static const char how[] = "percpu";
	struct po_counter __percpu *counter = HERE(alloc_percpu(struct po_counter));
	int cpu;

	for_each_possible_cpu(cpu)
		per_cpu_ptr(counter, cpu)->magic = MAGIC;
	LOST(PERCPU, counter, sizeof(*counter));
	drop_percpu(counter);
}

/* What only lost per-CPU memory knows is lost, too. */
static noinline void po_lose_percpu_page(void)
{
	static const char how[] = "percpu_page";
	struct po_counter __percpu *counter = HERE(alloc_percpu(struct po_counter));
	void *page;

	LOST(PERCPU, counter, sizeof(*counter));
	page = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, 0)));
	LOST(PAGES, page, 0);
	per_cpu_ptr(counter, 0)->page = page;
	drop_percpu(counter);
}

/* More than the first chunk has left, whose allocations have no tags. */
static noinline void po_lose_percpu_large(void)
{
	static const char how[] = "percpu_large";
	void __percpu *memory = HERE(__alloc_percpu(LARGE_PERCPU, 64));

	LOST(PERCPU, memory, LARGE_PERCPU);
	drop_percpu(memory);
}

/* --- held --------------------------------------------------------------------------------------*/

/* What nobody reads the compiler would not write at all: it is all written by WRITE_ONCE or lists. */
static void *array[SOME];

static noinline void po_keep_array(void)
{
	static const char how[] = "array";
	unsigned int i;

	for (i = 0; i < SOME; i++) {
		void *memory = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, i % 3)));

		WRITE_ONCE(array[i], memory);
		HELD(PAGES, memory, i % 3);
	}
}

static LIST_HEAD(item_list);

static noinline void po_keep_items(void)
{
	static const char how[] = "items";
	unsigned int i;

	for (i = 0; i < MANY; i++) {
		struct po_item *item = HERE(kmem_cache_zalloc(item_cache, GFP_KERNEL));

		po_item_init(item, 5000 + i);
		list_add_tail(&item->list, &item_list);
		HELD(OBJECT, item, sizeof(*item));
	}
}

/* A ring that somebody holds by one of its members. */
static struct po_item *ring;

static noinline void po_keep_ring(void)
{
	static const char how[] = "ring";
	struct po_item *first = NULL, *item;
	unsigned int i;

	for (i = 0; i < SOME; i++) {
		item = HERE(kmem_cache_zalloc(item_cache, GFP_KERNEL));
		INIT_LIST_HEAD(&item->list);
		po_item_init(item, 6000 + i);
		if (first)
			list_add_tail(&item->list, &first->list);
		else
			first = item;
		item->page = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, 0)));
		HELD(PAGES, item->page, 0);
		HELD(OBJECT, item, sizeof(*item));
	}
	WRITE_ONCE(ring, first);
}

static DEFINE_XARRAY(objects);

static noinline void po_keep_xarray(void)
{
	static const char how[] = "xarray";
	unsigned int i;

	for (i = 0; i < SOME; i++) {
		const void **object = HERE(kzalloc(i % 2 ? 96 : 1024, GFP_KERNEL));

		object[2] = &po_owners_ops;
		if (!xa_err(xa_store(&objects, i * 1000, object, GFP_KERNEL)))
			HELD(OBJECT, object, i % 2 ? 96 : 1024);
	}
}

static DEFINE_IDR(idr);

static noinline void po_keep_idr(void)
{
	static const char how[] = "idr";
	unsigned int i;

	for (i = 0; i < FEW; i++) {
		void *object = HERE(kzalloc(256, GFP_KERNEL));

		if (idr_alloc(&idr, object, 1, 0, GFP_KERNEL) > 0)
			HELD(OBJECT, object, 256);
	}
}

struct po_node {
	u64 key;
	struct rb_node rb;
	struct hlist_node hash;
	struct llist_node llist;
};

static struct rb_root tree = RB_ROOT;
static DEFINE_HASHTABLE(table, 4);
static LLIST_HEAD(llist);

/* All three point into the middle of the object. */
static noinline void po_keep_nodes(void)
{
	static const char how[] = "nodes";
	unsigned int i;

	for (i = 0; i < 3 * FEW; i++) {
		struct po_node *node = HERE(kzalloc(sizeof(*node), GFP_KERNEL));

		node->key = i;
		if (i % 3 == 0) {
			struct rb_node **at = &tree.rb_node, *parent = NULL;

			while (*at) {
				parent = *at;
				at = rb_entry(parent, struct po_node, rb)->key > i ?
				     &parent->rb_left : &parent->rb_right;
			}
			rb_link_node(&node->rb, parent, at);
			rb_insert_color(&node->rb, &tree);
		} else if (i % 3 == 1) {
			hash_add(table, &node->hash, i);
		} else {
			llist_add(&node->llist, &llist);
		}
		HELD(OBJECT, node, sizeof(*node));
	}
}

/* The lowest bits of the address are flags. */
static unsigned long flagged[FEW];

static noinline void po_keep_flagged(void)
{
	static const char how[] = "flagged";
	unsigned int i;

	for (i = 0; i < FEW; i++) {
		void *object = HERE(kzalloc(128, GFP_KERNEL));

		WRITE_ONCE(flagged[i], (unsigned long)object | (1 + i % 3));
		HELD(OBJECT, object, 128);
	}
}

static struct po_counter __percpu *counters[FEW];

static noinline void po_keep_percpu(void)
{
	static const char how[] = "percpu";
	unsigned int i;

	for (i = 0; i < FEW; i++) {
		struct po_counter __percpu *counter = HERE(alloc_percpu(struct po_counter));
		void *memory;

		WRITE_ONCE(counters[i], counter);
		HELD(PERCPU, counter, sizeof(*counter));
		memory = HERE(kzalloc(400, GFP_KERNEL));
		HELD(OBJECT, memory, 400);
		per_cpu_ptr(counter, cpumask_first(cpu_online_mask))->page = memory;
	}
}

static void __percpu *large_counters[FEW];

static noinline void po_keep_percpu_large(void)
{
	static const char how[] = "percpu_large";
	unsigned int i;

	for (i = 0; i < FEW; i++) {
		void __percpu *memory = HERE(__alloc_percpu(LARGE_PERCPU, 64));

		WRITE_ONCE(large_counters[i], memory);
		HELD(PERCPU, memory, LARGE_PERCPU);
	}
}

/* The only one who knows this per-CPU memory is an object on a list. */
static noinline void po_keep_percpu_item(void)
{
	static const char how[] = "percpu_item";
	unsigned int i;

	for (i = 0; i < FEW; i++) {
		struct po_item *item = HERE(kmem_cache_zalloc(item_cache, GFP_KERNEL));
		struct po_counter __percpu *counter;

		po_item_init(item, 7000 + i);
		list_add_tail(&item->list, &item_list);
		HELD(OBJECT, item, sizeof(*item));
		counter = HERE(alloc_percpu(struct po_counter));
		HELD(PERCPU, counter, sizeof(*counter));
		item->page = (void __force *)counter;
	}
}

static void **area;

static noinline void po_keep_area(void)
{
	static const char how[] = "area";
	void **memory = HERE(vzalloc(AREA_PAGES * PAGE_SIZE)), *object;
	unsigned int i;

	HELD(AREA, memory, AREA_PAGES * PAGE_SIZE);
	for (i = 0; i < SOME; i++) {
		object = HERE(kzalloc(500, GFP_KERNEL));
		memory[i * 100] = object;
		HELD(OBJECT, object, 500);
	}
	WRITE_ONCE(area, memory);
}

static void *mapped;

static noinline void po_keep_vmap(void)
{
	static const char how[] = "vmap";
	struct page *list[AREA_PAGES];
	unsigned int i;

	for (i = 0; i < AREA_PAGES; i++) {
		list[i] = HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, 0));
		clean(list[i]);
	}
	WRITE_ONCE(mapped, vmap(list, AREA_PAGES, VM_MAP, PAGE_KERNEL));
	HELD(AREA, mapped, AREA_PAGES * PAGE_SIZE);
	memzero_explicit(list, sizeof(list));
}

/* Known by struct page, by number, by physical address. */
static struct page **struct_pages;
static unsigned long *pfns;
static phys_addr_t *physical;

static noinline void po_keep_pages(void)
{
	static const char how[] = "pages";
	unsigned int i;

	WRITE_ONCE(struct_pages, HERE(kcalloc(FEW, sizeof(*struct_pages), GFP_KERNEL)));
	HELD(OBJECT, struct_pages, FEW * sizeof(*struct_pages));
	WRITE_ONCE(pfns, HERE(kcalloc(FEW, sizeof(*pfns), GFP_KERNEL)));
	HELD(OBJECT, pfns, FEW * sizeof(*pfns));
	WRITE_ONCE(physical, HERE(kcalloc(FEW, sizeof(*physical), GFP_KERNEL)));
	HELD(OBJECT, physical, FEW * sizeof(*physical));
	for (i = 0; i < 3 * FEW; i++) {
		struct page *page = HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, i % 2));

		HELD(PAGES, clean(page), i % 2);
		if (i % 3 == 0)
			struct_pages[i / 3] = page;
		else if (i % 3 == 1)
			pfns[i / 3] = page_to_pfn(page);
		else
			physical[i / 3] = page_to_phys(page);
	}
}

static void *exact, *large, *folio_memory;

static noinline void po_keep_large(void)
{
	static const char how[] = "large";
	unsigned int i;

	WRITE_ONCE(exact, HERE(alloc_pages_exact(EXACT_PAGES * PAGE_SIZE, GFP_KERNEL | __GFP_ZERO)));
	for (i = 0; i < EXACT_PAGES; i++)
		HELD(PAGES, exact + i * PAGE_SIZE, 0);
	WRITE_ONCE(large, HERE(kzalloc(4 * PAGE_SIZE, GFP_KERNEL)));
	HELD(PAGES, large, 2);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 16, 0)
	WRITE_ONCE(folio_memory, folio_address(HERE(folio_alloc(GFP_KERNEL | __GFP_ZERO, 2))));
	HELD(PAGES, folio_memory, 2);
#endif
}

/* Only the timer wheel, the workqueue's timer, a notifier chain and a file of /proc know these. */
struct po_waiting {
	struct timer_list timer;
	struct delayed_work work;
	struct notifier_block notifier;
	void *page;
};

static RAW_NOTIFIER_HEAD(chain);

static void po_timer_fires(struct timer_list *timer)
{
}

static void po_work_runs(struct work_struct *work)
{
}

static int po_notified(struct notifier_block *block, unsigned long event, void *data)
{
	return NOTIFY_DONE;
}

static int po_show(struct seq_file *file, void *unused)
{
	return 0;
}

static noinline void po_keep_waiting(void)
{
	static const char how[] = "waiting";
	unsigned int i;

	for (i = 0; i < 4; i++) {
		struct po_waiting *waiting = HERE(kzalloc(sizeof(*waiting), GFP_KERNEL));

		HELD(OBJECT, waiting, sizeof(*waiting));
		waiting->page = clean(HERE(alloc_pages(GFP_KERNEL | __GFP_ZERO, 0)));
		HELD(PAGES, waiting->page, 0);
		timer_setup(&waiting->timer, po_timer_fires, 0);
		INIT_DELAYED_WORK(&waiting->work, po_work_runs);
		waiting->notifier.notifier_call = po_notified;
		if (i == 0)
			mod_timer(&waiting->timer, jiffies + DAY);
		else if (i == 1)
			schedule_delayed_work(&waiting->work, DAY);
		else if (i == 2)
			raw_notifier_chain_register(&chain, &waiting->notifier);
		else
			proc_create_single_data("po_owners", 0, NULL, po_show, waiting);
	}
}

static DECLARE_COMPLETION(stack_ready);

static noinline void *po_keep_stack(unsigned int i)
{
	static const char how[] = "stack";
	void *object = HERE(kzalloc(i % 2 ? 64 : 1024, GFP_KERNEL));

	HELD(OBJECT, object, i % 2 ? 64 : 1024);
	return object;
}

static noinline void stack_sleep(void *volatile *kept)
{
	complete(&stack_ready);
	for (;;) {
		schedule_timeout_interruptible(1000 * HZ);
		if (!kept[0])
			break;
	}
}

static int stack_thread(void *unused)
{
	void *volatile kept[FEW];
	unsigned int i;

	for (i = 0; i < FEW; i++)
		kept[i] = po_keep_stack(i);
	stack_sleep(kept);
	for (i = 0; i < FEW; i++)
		WRITE_ONCE(array[i], kept[i]);
	return 0;
}

/* --- ------------------------------------------------------------------------------------------ */

static noinline void hold_all(void)
{
	po_keep_array();
	po_keep_items();
	po_keep_ring();
	po_keep_xarray();
	po_keep_idr();
	po_keep_nodes();
	po_keep_flagged();
	po_keep_percpu();
	po_keep_percpu_item();
	po_keep_percpu_large();
	po_keep_area();
	po_keep_vmap();
	po_keep_pages();
	po_keep_large();
	po_keep_waiting();
}

static noinline void lose_pages(void)
{
	unsigned int i;

	for (i = 0; i < SOME; i++)
		po_lose_single();
	for (i = 0; i < SOME; i++)
		po_lose_block(1 + i % 3);
	for (i = 0; i < FEW; i++)
		po_lose_compound(1 + i % 3);
	for (i = 0; i < FEW; i++)
		po_lose_folio(i % 3);
	for (i = 0; i < FEW; i++)
		po_lose_zeroed();
	for (i = 0; i < 4; i++)
		po_lose_exact();
	for (i = 0; i < FEW; i++)
		po_lose_account();
	po_lose_page_ring();
	for (i = 0; i < FEW; i++)
		po_lose_text(i);
	for (i = 0; i < FEW; i++)
		po_lose_kmalloc_large((i % 2 ? 16 : 4) * PAGE_SIZE);
	for (i = 0; i < 4; i++)
		po_lose_vmalloc();
	for (i = 0; i < 4; i++)
		po_lose_vmap();
}

static const size_t sizes[] = { 32, 40, 64, 96, 192, 500, 1000, 2000 };
static const size_t cache_sizes[] = { 32, 64, 96, 128, 192, 256, 512, 1024, 2048 };

static noinline void lose_objects(void)
{
	unsigned int i;

	for (i = 0; i < MANY; i++)
		po_lose_item(i);
	po_lose_item_ring();
	for (i = 0; i < FEW; i++)
		po_lose_item_page(3000 + i);
	po_lose_bulk();
	for (i = 0; i < SOME; i++)
		po_lose_rcu(i);
	for (i = 0; i < SOME; i++)
		po_lose_aligned(i);
	for (i = 0; i < SOME; i++)
		po_lose_tracked(i);
	for (i = 0; i < 4 * ARRAY_SIZE(sizes); i++)
		po_lose_ops(sizes[i % ARRAY_SIZE(sizes)]);
	for (i = 0; i < SOME; i++)
		po_lose_string(i);
	for (i = 0; i < SOME; i++)
		po_lose_magic(i);
	for (i = 0; i < SOME; i++)
		po_lose_zero();
	for (i = 0; i < SOME; i++)
		po_lose_poison();
	for (i = 0; i < SOME; i++)
		po_lose_256(i);
	for (i = 0; i < FEW; i++)
		po_lose_array();
	for (i = 0; i < FEW; i++)
		po_lose_memdup();
	for (i = 0; i < FEW; i++)
		po_lose_account_object(i);
	for (i = 0; i < FEW; i++)
		po_lose_kvzalloc();
	po_lose_graph();
}

static noinline void lose_percpu(void)
{
	unsigned int i;

	for (i = 0; i < SOME; i++)
		po_lose_percpu();
	for (i = 0; i < FEW; i++)
		po_lose_percpu_page();
	for (i = 0; i < FEW; i++)
		po_lose_percpu_large();
}

static noinline void lose_all(void)
{
	lose_pages();
	lose_objects();
	lose_percpu();
}

/*
 * The pages and objects that were freed last are known to others by stale addresses. Hold them
 * while something else is allocated, which gets others then.
 */
static noinline void with_fresh_memory(void (*allocate)(void))
{
	struct list_head *memory, *next;
	struct page *page, *next_page;
	LIST_HEAD(recent_objects);
	LIST_HEAD(recent_pages);
	unsigned int i, j;

	for (i = 0; i < RECENT_PAGES; i++) {
		page = HERE(alloc_pages(GFP_KERNEL, 0));
		list_add(&page->lru, &recent_pages);
	}
	for (i = 0; i < ARRAY_SIZE(cache_sizes); i++) {
		for (j = 0; j < RECENT_OBJECTS; j++) {
			memory = HERE(kmalloc(cache_sizes[i], GFP_KERNEL));
			list_add(memory, &recent_objects);
			memory = HERE(kmalloc(cache_sizes[i], GFP_KERNEL_ACCOUNT));
			list_add(memory, &recent_objects);
		}
	}
	allocate();
	list_for_each_safe(memory, next, &recent_objects)
		kfree(memory);
	list_for_each_entry_safe(page, next_page, &recent_pages, lru) {
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

static int __init po_owners_init(void)
{
	struct task_struct *thread = kthread_run(stack_thread, NULL, "po_keep_stack");

	if (IS_ERR(thread))
		return PTR_ERR(thread);
	wait_for_completion(&stack_ready);
	make_caches();
	hold_all();
	with_fresh_memory(lose_all);
	say();
	clear_stack(7);
	return 0;
}

/* It stays: it has no exit function. */
module_init(po_owners_init);
MODULE_DESCRIPTION("holds and drops memory of every kind");
MODULE_LICENSE("GPL");
