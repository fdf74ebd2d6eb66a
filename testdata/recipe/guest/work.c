// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * work: own memory in known ways and say which pages those are.
 *
 *   work NAME [anon PAGES] [move PAGES] [thp COUNT] [hugetlb COUNT] [file PATH] [sockets COUNT]
 *             [pipes COUNT] [pin COUNT] [splice PAGES] [socket PAGES] [cache PATH]
 *             [device PATH] [comb PAGES] [noisy PAGES] [ldt COUNT]
 *
 * "move" is anonymous memory that is migrated to another node; "pin" is such memory inside the CMA
 * area (its PFNs go to /tmp/pin, for a module to take references); "splice" is memory that went
 * into pipes and is mapped no more, "socket" such in a socket's queue, "cache" that of a file, and "device" maps 8 pages of a driver.
 * "comb" is locked memory of which every other page is given back: what is free then is in pieces.
 * "noisy" is memory of which a quarter is random, and that may be swapped out: there are no facts of it.
 * "ldt" is a table of its own of that many segments (x86), which the kernel keeps.
 * Then it sleeps, and at SIGUSR1 appends facts to /facts, one a line ("anon pid=.. comm=.. va=0x..
 * pfn=.."): the PFNs are those that /proc/self/pagemap gives at that time, or gave while there was
 * a mapping.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifdef __x86_64__
#include <asm/ldt.h>
#endif

#include "sizes.h"

#define MAX_FACTS 256
#define PIN_TRIES 50000
#define DEVICE_PAGES 8
#define CACHE_PAGES 8
#define MPOL_DEFAULT 0
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif
#define MPOL_BIND 2
#define MPOL_MF_MOVE 2

static const char *name;
static struct fact {
	const char *kind, *path;
	void *address;
	size_t index;
	unsigned long long pfn; /* 0: what the page map says then */
} facts[MAX_FACTS];
static int fact_count;

static unsigned long long pfn_of(void *address)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)address / PAGE * 8) != 8)
		perror("pagemap");
	close(fd);
	/* What is swapped out has no page. */
	return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

static void fact(const char *kind, void *address, const char *path, size_t index)
{
	if (fact_count < MAX_FACTS)
		facts[fact_count++] = (struct fact){ kind, path, address, index, 0 };
}

/* Of a page that is mapped now, but will not be at SIGUSR1. */
static void fact_now(const char *kind, void *address, const char *path, size_t index)
{
	fact(kind, address, path, index);
	facts[fact_count - 1].pfn = pfn_of(address);
}

static void write_facts(int signal)
{
	char line[400];
	int fd = open("/facts", O_WRONLY | O_APPEND);

	(void)signal;
	for (int i = 0; i < fact_count; i++) {
		struct fact *f = &facts[i];
		unsigned long long pfn = f->pfn ? f->pfn : pfn_of(f->address);
		int n = snprintf(line, sizeof(line), "%s pid=%d comm=%s va=%p pfn=%llu", f->kind,
				 getpid(), name, f->address, pfn);

		if (!pfn)
			continue;
		if (f->path)
			n += snprintf(line + n, sizeof(line) - n, " index=%zu path=%s", f->index,
				      f->path);
		line[n++] = '\n';
		if (write(fd, line, n) != n)
			perror("/facts");
	}
	close(fd);
}

static char *map(size_t bytes, int flags)
{
	char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags,
			-1, 0);
	if (at == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return at;
}

static void anon(size_t pages)
{
	char *at = map(pages * PAGE, 0);

	madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++)
		at[i * PAGE] = i + 1;
	for (size_t i = 0; i < pages; i += pages / 4 ? pages / 4 : 1)
		fact("anon", at + i * PAGE, NULL, 0);
}

static void comb(size_t pages)
{
	char *at = map(pages * PAGE, 0);

	madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++)
		at[i * PAGE] = i + 1;
	if (mlock(at, pages * PAGE))
		perror("mlock");
	for (size_t i = 1; i < pages; i += 2)
		if (madvise(at + i * PAGE, PAGE, MADV_DONTNEED_LOCKED))
			perror("madvise");
}

