// SPDX-License-Identifier: GPL-2.0
/*
 * Leaks at a known rate: every `period_ms` ms `rate` allocations of order `order`, until there are
 * `total` (0: for ever). Beside that `noise` pages are taken and given back a period later: they
 * come and go, but do not grow. What was leaked so far is on the kernel log, once a second or once
 * a period, with the time on the clock that page_owner stamps its records with.
 */
#include <linux/gfp.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/clock.h>

static unsigned int rate = 16;
module_param(rate, uint, 0444);
MODULE_PARM_DESC(rate, "allocations to leak every period");
static unsigned int order;
module_param(order, uint, 0444);
MODULE_PARM_DESC(order, "order of each");
static unsigned int period_ms = 1000;
module_param(period_ms, uint, 0444);
MODULE_PARM_DESC(period_ms, "length of a period in ms");
static unsigned long total;
module_param(total, ulong, 0444);
MODULE_PARM_DESC(total, "allocations to leak in all; 0: for ever");
static unsigned int noise;
module_param(noise, uint, 0444);
MODULE_PARM_DESC(noise, "pages to take and to give back a period later");

static struct task_struct *thread;
static unsigned long leaked;

/* Nobody keeps the address: that is the leak. */
static noinline bool po_drip_leak_one(void)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, order);

	barrier_data(page);
	return page;
}

static noinline struct page *po_drip_noise_one(void)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, 0);

	barrier_data(page);
	return page;
}

static void take_noise(struct list_head *held)
{
	struct page *page;
	unsigned int i;

	for (i = 0; i < noise; i++) {
		page = po_drip_noise_one();
		if (page)
			list_add(&page->lru, held);
	}
}

static void drop_noise(struct list_head *held)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, held, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
}

static void report(void)
{
	pr_info("po_drip: dripped allocations=%lu pages=%lu ns=%llu\n", leaked,
		leaked << order, local_clock());
}

static int po_drip_run(void *unused)
{
	unsigned long due = jiffies, said = jiffies;
	bool stuck = false;
	LIST_HEAD(held);
	unsigned int i;

	while (!kthread_should_stop() && (!total || leaked < total) && !stuck) {
		drop_noise(&held);
		for (i = 0; i < rate && (!total || leaked < total) && !stuck; i++) {
			if (po_drip_leak_one())
				leaked++;
			else
				stuck = true;
		}
		take_noise(&held);
		if (time_after_eq(jiffies, said)) {
			report();
			said = jiffies + HZ;
		}
		/* By the clock, not by how long the work took: the rate is what was asked for. */
		due += msecs_to_jiffies(period_ms);
		if (time_after(due, jiffies))
			schedule_timeout_interruptible(due - jiffies);
	}
	drop_noise(&held);
	report();
	pr_info("po_drip: finished allocations=%lu pages=%lu%s\n", leaked, leaked << order,
		stuck ? " (no memory)" : "");
	/* kthread_stop() wants it alive. */
	while (!kthread_should_stop())
		schedule_timeout_interruptible(HZ);
	return 0;
}

static int __init po_drip_init(void)
{
	if (!period_ms || order > 10)
		return -EINVAL;
	thread = kthread_run(po_drip_run, NULL, "po_drip");
	return PTR_ERR_OR_ZERO(thread);
}

static void __exit po_drip_exit(void)
{
	kthread_stop(thread);
}

module_init(po_drip_init);
module_exit(po_drip_exit);
MODULE_DESCRIPTION("leaks pages at a known rate");
MODULE_LICENSE("GPL");
