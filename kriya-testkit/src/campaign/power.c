/*
 * A disk that keeps only what was synced. Preloaded into a server, it watches fsync and fdatasync of files and folders
 * below KRIYA_POWER_DATA, and keeps below KRIYA_POWER_SHADOW what a power cut would leave of them:
 *
 *   root/  the data directory as the disk has it
 *   ino/   for each file that was ever synced, by inode and time of birth, its content at that moment (linked into root/)
 *   at/    for each of those, where in root/ it stands
 *
 * A synced file's content is kept, under the name it has. Creations, renames and removals are kept when their folder is
 * synced; a file that was never synced itself is empty then. Nothing is written to the real disk for it. Off while the
 * file "on" does not exist in the shadow.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *data, *shadow;

__attribute__((constructor)) static void start(void)
{
	/* Copies: Postgres writes its processes' titles over the environment it was started with. */
	data = getenv("KRIYA_POWER_DATA");
	data = data ? strdup(data) : NULL;
	shadow = getenv("KRIYA_POWER_SHADOW");
	shadow = shadow ? strdup(shadow) : NULL;
}

/* What cannot be kept must not look as if it were. */
static void broken(const char *what)
{
	char text[256];
	int length = snprintf(text, sizeof text, "PANIC: power shim: %s: %s\n", what, strerror(errno));

	if (write(2, text, (size_t) length) < 0)
		_exit(3);
	_exit(2);
}

static void place(char *out, const char *kind, const char *name)
{
	if (snprintf(out, PATH_MAX, "%s/%s/%s", shadow, kind, name) >= PATH_MAX)
		broken("a path is too long");
}

static int key_of(int dir, const char *name, int flags, char *key, mode_t *mode)
{
	struct statx x;

	if (statx(dir, name, flags | AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME | STATX_TYPE, &x) != 0)
		return -1;
	*mode = x.stx_mode;
	snprintf(key, 64, "%llx-%llx.%x", (unsigned long long) x.stx_ino, (unsigned long long) x.stx_btime.tv_sec,
			 x.stx_btime.tv_nsec);
	return 0;
}

static void make_parents(const char *path)
{
	char part[PATH_MAX];

	strcpy(part, path);
	for (char *at = part + strlen(shadow) + 1; (at = strchr(at, '/')) != NULL; at++)
	{
		*at = '\0';
		if (mkdir(part, 0700) != 0 && errno != EEXIST)
			broken(part);
		*at = '/';
	}
}

static void remove_all(const char *path)
{
	char inner[PATH_MAX];
	DIR *dir;
	struct dirent *entry;

	if (unlink(path) == 0 || errno == ENOENT)
		return;
	dir = opendir(path);
	if (dir == NULL)
		broken(path);
	while ((entry = readdir(dir)) != NULL)
	{
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (snprintf(inner, PATH_MAX, "%s/%s", path, entry->d_name) >= PATH_MAX)
			broken("a path is too long");
		remove_all(inner);
	}
	closedir(dir);
	if (rmdir(path) != 0)
		broken(path);
}

/* Puts the kept content of a file under a name in root/. */
static void stand(const char *key, const char *relative)
{
	char content[PATH_MAX], target[PATH_MAX], aside[PATH_MAX], at[PATH_MAX], mark[PATH_MAX];
	struct stat a, b;

	place(content, "ino", key);
	place(target, "root", relative);
	if (stat(content, &a) == 0 && stat(target, &b) == 0 && a.st_ino == b.st_ino)
		return;
	make_parents(target);
	place(aside, "ino", "link");
	unlink(aside);
	if (link(content, aside) != 0 || rename(aside, target) != 0)
		broken(target);
	place(at, "at", key);
	place(mark, "at", "link");
	unlink(mark);
	if (symlink(relative, mark) != 0 || rename(mark, at) != 0)
		broken(at);
}

