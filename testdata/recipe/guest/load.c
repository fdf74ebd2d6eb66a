// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * load: much memory of one kind, quickly.
 *
 *   load tree DIR COUNT PAGES   files of 1 to PAGES pages in DIR/NN/, every 8th removed again
 *   load procs COUNT PAGES      processes with PAGES anonymous pages each, that sleep
 *   load queues COUNT           pipes and datagram sockets with unread data in them, and sleep
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sizes.h"

#define PER_DIRECTORY 200

static char *data;

static void tree(const char *top, int count, int pages)
{
	char path[256];

	for (int i = 0; i < count; i++) {
		int fd;
		size_t bytes = (size_t)(1 + i % pages) * PAGE;

		snprintf(path, sizeof(path), "%s/%d", top, i / PER_DIRECTORY);
		if (i % PER_DIRECTORY == 0)
			mkdir(path, 0755);
		snprintf(path, sizeof(path), "%s/%d/file-%d", top, i / PER_DIRECTORY, i);
		fd = open(path, O_CREAT | O_WRONLY, 0644);
		if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes) {
			perror(path);
			exit(1);
		}
		close(fd);
		if (i % 8 == 7)
			unlink(path);
	}
}

static void procs(int count, int pages)
{
	for (int i = 0; i < count; i++) {
		char name[16], *at;

		if (fork())
			continue;
		snprintf(name, sizeof(name), "proc-%d", i % 20);
		prctl(PR_SET_NAME, name);
		at = mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int j = 0; at != MAP_FAILED && j < pages; j++)
			at[(size_t)j * PAGE] = j;
		for (;;)
			pause();
	}
}

static void queues(int count)
{
	struct rlimit files = { 1 << 16, 1 << 16 };

	setrlimit(RLIMIT_NOFILE, &files);
	for (int i = 0; i < count; i++) {
		int ends[2], pair[2];

		if (pipe(ends) || socketpair(AF_UNIX, SOCK_DGRAM, 0, pair)) {
			perror("queues");
			break;
		}
		if (write(ends[1], data, 2 * PAGE) < 0)
			perror("pipe");
		for (int j = 0; j < 3; j++)
			if (send(pair[0], data, 1500 + 2500 * j, MSG_DONTWAIT) < 0)
				break;
	}
	printf("load: queues are full\n");
	fflush(stdout);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";

	data = malloc(64 * PAGE);
	if (!data)
		return 1;
	memset(data, 'x', 64 * PAGE);
	if (!strcmp(what, "tree") && argc == 5)
		tree(argv[2], atoi(argv[3]), atoi(argv[4]));
	else if (!strcmp(what, "procs") && argc == 4)
		procs(atoi(argv[2]), atoi(argv[3]));
	else if (!strcmp(what, "queues") && argc == 3)
		queues(atoi(argv[2]));
	else
		return 2;
	return 0;
}
