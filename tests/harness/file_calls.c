/* System calls on files that a shell has no words for, each checked. Prints "ok NAME" or "failed NAME: reason".
 * file_calls DIRECTORY: all of it; file_calls --map FILE TEXT: write TEXT through a map, and end without msync(2). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static int failures;

static void report(const char *name, int is_good)
{
    if (is_good) {
        printf("ok %s\n", name);
        return;
    }
    printf("failed %s: %s\n", name, strerror(errno));
    failures = 1;
}

static int fresh(const char *name)
{
    unlink(name);
    return open(name, O_RDWR | O_CREAT | O_EXCL, 0644);
}

static int maps(void)
{
    int fd = fresh("map");
    char byte = 0;
    if (fd < 0 || ftruncate(fd, 8192)) return 0;
    char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return 0;
    strcpy(map + 4096, "mapped");
    if (msync(map, 8192, MS_SYNC)) return 0;
    return pread(fd, &byte, 1, 4096) == 1 && byte == 'm' && pwrite(fd, "M", 1, 4096) == 1 && map[4096] == 'M';
}

/* Whether `attempt`, in another process, ends with that errno. */
static int elsewhere(int (*attempt)(int), int fd, int expected)
{
    pid_t child = fork();
    if (child == 0) _exit(attempt(fd) ? errno : 0);
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == expected;
}

static int lock_record(int fd)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10 };
    return fcntl(fd, F_SETLK, &lock);
}

static int lock_file(int fd)
{
    (void)fd;
    return flock(open("lock", O_RDWR), LOCK_EX | LOCK_NB);
}

static int locks(void)
{
    int fd = fresh("lock");
    if (fd < 0 || lock_record(fd) || !elsewhere(lock_record, fd, EAGAIN)) return 0;
    if (flock(fd, LOCK_EX) || !elsewhere(lock_file, fd, EAGAIN)) return 0;
    return !flock(fd, LOCK_UN) && elsewhere(lock_file, fd, 0);
}

static int far_offsets(void)
{
    char text[6] = "";
    struct stat status;
    int fd = fresh("far");
    if (fd < 0 || pwrite(fd, "far", 3, 5LL << 30) != 3 || pread(fd, text, 3, 5LL << 30) != 3) return 0;
    if (fstat(fd, &status) || status.st_size != (5LL << 30) + 3 || strcmp(text, "far")) return 0;
    return status.st_blocks * 512LL < 1 << 20;
}

static int holes(void)
{
    int fd = fresh("holes");
    if (fd < 0 || pwrite(fd, "x", 1, 1 << 20) != 1) return 0;
    if (lseek(fd, 0, SEEK_DATA) != 1 << 20 || lseek(fd, 0, SEEK_HOLE) != 0) return 0;
    return !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 4096);
}

static int appends(void)
{
    char text[7] = "";
    int one = fresh("append"), other = open("append", O_WRONLY | O_APPEND);
    if (one < 0 || other < 0 || write(one, "one", 3) != 3 || write(other, "two", 3) != 3) return 0;
    return pread(one, text, 6, 0) == 6 && !strcmp(text, "onetwo");
}

static int unlinked(void)
{
    char text[5] = "";
    int fd = fresh("unlinked");
    if (fd < 0 || write(fd, "here", 4) != 4 || unlink("unlinked")) return 0;
    return pread(fd, text, 4, 0) == 4 && !strcmp(text, "here") && access("unlinked", F_OK) && errno == ENOENT;
}

static int exchanges(void)
{
    struct stat before, after;
    if (fresh("left") < 0 || fresh("right") < 0 || stat("left", &before)) return 0;
    if (syscall(SYS_renameat2, AT_FDCWD, "left", AT_FDCWD, "right", 2 /* RENAME_EXCHANGE */)) return 0;
    return !stat("right", &after) && before.st_ino == after.st_ino;
}

static int links(void)
{
    struct stat status;
    unlink("second");
    return fresh("first") >= 0 && !link("first", "second") && !stat("second", &status) && status.st_nlink == 2;
}

static int attributes(void)
{
    char value[4] = "";
    if (fresh("attributes") < 0 || setxattr("attributes", "user.atoll", "abc", 3, 0)) return 0;
    return getxattr("attributes", "user.atoll", value, 3) == 3 && !strcmp(value, "abc");
}

static int times(void)
{
    struct stat status;
    struct timespec when[2] = { { 1, 2 }, { -3, 4 } };
    if (fresh("times") < 0 || utimensat(AT_FDCWD, "times", when, 0) || stat("times", &status)) return 0;
    return status.st_mtim.tv_sec == -3 && status.st_mtim.tv_nsec == 4;
}

static int loses_rights(void)
{
    struct stat status;
    int fd = fresh("setuid");
    if (fd < 0 || fchmod(fd, 04755) || fchown(fd, 1000, 1000)) return 0;
    if (fchmod(fd, 04755) || fchmod(fd, 04777)) return 0;
    pid_t child = fork();
    if (child == 0) _exit(setuid(1001) || write(open("setuid", O_WRONLY), "x", 1) != 1);
    int ended = -1;
    if (waitpid(child, &ended, 0) != child || ended) return 0;
    return !stat("setuid", &status) && (status.st_mode & 07777) == 0777;
}

static int map_and_end(const char *name, const char *text)
{
    int fd = fresh(name);
    if (fd < 0 || ftruncate(fd, strlen(text))) return 1;
    char *map = mmap(NULL, strlen(text), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return 1;
    memcpy(map, text, strlen(text));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4) return map_and_end(argv[2], argv[3]);
    if (argc != 2 || chdir(argv[1])) return 2;
    umask(0);
    report("maps", maps());
    report("locks", locks());
    report("far offsets", far_offsets());
    report("holes", holes());
    report("appends", appends());
    report("unlinked", unlinked());
    report("exchanges", exchanges());
    report("links", links());
    report("attributes", attributes());
    report("times", times());
    report("loses rights", loses_rights());
    return failures;
}
