// Allocates at places that have names. The argument says what else: signals, threads, processes, or a
// report that it asks for itself.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "allocs.h"

static void *kept[100];
static int keeping;

__attribute__((noinline)) void keep(int count) {
    for (int i = 0; i < count; i++) kept[keeping++] = malloc(10002);
}

__attribute__((noinline)) void churn(int count) {
    for (int i = 0; i < count; i++) free(calloc(3, 1001));
}

static void own_handler(int signal) {
    (void)signal;
    write(1, "own\n", 4);
}

static void ask(void) {
    errno = 4711;
    if (kill(getpid(), SIGUSR2) != 0) _exit(3);
    if (errno != 4711) puts("errno has changed");
}

static void *work(void *unused) {
    churn(20000);
    return unused;
}

static void threads(void) {
    pthread_t all[4];
    for (int i = 0; i < 4; i++) pthread_create(&all[i], NULL, work, NULL);
    for (int i = 0; i < 50; i++) {
        ask();
        free(malloc(i));
        usleep(1000);
    }
    for (int i = 0; i < 4; i++) pthread_join(all[i], NULL);
}

// The signal comes while this waits for its child's byte.
static void interrupted(void) {
    int ends[2];
    char byte;
    if (pipe(ends) != 0) _exit(3);
    pid_t child = fork();
    if (child == 0) {
        usleep(100000);
        kill(getppid(), SIGUSR2);
        usleep(300000);
        write(ends[1], "x", 1);
        _exit(0);
    }
    ssize_t got = read(ends[0], &byte, 1);
    printf("read: %d\n", (int)got);
    waitpid(child, NULL, 0);
}

// On a signal stack that has little more than the kernel wants, and ends at a page that cannot be touched.
static void small_stack(void) {
    size_t size = (size_t)sysconf(_SC_MINSIGSTKSZ) + 2048;
    size = (size + 4095) / 4096 * 4096;
    char *pages = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages, 4096, PROT_NONE) != 0) _exit(3);
    stack_t stack = {.ss_sp = pages + 4096, .ss_size = size};
    if (sigaltstack(&stack, NULL) != 0) _exit(3);
    ask();
}

static void family(void) {
    if (fork() == 0) {
        keep(2);
        ask();
        exit(0);
    }
    wait(NULL);
    ask();
}

// Its own report goes to standard output.
static void report(const char *format) {
    if (!alloc_report) _exit(3);
    fflush(stdout);
    int result = alloc_report(1, strcmp(format, "null") == 0 ? NULL : format);
    int closed = alloc_report(-1, "txt") == ALLOC_E_INVALID && alloc_report(999, "txt") == ALLOC_E_INVALID;
    int ends[2];
    if (pipe(ends) != 0) _exit(3);
    close(ends[0]);
    int broken = alloc_report(ends[1], "json") == ALLOC_E_INVALID;
    fprintf(stderr, "result %d, closed %d, broken %d\n", result, closed, broken);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    keep(7);
    churn(100);
    if (strcmp(mode, "ask") == 0) {
        ask();
        keep(3);
        ask();
    } else if (strcmp(mode, "own") == 0) {
        signal(SIGUSR2, own_handler);
        ask();
    } else if (strcmp(mode, "threads") == 0) {
        threads();
    } else if (strcmp(mode, "interrupted") == 0) {
        interrupted();
    } else if (strcmp(mode, "stack") == 0) {
        small_stack();
    } else if (strcmp(mode, "family") == 0) {
        family();
    } else if (strcmp(mode, "report") == 0) {
        report(argv[2]);
    }
    return 5;
}