/* Half of the pages go by move_pages(), half by mbind(): two migrate reasons. */
static void move(size_t pages)
{
	char *at = map(pages * PAGE, 0);
	void **addresses = calloc(pages, sizeof(*addresses));
	int *nodes = calloc(pages, sizeof(*nodes)), *status = calloc(pages, sizeof(*status));
	unsigned long mask;
	size_t half = pages / 2;

	madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++) {
		at[i * PAGE] = i + 1;
		addresses[i] = at + i * PAGE;
	}
	/* Without new nodes move_pages() only says where they are. */
	if (syscall(SYS_move_pages, 0, pages, addresses, NULL, status, 0))
		perror("move_pages");
	for (size_t i = 0; i < pages; i++)
		nodes[i] = !status[i];
	mask = 1UL << nodes[half];
	if (syscall(SYS_move_pages, 0, half, addresses, nodes, status, MPOL_MF_MOVE) < 0)
		perror("move_pages");
	if (syscall(SYS_mbind, at + half * PAGE, half * PAGE, MPOL_BIND, &mask, 64, MPOL_MF_MOVE) < 0)
		perror("mbind");
	fact("anon", at, NULL, 0);
	fact("anon", at + half * PAGE, NULL, 0);
	free(addresses);
	free(nodes);
	free(status);
}

static void thp(size_t count)
{
	size_t huge = huge_page_size();
	char *at = map((count + 1) * huge, 0);

	at = (char *)(((uintptr_t)at + huge - 1) & ~(huge - 1));
	madvise(at, count * huge, MADV_HUGEPAGE);
	for (size_t i = 0; i < count; i++) {
		at[i * huge] = 1;
		fact("thp", at + i * huge, NULL, 0);
	}
}

static void hugetlb(size_t count)
{
	size_t huge = hugetlb_page_size();
	char *at = map(count * huge, MAP_HUGETLB);

	for (size_t i = 0; i < count; i++) {
		at[i * huge] = 1;
		fact("hugetlb", at + i * huge, NULL, 0);
	}
}

static void file(const char *path)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	char *at;

	if (fd < 0 || fstat(fd, &st)) {
		perror(path);
		return;
	}
	at = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	for (off_t i = 0; i < st.st_size; i += 16 * PAGE) {
		volatile char c = at[i];

		(void)c;
		fact("file", at + i, path, i / PAGE);
	}
}

static void sockets(size_t count)
{
	char data[2000] = "x";

	for (size_t i = 0; i < count; i++) {
		int pair[2];

		if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
			return;
		for (int j = 0; j < 4; j++)
			if (send(pair[0], data, sizeof(data), MSG_DONTWAIT) < 0)
				break;
	}
}

static void pipes(size_t count)
{
	char data[8192] = "x";

	for (size_t i = 0; i < count; i++) {
		int ends[2];

		if (pipe(ends) || write(ends[1], data, sizeof(data)) < 0)
			return;
	}
}

static unsigned long long number_in(const char *pattern)
{
	unsigned long long number = 0;
	glob_t found;
	FILE *file;

	if (glob(pattern, 0, NULL, &found) || !(file = fopen(found.gl_pathv[0], "r"))) {
		perror(pattern);
		return 0;
	}
	if (fscanf(file, "%llu", &number) != 1)
		perror(pattern);
	fclose(file);
	globfree(&found);
	return number;
}

/* The CMA area is at the end of memory: on the last node. */
static void bind_to_last_node(void)
{
	unsigned long mask = access("/sys/devices/system/node/node1", F_OK) ? 1 : 2;

	if (syscall(SYS_set_mempolicy, MPOL_BIND, &mask, 64))
		perror("set_mempolicy");
}

static void pin(size_t count)
{
	unsigned long long low = number_in("/sys/kernel/debug/cma/*/base_pfn");
	unsigned long long high = low + number_in("/sys/kernel/debug/cma/*/count");
	char *at = map(PIN_TRIES * PAGE, MAP_NORESERVE);
	FILE *list = fopen("/tmp/pin", "w");
	size_t found = 0, i;

	/* There is no such area where its alignment is as large as memory. */
	if (high == low) {
		fclose(list);
		return;
	}
	bind_to_last_node();
	madvise(at, PIN_TRIES * PAGE, MADV_NOHUGEPAGE);
	/* Movable pages go into the area when most of the free memory is there. */
	for (i = 0; i < PIN_TRIES && found < count; i++) {
		unsigned long long pfn;

		at[i * PAGE] = i + 1;
		/* Some distance between them, so that they are not all neighbours. */
		if (i % 30)
			continue;
		pfn = pfn_of(at + i * PAGE);
		if (pfn < low || pfn >= high)
			continue;
		fprintf(list, "%s%llu", found++ ? "," : "", pfn);
		fact("anon", at + i * PAGE, NULL, 0);
	}
	fclose(list);
	syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
	printf("work: %zu pages of the CMA area after %zu\n", found, i);
	while (i--) {
		int wanted = 0;

		for (int j = 0; j < fact_count; j++)
			wanted |= facts[j].address == at + i * PAGE;
		if (!wanted)
			madvise(at + i * PAGE, PAGE, MADV_DONTNEED);
	}
}