static void keep_file(int fd, const char *relative)
{
	char key[64], self[64], content[PATH_MAX], aside[PATH_MAX], at[PATH_MAX], old[PATH_MAX], before[PATH_MAX];
	char buffer[65536];
	int from, to;
	mode_t mode;
	ssize_t length;
	struct stat a, b;

	if (key_of(fd, "", AT_EMPTY_PATH, key, &mode) != 0)
		broken("statx");
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	place(content, "ino", key);
	place(aside, "ino", "copy");
	from = open(self, O_RDONLY | O_CLOEXEC);
	to = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (from < 0 || to < 0)
		broken(aside);
	while ((length = read(from, buffer, sizeof buffer)) > 0)
		if (write(to, buffer, (size_t) length) != length)
			broken(aside);
	if (length < 0)
		broken(self);
	close(from);
	close(to);
	/* Kept under a name that it no longer has: that name goes with this one's coming. */
	place(at, "at", key);
	length = readlink(at, old, sizeof old - 1);
	if (length > 0)
	{
		old[length] = '\0';
		place(before, "root", old);
		if (strcmp(old, relative) != 0 && stat(before, &a) == 0 && stat(content, &b) == 0 && a.st_ino == b.st_ino)
			unlink(before);
	}
	if (rename(aside, content) != 0)
		broken(content);
	stand(key, relative);
}

static void keep_folder(const char *live, const char *relative)
{
	char path[PATH_MAX], inner[PATH_MAX], content[PATH_MAX], key[64];
	DIR *dir = opendir(live);
	struct dirent *entry;
	mode_t mode;
	int fd;

	if (dir == NULL)
		return;
	place(path, "root", relative);
	if (snprintf(inner, PATH_MAX, "%s/", path) < PATH_MAX)
		make_parents(inner);
	while ((entry = readdir(dir)) != NULL)
	{
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
			key_of(dirfd(dir), entry->d_name, 0, key, &mode) != 0)
			continue;
		if (snprintf(inner, PATH_MAX, "%s%s%s", relative, *relative ? "/" : "", entry->d_name) >= PATH_MAX)
			broken("a path is too long");
		if (S_ISDIR(mode))
		{
			place(content, "root", inner);
			if (mkdir(content, 0700) != 0 && errno != EEXIST)
				broken(content);
		}
		else if (S_ISREG(mode))
		{
			place(content, "ino", key);
			fd = open(content, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
			if (fd < 0)
				broken(content);
			close(fd);
			stand(key, inner);
		}
	}
	closedir(dir);
	dir = opendir(path);
	if (dir == NULL)
		broken(path);
	while ((entry = readdir(dir)) != NULL)
	{
		struct stat status;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (snprintf(inner, PATH_MAX, "%s/%s", live, entry->d_name) < PATH_MAX && lstat(inner, &status) != 0 &&
			snprintf(inner, PATH_MAX, "%s/%s", path, entry->d_name) < PATH_MAX)
			remove_all(inner);
	}
	closedir(dir);
}

static int keep(int fd)
{
	char self[64], live[PATH_MAX], path[PATH_MAX];
	const char *relative;
	int saved = errno, lock;
	struct stat status;
	size_t prefix;
	ssize_t length;

	if (data == NULL || shadow == NULL)
		return 0;
	prefix = strlen(data);
	if (fstat(fd, &status) != 0)
		return -1;
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	length = readlink(self, live, sizeof live - 1);
	if (length < 0)
		broken(self);
	live[length] = '\0';
	if (strncmp(live, data, prefix) != 0 || (live[prefix] != '/' && live[prefix] != '\0') ||
		(length > 10 && strcmp(live + length - 10, " (deleted)") == 0))
		return 0;
	relative = live + prefix + (live[prefix] == '/');
	if (snprintf(path, PATH_MAX, "%s/on", shadow) >= PATH_MAX || access(path, F_OK) != 0)
		return 0;
	if (snprintf(path, PATH_MAX, "%s/lock", shadow) >= PATH_MAX)
		return 0;
	lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	while (lock >= 0 && flock(lock, LOCK_EX) != 0)
		if (errno != EINTR)
			broken(path);
	if (lock < 0)
		broken(path);
	if (S_ISDIR(status.st_mode))
		keep_folder(live, relative);
	else if (S_ISREG(status.st_mode))
		keep_file(fd, relative);
	close(lock);
	errno = saved;
	return 0;
}

int fsync(int fd)
{
	return keep(fd);
}

int fdatasync(int fd)
{
	return keep(fd);
}
