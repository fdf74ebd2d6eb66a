/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first line of a record: of v3.19, v4.6, v5.11, v5.13, v5.18 and v6.8. */
#define PRINT_MASK(out, owner) \
	kprintf(out, "Page allocated via order %u, mask 0x%x\n", owner->order, owner->gfp_mask)
#define PRINT_FLAGS(out, owner) \
	kprintf(out, "Page allocated via order %u, mask %#x(%pGg)\n", owner->order, \
		owner->gfp_mask, &owner->gfp_mask)
#define PRINT_PID(out, owner) \
	kprintf(out, "Page allocated via order %u, mask %#x(%pGg), pid %d, ts %llu ns\n", \
		owner->order, owner->gfp_mask, &owner->gfp_mask, owner->pid, owner->ts_nsec)
#define PRINT_FREE_TS(out, owner) \
	kprintf(out, "Page allocated via order %u, mask %#x(%pGg), pid %d, ts %llu ns, " \
		"free_ts %llu ns\n", owner->order, owner->gfp_mask, &owner->gfp_mask, owner->pid, \
		owner->ts_nsec, owner->free_ts_nsec)
#define PRINT_COMM(out, owner) \
	kprintf(out, "Page allocated via order %u, mask %#x(%pGg), pid %d, tgid %d (%s), " \
		"ts %llu ns, free_ts %llu ns\n", owner->order, owner->gfp_mask, \
		&owner->gfp_mask, owner->pid, owner->tgid, owner->comm, owner->ts_nsec, \
		owner->free_ts_nsec)
#define PRINT_NO_FREE_TS(out, owner) \
	kprintf(out, "Page allocated via order %u, mask %#x(%pGg), pid %d, tgid %d (%s), " \
		"ts %llu ns\n", owner->order, owner->gfp_mask, &owner->gfp_mask, owner->pid, \
		owner->tgid, owner->comm, owner->ts_nsec)
