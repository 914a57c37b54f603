/*
 * The floor: what a clone cannot do without, as the guest's /init. Nothing of Atoll's is in it.
 *
 * Until the template is saved: mount /dev and /sys, load the modules in their order with virtio's autoprobe off, bind the
 * console's driver, open the port org.atoll.agent, write one byte, wait for one. In the clone: bind the image disk's
 * driver, mount its layer, a tmpfs and an overlay of both, and execute the image's `true` in there.
 *
 * To the host: `R` ready, `X` execve(2) has succeeded (the close-on-exec end of a pipe is gone), then, after the
 * process's end, `E` and one line: the nanoseconds that bind, mounts, execve and the rest took. `!` and a text: a failure.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define AUTOPROBE "/sys/bus/virtio/drivers_autoprobe"
#define DEVICES "/sys/bus/virtio/devices"
#define IMAGE_SLOT "/sys/bus/pci/devices/0000:00:05.0"
#define PORTS "/sys/class/virtio-ports"

static int port = -1;

static void fail(const char *what)
{
	dprintf(port < 0 ? 2 : port, "!%s: %s\n", what, strerror(errno));
	for (;;)
		pause();
}

static void write_file(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		fail(path);
	close(fd);
}

static int holds(const char *path, const char *value)
{
	char text[64] = "";
	int fd = open(path, O_RDONLY);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	return length > 0 && strncmp(text, value, strlen(value)) == 0;
}

/* The first name in a directory that begins with `prefix`; when `attribute` is given, that file in it holds `value`. */
static int find(const char *directory, const char *prefix, const char *attribute, const char *value, char *name)
{
	char path[512];
	struct dirent *entry;
	int found = 0;
	DIR *opened = opendir(directory);
	while (opened && !found && (entry = readdir(opened))) {
		snprintf(path, sizeof path, "%s/%s/%s", directory, entry->d_name, attribute ? attribute : "");
		found = strncmp(entry->d_name, prefix, strlen(prefix)) == 0 && (!attribute || holds(path, value));
		if (found)
			strcpy(name, entry->d_name);
	}
	if (opened)
		closedir(opened);
	return found;
}

static void mount_at(const char *source, const char *target, const char *kind, unsigned long flags, const char *options)
{
	mkdir(target, 0755);
	if (mount(source, target, kind, flags, options) < 0)
		fail(target);
}

static void load_modules(void)
{
	char name[256], path[300];
	FILE *order = fopen("/modules/order", "r");
	while (order && fscanf(order, "%255s", name) == 1) {
		snprintf(path, sizeof path, "/modules/%s", name);
		int fd = open(path, O_RDONLY);
		if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
			fail(path);
		close(fd);
		if (access(AUTOPROBE, F_OK) == 0)
			write_file(AUTOPROBE, "0");
	}
}

static void open_port(void)
{
	char name[256], path[300];
	const struct timespec pause_1ms = {0, 1000000};
	if (!find(DEVICES, "virtio", "device", "0x0003", name))
		fail("no console");
	write_file("/sys/bus/virtio/drivers/virtio_console/bind", name);
	while (!find(PORTS, "vport", "name", "org.atoll.agent", name))
		nanosleep(&pause_1ms, NULL);
	snprintf(path, sizeof path, "/dev/%s", name);
	port = open(path, O_RDWR | O_CLOEXEC);
	if (port < 0)
		fail(path);
}

/* While the clone's host side is not connected a read says end-of-file. */
static void wait_for_host(void)
{
	const struct timespec pause_1ms = {0, 1000000};
	char byte;
	while (read(port, &byte, 1) != 1)
		nanosleep(&pause_1ms, NULL);
}

static void bind_image(char *node)
{
	char name[256], path[600];
	if (!find(IMAGE_SLOT, "virtio", NULL, NULL, name))
		fail(IMAGE_SLOT);
	write_file("/sys/bus/virtio/drivers/virtio_blk/bind", name);
	snprintf(path, sizeof path, IMAGE_SLOT "/%s/block", name);
	if (!find(path, "vd", NULL, NULL, name))
		fail(path);
	sprintf(node, "/dev/%s", name);
}

static pid_t execute_true(void)
{
	int ends[2];
	char byte;
	if (pipe2(ends, O_CLOEXEC) < 0)
		fail("pipe");
	pid_t child = fork();
	if (child == 0) {
		if (chroot("/root") == 0 && chdir("/") == 0)
			execl("/bin/true", "true", NULL);
		if (write(ends[1], "!", 1) < 1)
			_exit(126);
		_exit(127);
	}
	close(ends[1]);
	if (read(ends[0], &byte, 1) != 0)
		fail("execve");
	return child;
}

static long long now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(void)
{
	char node[300];
	int status;
	mount_at("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount_at("sysfs", "/sys", "sysfs", 0, NULL);
	load_modules();
	open_port();
	if (write(port, "R", 1) != 1)
		fail("ready");
	wait_for_host();

	long long woken = now_ns();
	bind_image(node);
	long long bound = now_ns();
	mount_at(node, "/image", "squashfs", MS_RDONLY, NULL);
	mount_at("tmpfs", "/writable", "tmpfs", 0, NULL);
	mkdir("/writable/upper", 0755);
	mkdir("/writable/work", 0755);
	mount_at("overlay", "/root", "overlay", 0, "lowerdir=/image,upperdir=/writable/upper,workdir=/writable/work");
	long long mounted = now_ns();
	pid_t child = execute_true();
	long long executed = now_ns();
	if (write(port, "X", 1) != 1)
		fail("executed");
	if (waitpid(child, &status, 0) < 0 || status != 0)
		fail("true");
	dprintf(port, "E %lld %lld %lld %lld\n", bound - woken, mounted - bound, executed - mounted, now_ns() - executed);
	for (;;)
		pause();
}