/* Into a pipe; if SOCKET, from there on into the queue of a socket. */
static void splice_pages(size_t pages, int socket)
{
	const char *kind = socket ? "module name=work what=held how=socket" :
				    "module name=work what=held how=pipe";
	char *at = map(pages * PAGE, 0);
	struct iovec vector = { at, pages * PAGE };
	int ends[2], pair[2];

	madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++)
		at[i * PAGE] = i + 1;
	if (pipe(ends) || vmsplice(ends[1], &vector, 1, 0) != (ssize_t)(pages * PAGE))
		perror("vmsplice");
	for (size_t i = 0; i < pages; i++)
		fact_now(kind, at + i * PAGE, NULL, 0);
	if (socket && (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) ||
		       splice(ends[0], NULL, pair[0], NULL, pages * PAGE, 0) !=
			       (ssize_t)(pages * PAGE)))
		perror("splice");
	munmap(at, pages * PAGE);
}

static void cache(const char *path)
{
	int fd = open(path, O_RDONLY);
	char *at = mmap(NULL, CACHE_PAGES * PAGE, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);

	if (at == MAP_FAILED) {
		perror(path);
		return;
	}
	for (size_t i = 0; i < CACHE_PAGES; i++)
		fact_now("module name=work what=held how=cache", at + i * PAGE, path, i);
	munmap(at, CACHE_PAGES * PAGE);
	close(fd);
}

static void device(const char *path)
{
	int fd = open(path, O_RDWR);

	if (fd < 0 || mmap(NULL, DEVICE_PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
		perror(path);
}

static void noisy(size_t pages)
{
	char *at = map(pages * PAGE, 0);

	madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++)
		for (size_t j = 0; j < PAGE / 4; j += sizeof(int))
			*(int *)(at + i * PAGE + j) = random();
}

static void ldt(size_t count)
{
#ifdef __x86_64__
	for (size_t i = 0; i < count; i++) {
		struct user_desc segment = { .entry_number = i, .limit = 0xfffff, .limit_in_pages = 1 };

		if (syscall(SYS_modify_ldt, 1, &segment, sizeof(segment)))
			perror("modify_ldt");
	}
#else
	(void)count;
#endif
}

int main(int argc, char **argv)
{
	struct rlimit files = { 65536, 65536 };

	name = argv[1];
	setrlimit(RLIMIT_NOFILE, &files);
	prctl(PR_SET_NAME, name);
	for (int i = 2; i + 1 < argc; i += 2) {
		const char *what = argv[i], *arg = argv[i + 1];

		if (!strcmp(what, "anon"))
			anon(atol(arg));
		else if (!strcmp(what, "move"))
			move(atol(arg));
		else if (!strcmp(what, "thp"))
			thp(atol(arg));
		else if (!strcmp(what, "hugetlb"))
			hugetlb(atol(arg));
		else if (!strcmp(what, "file"))
			file(arg);
		else if (!strcmp(what, "sockets"))
			sockets(atol(arg));
		else if (!strcmp(what, "pipes"))
			pipes(atol(arg));
		else if (!strcmp(what, "pin"))
			pin(atol(arg));
		else if (!strcmp(what, "splice"))
			splice_pages(atol(arg), 0);
		else if (!strcmp(what, "socket"))
			splice_pages(atol(arg), 1);
		else if (!strcmp(what, "cache"))
			cache(arg);
		else if (!strcmp(what, "device"))
			device(arg);
		else if (!strcmp(what, "comb"))
			comb(atol(arg));
		else if (!strcmp(what, "noisy"))
			noisy(atol(arg));
		else if (!strcmp(what, "ldt"))
			ldt(atol(arg));
	}
	signal(SIGUSR1, write_facts);
	printf("work: %s is ready\n", name);
	fflush(stdout);
	for (;;)
		pause();
}
