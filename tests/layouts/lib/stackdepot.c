// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The stack depot. DEPOT_POOLS: since v6.3; DEPOT_EXTRA_BITS: since v5.18; DEPOT_NO_VALID: since
 * v6.8, where DEPOT_INDEX_PLUS_1 says that the fix of v6.9 is in.
 */
#ifndef DEPOT_EXTRA_BITS
#define DEPOT_EXTRA_BITS 0
#endif
#ifdef DEPOT_NO_VALID
#define DEPOT_VALID_BITS 0
#else
#define DEPOT_VALID_BITS 1
#endif
#define DEPOT_POOL_ORDER 2
#define DEPOT_POOL_SIZE (PAGE_SIZE << DEPOT_POOL_ORDER)
#define DEPOT_STACK_ALIGN 4
#define DEPOT_OFFSET_BITS (DEPOT_POOL_ORDER + PAGE_SHIFT - DEPOT_STACK_ALIGN)
#define DEPOT_INDEX_BITS (32 - DEPOT_VALID_BITS - DEPOT_OFFSET_BITS - DEPOT_EXTRA_BITS)
#define DEPOT_MAX_POOLS 8192

typedef u32 depot_stack_handle_t;

union handle_parts {
	depot_stack_handle_t handle;
	struct {
#ifdef DEPOT_POOLS
		u32 pool_index : DEPOT_INDEX_BITS;
#else
		u32 slabindex : DEPOT_INDEX_BITS;
#endif
		u32 offset : DEPOT_OFFSET_BITS;
#ifndef DEPOT_NO_VALID
		u32 valid : DEPOT_VALID_BITS;
#endif
#if DEPOT_EXTRA_BITS
		u32 extra : DEPOT_EXTRA_BITS;
#endif
	};
};

struct stack_record {
#ifdef DEPOT_NO_VALID
	struct list_head hash_list;
	u32 hash;
	u32 size;
	union handle_parts handle;
	struct { struct { atomic_t refs; } refs; } count;
	unsigned long entries[64];
#else
	struct stack_record *next;
	u32 hash;
	u32 size;
	union handle_parts handle;
	unsigned long entries[1];
#endif
};

#ifdef DEPOT_POOLS
static void *stack_pools[DEPOT_MAX_POOLS];
#ifdef DEPOT_NO_VALID
static int pools_num __attribute__((used));
#else
static int pool_index __attribute__((used));
#endif
#define pools stack_pools
#else
static void *stack_slabs[DEPOT_MAX_POOLS];
static int depot_index __attribute__((used));
#define pools stack_slabs
#endif
static size_t depot_offset;

#define DEPOT_POOLS_HERE 24
static char depot_memory[DEPOT_POOLS_HERE][DEPOT_POOL_SIZE] ALIGNED;
static int depot_pool;

static struct stack_record *depot_find(const unsigned long *entries, unsigned int size)
{
	static struct stack_record *found[4096];
	static int number;
	size_t bytes = sizeof(struct stack_record);

	for (int i = 0; i < number; i++)
		if (found[i]->size == size && !memcmp(found[i]->entries, entries, size * 8))
			return found[i];
#ifndef DEPOT_NO_VALID
	bytes += (size - 1) * sizeof(unsigned long);
#endif
	bytes = (bytes + (1 << DEPOT_STACK_ALIGN) - 1) & ~((1UL << DEPOT_STACK_ALIGN) - 1);
	if (depot_offset + bytes > DEPOT_POOL_SIZE) {
		depot_pool++;
		depot_offset = 0;
	}
	if (number == ARRAY_SIZE(found) || depot_pool == DEPOT_POOLS_HERE)
		abort();
	pools[depot_pool] = depot_memory[depot_pool];
#ifndef DEPOT_POOLS
	depot_index = depot_pool;
#elif defined(DEPOT_NO_VALID)
	pools_num = depot_pool + 1;
#else
	pool_index = depot_pool;
#endif
	found[number] = (void *)(depot_memory[depot_pool] + depot_offset);
	found[number]->size = size;
	found[number]->hash = number * 2654435761u;
#ifndef DEPOT_POOLS
	found[number]->handle.slabindex = depot_pool;
#elif defined(DEPOT_INDEX_PLUS_1)
	found[number]->handle.pool_index = depot_pool + 1;
#else
	found[number]->handle.pool_index = depot_pool;
#endif
	found[number]->handle.offset = depot_offset >> DEPOT_STACK_ALIGN;
#ifndef DEPOT_NO_VALID
	found[number]->handle.valid = 1;
#else
	found[number]->count.refs.refs.counter = 1;
#endif
	memcpy(found[number]->entries, entries, size * sizeof(unsigned long));
	depot_offset += bytes;
	return found[number++];
}

static depot_stack_handle_t stack_depot_save(const unsigned long *entries, unsigned int size)
{
	return depot_find(entries, size)->handle.handle;
}

static unsigned int stack_depot_fetch(depot_stack_handle_t handle, unsigned long **entries)
{
	union handle_parts parts = { .handle = handle };
	struct stack_record *record;
	int index;

#ifndef DEPOT_POOLS
	index = parts.slabindex;
#elif defined(DEPOT_INDEX_PLUS_1)
	index = parts.pool_index - 1;
#else
	index = parts.pool_index;
#endif
	record = (void *)((char *)pools[index] + ((size_t)parts.offset << DEPOT_STACK_ALIGN));
	*entries = record->entries;
	return record->size;
}
