// Frees what must not be freed, in a child: the allocator says the same and ends the child in the same way with and
// without the runtime. The index is right while that happens, in a handler of the signal, and in the parent.
//
//     faults FAULT
#define _GNU_SOURCE
#include "index.h"

#include <malloc.h>
#include <signal.h>
#include <sys/wait.h>

enum { STABLE = 300 };
static char *stable[STABLE];

static size_t stable_size(int i) { return i % 100 == 7 ? 1000003 : (size_t)(i * 37 % 611 + 1); }

ALLOCATING static void *make(size_t size) {
    char *chunk = calloc(1, size);
    chunk[size - 1] = 0;
    return chunk;
}

static int counted(const struct alloc_chunk *chunk, void *count) {
    *(int *)count += made_here(chunk->site);
    return 0;
}

static void expect_stable(int others) {
    if (!indexed()) return;
    for (int i = 0; i < STABLE; i++)
        expect_live(stable[i], stable_size(i), malloc_usable_size(stable[i]), stable_size(i) / 2);
    int count = 0;
    alloc_walk(NULL, counted, &count);
    if (count != STABLE + others) wrong("%d chunks are reported", count);
}

// What the fault has made and left alive, and what it has freed.
static int alive;
static void *freed;

static void at_signal(int signal) {
    (void)signal;
    expect_stable(alive);
    if (freed != NULL) expect_gone(freed);
    static const char text[] = "the handler ran\n";
    if (write(STDOUT_FILENO, text, sizeof text - 1) < 0) _exit(98);
}

static void give_back(void *chunk) {
    freed = chunk;
    free(chunk);
}

static void commit(const char *fault) {
    static char data[256] __attribute__((aligned(64)));
    char local[256] __attribute__((aligned(64))) = {0};
    char *volatile chunk;
    if (strcmp(fault, "twice") == 0) {
        chunk = make(24);
        give_back(chunk);
        free(chunk);
    } else if (strcmp(fault, "twice-fast") == 0) {
        char *many[9];
        for (int i = 0; i < 9; i++) many[i] = make(40);
        for (int i = 0; i < 9; i++) free(many[i]);
        freed = many[8];
        free(many[8]);
    } else if (strcmp(fault, "twice-later") == 0) {
        chunk = make(5003);
        char *volatile guard = make(2003);
        alive = 1;
        give_back(chunk);
        free(chunk);
        free(guard);
    } else if (strcmp(fault, "twice-mapped") == 0) {
        chunk = make(3000007);
        give_back(chunk);
        free(chunk);
    } else if (strcmp(fault, "twice-by-realloc") == 0) {
        chunk = make(2003);
        char *volatile guard = make(2003);
        alive = 1;
        give_back(chunk);
        chunk = realloc(chunk, 0);
        free(guard);
    } else if (strcmp(fault, "inside") == 0) {
        chunk = make(1003);
        alive = 1;
        free(chunk + 16);
    } else if (strcmp(fault, "inside-large") == 0) {
        chunk = make(1000003);
        alive = 1;
        free(chunk + 65536);
    } else if (strcmp(fault, "misaligned") == 0) {
        chunk = make(1003);
        alive = 1;
        free(chunk + 1);
    } else if (strcmp(fault, "resized-inside") == 0) {
        chunk = make(1003);
        alive = 1;
        chunk = realloc(chunk + 32, 2003);
    } else if (strcmp(fault, "stack") == 0) {
        free(local + 64);
    } else if (strcmp(fault, "data") == 0) {
        free(data + 64);
    } else if (strcmp(fault, "unmapped") == 0) {
        free((void *)0x10000);
    } else if (strcmp(fault, "non-canonical") == 0) {
        free((void *)0x1234567890abcde0);
    } else if (strcmp(fault, "resized-unmapped") == 0) {
        chunk = realloc((void *)0x10000, 1003);
    } else {
        _exit(97);
    }
}

int main(int argc, char **argv) {
    for (int i = 0; i < STABLE; i++) stable[i] = make(stable_size(i));
    pid_t child = fork();
    if (child == 0) {
        struct sigaction action = {.sa_handler = at_signal, .sa_flags = (int)SA_RESETHAND};
        sigaction(SIGABRT, &action, NULL);
        sigaction(SIGSEGV, &action, NULL);
        commit(argc > 1 ? argv[1] : "");
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) printf("ended by signal %d\n", WTERMSIG(status));
    else printf("exit status %d\n", WEXITSTATUS(status));
    expect_stable(0);
    report_answers();
    return 0;
}
