/* A watchdog without hardware, for tests: preloaded into a program, it answers the watchdog's ioctls on one file (named
 * in WATCHDOG_FILE), and writes what happened into WATCHDOG_LOG, one line each. A thread of it "resets the machine" (a
 * line, and the end of the process) when it was armed and not fed in time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/watchdog.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int armed, timeout_s = 60, magic;
static double fed_s;

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void note(const char *what)
{
    const char *path = getenv("WATCHDOG_LOG");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (file >= 0) {
        dprintf(file, "%s\n", what);
        close(file);
    }
}

static int is_device(int file)
{
    struct stat wanted, found;
    const char *path = getenv("WATCHDOG_FILE");
    return path && !stat(path, &wanted) && !fstat(file, &found) && wanted.st_ino == found.st_ino &&
           wanted.st_dev == found.st_dev;
}

static void *watch(void *unused)
{
    (void)unused;
    for (;;) {
        usleep(10000);
        pthread_mutex_lock(&lock);
        int over = armed && now_s() - fed_s > timeout_s;
        pthread_mutex_unlock(&lock);
        if (over) {
            note("reset");
            _exit(99);
        }
    }
    return NULL;
}

static void arm(void)
{
    static pthread_t thread;
    if (!armed) {
        armed = 1;
        fed_s = now_s();
        pthread_create(&thread, NULL, watch, NULL);
    }
}

int ioctl(int file, unsigned long request, ...)
{
    static int (*real)(int, unsigned long, ...);
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (!real)
        real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    if (!is_device(file))
        return real(file, request, argument);
    int answer = 0;
    pthread_mutex_lock(&lock);
    arm();
    switch ((unsigned int)request) {
    case WDIOC_SETTIMEOUT:
        if (*(int *)argument > 100) {
            errno = EINVAL;
            answer = -1;
            break;
        }
        timeout_s = *(int *)argument;
        fed_s = now_s();
        note(timeout_s == 1 ? "time-out 1" : "time-out");
        break;
    case WDIOC_GETTIMEOUT:
        *(int *)argument = timeout_s;
        break;
    case WDIOC_KEEPALIVE:
        fed_s = now_s();
        note("fed");
        break;
    case WDIOC_GETSUPPORT: {
        struct watchdog_info info = {.options = WDIOF_MAGICCLOSE, .identity = "stand-in"};
        memcpy(argument, &info, sizeof info);
        break;
    }
    default:
        errno = ENOTTY;
        answer = -1;
    }
    pthread_mutex_unlock(&lock);
    return answer;
}

ssize_t write(int file, const void *data, size_t size)
{
    static ssize_t (*real)(int, const void *, size_t);
    if (!real)
        real = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (size == 1 && *(const char *)data == 'V' && is_device(file)) {
        magic = 1;
        return 1;
    }
    return real(file, data, size);
}

int close(int file)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "close");
    if (armed && magic && is_device(file)) {
        pthread_mutex_lock(&lock);
        armed = 0;
        pthread_mutex_unlock(&lock);
        note("disarmed");
    }
    return real(file);
}
