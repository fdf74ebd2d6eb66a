// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * truth: read what the kernel says about its own memory, all of it in one go, just before the
 * dump is taken.
 *
 *   truth kdump|qemu DISK MEGABYTES FILE|GLOB...
 *
 * Every file is read twice into a locked buffer and the second reading is kept, as a tar archive:
 * the first one makes the allocations that reading costs. /sys/kernel/debug/page_owner comes last,
 * between two readings of the clock, because it is what a later allocation would change.
 * Then:
 *   kdump  the archive is written to DISK with O_DIRECT and the kernel is crashed by sysrq 'c';
 *   qemu   READY is printed; the host dumps the guest and sends a byte; then it is written.
 *
 * clock-before and clock-after are nanoseconds of the clock that page_owner and printk use
 * (local_clock()), so that a record that is younger than the text can be told by its ts; they are
 * CLOCK_MONOTONIC plus clock-offset, which is measured by one line to /dev/kmsg.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <glob.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

#include "sizes.h"

#define BLOCK 512
#define CHUNK (1 << 20)
#define OWNER "/sys/kernel/debug/page_owner"
#define MAX_FILES 4096

static char *buffer;
static size_t size, used;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void header(char *at, const char *path, size_t bytes)
{
	unsigned int sum = 0;

	memset(at, 0, BLOCK);
	snprintf(at, 100, "%s", path + (*path == '/'));
	strcpy(at + 100, "0000644");
	strcpy(at + 108, "0000000");
	strcpy(at + 116, "0000000");
	snprintf(at + 124, 12, "%011zo", bytes);
	strcpy(at + 136, "00000000000");
	memset(at + 148, ' ', 8);
	at[156] = '0';
	memcpy(at + 257, "ustar\00000", 8);
	for (int i = 0; i < BLOCK; i++)
		sum += (unsigned char)at[i];
	snprintf(at + 148, 8, "%06o", sum);
}

/* Add a file to the archive; DATA is NULL where its bytes are in place already. */
static void add(const char *path, const char *data, size_t bytes)
{
	char *at = buffer + used;

	if (data)
		memcpy(at + BLOCK, data, bytes);
	header(at, path, bytes);
	memset(at + BLOCK + bytes, 0, -bytes % BLOCK);
	used += BLOCK + (bytes + BLOCK - 1) / BLOCK * BLOCK;
}

static void read_file(const char *path)
{
	int fd = open(path, O_RDONLY);
	size_t bytes = 0, room;
	ssize_t n;

	if (fd < 0)
		return;
	/* This header, padding, the clocks and the archive's end also want room. */
	if (size - used < 16 * BLOCK) {
		fprintf(stderr, "truth: no room for %s\n", path);
		exit(1);
	}
	room = size - used - 16 * BLOCK;
	/* page_owner gives one record a read, however large the buffer. */
	while ((n = read(fd, buffer + used + BLOCK + bytes,
			 room - bytes < 4096 ? room - bytes : 4096)) > 0)
		bytes += n;
	close(fd);
	/* A record that has no room left is no end of the file. */
	if (room - bytes < 4096) {
		fprintf(stderr, "truth: no room for %s\n", path);
		exit(1);
	}
	add(path, NULL, bytes);
}

static long long monotonic(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static long long clock_offset(void)
{
	int fd = open("/dev/kmsg", O_RDWR | O_NONBLOCK);
	long long before, after, microseconds = 0;
	char line[256] = "";

	if (fd < 0 || lseek(fd, 0, SEEK_END) < 0)
		die("/dev/kmsg");
	before = monotonic();
	if (write(fd, "truth: clock\n", 13) != 13)
		die("/dev/kmsg");
	after = monotonic();
	/* priority,sequence,microseconds,flags;text */
	if (read(fd, line, sizeof(line) - 1) <= 0 ||
	    sscanf(line, "%*d,%*d,%lld", &microseconds) != 1)
		die("/dev/kmsg");
	close(fd);
	return microseconds * 1000 - (before + after) / 2;
}

static void add_number(const char *name, long long number)
{
	char text[32];

	add(name, text, snprintf(text, sizeof(text), "%lld\n", number));
}

static void write_disk(int fd)
{
	size_t end = (used + 2 * BLOCK + CHUNK - 1) / CHUNK * CHUNK;

	memset(buffer + used, 0, end - used);
	for (size_t at = 0; at < end; at += CHUNK)
		if (pwrite(fd, buffer + at, CHUNK, at) != CHUNK)
			die("write");
	fsync(fd);
}

int main(int argc, char **argv)
{
	static char *paths[MAX_FILES];
	size_t huge = huge_page_size();
	int kdump, disk, sysrq, count = 0;
	long long offset;
	cpu_set_t cpu;
	glob_t found;

	if (argc < 5)
		return 2;
	kdump = !strcmp(argv[1], "kdump");
	size = (size_t)atoi(argv[3]) << 20;
	buffer = mmap(NULL, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED)
		die("memory");
	/* In huge pages where there are some: the buffer itself should not fill the truth. */
	buffer = (char *)(((uintptr_t)buffer + huge - 1) & ~(huge - 1));
	madvise(buffer, size, MADV_HUGEPAGE);
	memset(buffer, 0, size);
	if (mlockall(MCL_CURRENT))
		die("memory");
	disk = open(argv[2], O_RDWR | O_DIRECT);
	sysrq = open("/proc/sysrq-trigger", O_WRONLY);
	if (disk < 0 || sysrq < 0)
		die("open");
	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	sched_setaffinity(0, sizeof(cpu), &cpu);

	for (int i = 4; i < argc; i++) {
		if (glob(argv[i], 0, NULL, &found))
			continue;
		for (size_t j = 0; j < found.gl_pathc && count < MAX_FILES; j++)
			paths[count++] = strdup(found.gl_pathv[j]);
		globfree(&found);
	}
	offset = clock_offset();
	for (int pass = 0; pass < 2; pass++) {
		if (pass)
			write_disk(disk);
		used = 0;
		add_number("clock-offset", offset);
		for (int i = 0; i < count; i++)
			read_file(paths[i]);
		add_number("clock-before", monotonic() + offset);
		read_file(OWNER);
		add_number("clock-after", monotonic() + offset);
	}
	if (kdump) {
		write_disk(disk);
		if (write(sysrq, "c", 1) != 1)
			die("sysrq");
	} else {
		char answer;

		if (write(1, "\nREADY\n", 7) != 7 || read(0, &answer, 1) != 1)
			die("console");
		write_disk(disk);
	}
	sync();
	reboot(RB_AUTOBOOT);
	return 0;
}
