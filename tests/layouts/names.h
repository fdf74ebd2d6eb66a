/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * gfp flags and the tables of names of include/trace/events/mmflags.h, as far as the machine
 * uses them. GFP_BITS is the first version that numbers them so.
 */
#if GFP_BITS == 319	/* v3.19 to v4.3: no tables */
#define __GFP_MOVABLE		0x08u
#define __GFP_WAIT		0x10u
#define __GFP_HIGH		0x20u
#define __GFP_IO		0x40u
#define __GFP_FS		0x80u
#define __GFP_NOWARN		0x200u
#define __GFP_COMP		0x4000u
#define __GFP_ZERO		0x8000u
#define __GFP_HARDWALL		0x20000u
#define __GFP_RECLAIMABLE	0x80000u
#define __GFP_RECLAIM		__GFP_WAIT
#define GFP_ATOMIC		__GFP_HIGH
#elif GFP_BITS < 420	/* v4.4 to v4.19 */
#define __GFP_MOVABLE		0x08u
#define __GFP_RECLAIMABLE	0x10u
#define __GFP_HIGH		0x20u
#define __GFP_IO		0x40u
#define __GFP_FS		0x80u
#define __GFP_NOWARN		0x200u
#define __GFP_COMP		0x4000u
#define __GFP_ZERO		0x8000u
#define __GFP_HARDWALL		0x20000u
#define __GFP_ATOMIC		0x80000u
#define __GFP_DIRECT_RECLAIM	0x400000u
#if GFP_BITS == 404
#define __GFP_KSWAPD_RECLAIM	0x2000000u
#else	/* since v4.11 */
#define __GFP_KSWAPD_RECLAIM	0x1000000u
#endif
#define __GFP_RECLAIM		(__GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM)
#define GFP_ATOMIC		(__GFP_HIGH | __GFP_ATOMIC | __GFP_KSWAPD_RECLAIM)
#else	/* since v4.20 */
#define __GFP_MOVABLE		0x08u
#define __GFP_RECLAIMABLE	0x10u
#define __GFP_HIGH		0x20u
#define __GFP_IO		0x40u
#define __GFP_FS		0x80u
#define __GFP_ZERO		0x100u
#define __GFP_ATOMIC		0x200u
#define __GFP_DIRECT_RECLAIM	0x400u
#define __GFP_KSWAPD_RECLAIM	0x800u
#define __GFP_NOWARN		0x2000u
#define __GFP_COMP		0x40000u
#define __GFP_HARDWALL		0x100000u
#define __GFP_RECLAIM		(__GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM)
#define GFP_ATOMIC		(__GFP_HIGH | __GFP_ATOMIC | __GFP_KSWAPD_RECLAIM)
#endif
#define __GFP_HIGHMEM		0x02u
#define GFP_NOFS		(__GFP_RECLAIM | __GFP_IO)
#define GFP_KERNEL		(__GFP_RECLAIM | __GFP_IO | __GFP_FS)
#define GFP_USER		(GFP_KERNEL | __GFP_HARDWALL)
#define GFP_HIGHUSER_MOVABLE	(GFP_USER | __GFP_HIGHMEM | __GFP_MOVABLE)

#ifdef LETTERS
#define gfpflag_names NULL
#else
#define FLAG(flag) { flag, #flag }
static const struct trace_print_flags gfpflag_names[] = {
	FLAG(GFP_HIGHUSER_MOVABLE), FLAG(GFP_USER), FLAG(GFP_KERNEL), FLAG(GFP_NOFS),
	FLAG(GFP_ATOMIC), FLAG(__GFP_HIGHMEM), FLAG(__GFP_HIGH), FLAG(__GFP_ATOMIC),
	FLAG(__GFP_IO), FLAG(__GFP_FS), FLAG(__GFP_NOWARN), FLAG(__GFP_COMP), FLAG(__GFP_ZERO),
	FLAG(__GFP_HARDWALL), FLAG(__GFP_RECLAIMABLE), FLAG(__GFP_MOVABLE), FLAG(__GFP_RECLAIM),
	FLAG(__GFP_DIRECT_RECLAIM), FLAG(__GFP_KSWAPD_RECLAIM), { 0, NULL },
};
#undef FLAG
static const char *const migratetype_names[MIGRATE_TYPES] __attribute__((used)) = {
	"Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate",
};
static const char *const migrate_reason_names[] __attribute__((used)) = {
	"compaction", "memory_failure", "memory_hotplug", "syscall_or_cpuset", "mempolicy_mbind",
	"numa_misplaced", "cma",
};
#endif

/* Of mm/debug.c, in every version. */
#define FLAG(flag) { 1UL << PG_##flag, #flag }
static const struct trace_print_flags pageflag_names[] __attribute__((used)) = {
	FLAG(locked), FLAG(error), FLAG(referenced), FLAG(uptodate), FLAG(dirty), FLAG(lru),
	FLAG(active), FLAG(slab), FLAG(owner_priv_1), FLAG(arch_1), FLAG(reserved), FLAG(private),
	FLAG(private_2), FLAG(writeback), FLAG(head),
#ifdef HAVE_PG_TAIL
	FLAG(tail),
#endif
#ifdef HAVE_PG_WAITERS
	FLAG(waiters),
#else
	FLAG(swapcache),
#endif
	FLAG(mappedtodisk), FLAG(reclaim), FLAG(swapbacked), FLAG(unevictable), FLAG(mlocked),
	{ 0, NULL },
};
#undef FLAG
