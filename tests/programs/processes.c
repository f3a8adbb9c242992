// Threads and processes that begin and end while everything allocates: what they print and how they end is the
// same with and without the runtime, and the index is right afterwards, in children as well.
//
//     processes storm|fork|spawn|exit|exit-now|longjmp|cancel
#define _GNU_SOURCE
#include "index.h"

#include <malloc.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

enum { STABLE = 300, CHURNERS = 4 };
static char *stable[STABLE];
static size_t usable[STABLE];
static _Atomic bool stop;

ALLOCATING static void *make(size_t size) {
    char *chunk = malloc(size);
    chunk[size - 1] = 1;
    return chunk;
}

static size_t stable_size(int i) { return i % 100 == 7 ? 1000003 : (size_t)(i * 37 % 611 + 1); }

static void make_stable(void) {
    for (int i = 0; i < STABLE; i++) {
        stable[i] = make(stable_size(i));
        usable[i] = malloc_usable_size(stable[i]);
    }
}

static int counted(const struct alloc_chunk *chunk, void *count) {
    for (int i = 0; i < STABLE; i++)
        if (stable[i] == chunk->base) {
            if (chunk->size != stable_size(i)) wrong("%p: size %zu of %zu", chunk->base, chunk->size, stable_size(i));
            ++*(int *)count;
        }
    return 0;
}

static void expect_stable(void) {
    if (!indexed()) return;
    for (int i = 0; i < STABLE; i++) expect_live(stable[i], stable_size(i), usable[i], stable_size(i) / 2);
    int count = 0;
    alloc_walk(NULL, counted, &count);
    if (count != STABLE) wrong("%d stable chunks are reported", count);
}

// Allocates, resizes and frees `count` chunks, ten at a time.
static void allocate_some(uint64_t seed, int count) {
    uint64_t random = seed;
    void *chunks[10] = {NULL};
    for (int i = 0; i < count; i++) {
        uint64_t number = next_random(&random);
        void **chunk = &chunks[number >> 20 & 7];
        size_t size = number % 1000 == 0 ? 150001 : number % 1500 + 1;
        if (number >> 62 == 0) {
            *chunk = realloc(*chunk, size);
        } else {
            free(*chunk);
            *chunk = calloc(1, size);
        }
    }
    for (int i = 0; i < 10; i++) free(chunks[i]);
}

static void *churn(void *seed) {
    for (uint64_t i = (uintptr_t)seed; !stop; i += 1000) allocate_some(i, 100);
    return NULL;
}

static pthread_t churners[CHURNERS];

static void begin_churn(void) {
    for (int i = 0; i < CHURNERS; i++) pthread_create(&churners[i], NULL, churn, (void *)(uintptr_t)(i + 7));
}

static void end_churn(void) {
    stop = true;
    for (int i = 0; i < CHURNERS; i++) pthread_join(churners[i], NULL);
}

// Short threads: each leaves chunks for others and frees what others left.
static void *_Atomic left[64];

static void *short_life(void *number) {
    uint64_t seed = (uintptr_t)number;
    for (int i = 0; i < 5; i++) {
        char *mine = make(10007 + seed % 13);
        expect_live(mine, 10007 + seed % 13, malloc_usable_size(mine), seed % 10007);
        free(atomic_exchange(&left[(seed * 5 + (uint64_t)i * 11) % 64], mine));
    }
    allocate_some(seed, 20);
    return make(20011);
}

static void storm(void) {
    enum { THREADS = 10000, AT_ONCE = 16 };
    pthread_t threads[AT_ONCE];
    void *last = NULL;
    for (int i = 0; i < THREADS + AT_ONCE; i++) {
        if (i >= AT_ONCE) {
            free(last);
            pthread_join(threads[i % AT_ONCE], &last);
            expect_live(last, 20011, malloc_usable_size(last), 20010);
        }
        if (i < THREADS) pthread_create(&threads[i % AT_ONCE], NULL, short_life, (void *)(uintptr_t)(i + 1));
    }
    free(last);
    for (int i = 0; i < 64; i++) free(left[i]);
    for (int i = 0; i < 64; i++) if (left[i] != NULL) expect_gone(left[i]);
}

// The child allocates at once, while in the parent other threads were in the middle of it.
static void *forks(void *number) {
    long good = 0;
    for (int i = 0; i < 50; i++) {
        void *mine = make(10009);
        pid_t child = fork();
        if (child == 0) {
            void *first = make(30011);
            expect_live(first, 30011, malloc_usable_size(first), 30010);
            expect_live(mine, 10009, malloc_usable_size(mine), 10008);
            free(mine);
            expect_gone(mine);
            allocate_some((uintptr_t)number + (uint64_t)i, 200);
            expect_stable();
            free(first);
            _exit(7);
        }
        int status;
        waitpid(child, &status, 0);
        good += WIFEXITED(status) && WEXITSTATUS(status) == 7;
        expect_live(mine, 10009, malloc_usable_size(mine), 5);
        free(mine);
    }
    return (void *)good;
}

static void fork_from_threads(void) {
    begin_churn();
    pthread_t threads[3];
    long good = 0;
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, forks, (void *)(uintptr_t)(i * 1000 + 1));
    for (int i = 0; i < 3; i++) {
        void *result;
        pthread_join(threads[i], &result);
        good += (long)result;
    }
    end_churn();
    printf("%ld children were well\n", good);
}

static void spawn_from_threads(void) {
    begin_churn();
    int good = 0;
    char *arguments[] = {"/bin/true", NULL};
    for (int i = 0; i < 50; i++) {
        pid_t child;
        int status = -1;
        if (posix_spawn(&child, arguments[0], NULL, NULL, arguments, environ) == 0) waitpid(child, &status, 0);
        good += status == 0;
        child = vfork();
        if (child == 0) {
            execve(arguments[0], arguments, environ);
            _exit(1);
        }
        waitpid(child, &status, 0);
        good += status == 0;
    }
    end_churn();
    printf("%d children were well\n", good);
}

// Handlers and destructors, of the program and of threads, allocate and free; a thread goes on meanwhile.
static char *outlives;

static void at_exit(void) {
    char *text = make(10007);
    expect_live(text, 10007, malloc_usable_size(text), 10006);
    strcpy(text, "at exit");
    puts(text);
    free(text);
    free(outlives);
    expect_gone(outlives);
    outlives = make(20011);
    expect_stable();
    report_answers();
}

__attribute__((destructor)) static void last(void) {
    if (outlives == NULL) return;
    expect_live(outlives, 20011, malloc_usable_size(outlives), 3);
    free(outlives);
    char *text = make(30011);
    strcpy(text, "destructor");
    puts(text);
    fflush(stdout);
    free(text);
}

static void thread_ends(void *chunk) {
    free(chunk);
    free(malloc(10009));
}

static void *with_data(void *key) {
    pthread_setspecific(*(pthread_key_t *)key, malloc(50021));
    return NULL;
}

static void exit_busy(bool now) {
    pthread_key_t key;
    pthread_key_create(&key, thread_ends);
    pthread_t thread;
    pthread_create(&thread, NULL, with_data, &key);
    pthread_join(thread, NULL);
    outlives = make(40009);
    atexit(at_exit);
    begin_churn();
    struct timespec pause = {0, 20000000};
    nanosleep(&pause, NULL);
    puts("exiting");
    fflush(stdout);
    if (now) _exit(5);
    exit(6);
}

// A signal handler that interrupts the program's own code, and a callback of a walk, that never return.
static sigjmp_buf back;
static volatile sig_atomic_t computing;

static void jump(int signal) {
    (void)signal;
    free(malloc(10007));
    if (computing) siglongjmp(back, 1);
}

static int jump_out(const struct alloc_chunk *chunk, void *unused) {
    (void)chunk, (void)unused;
    siglongjmp(back, 2);
}

static void long_jumps(void) {
    signal(SIGUSR1, jump);
    volatile int jumps = 0;
    while (jumps < 100) {
        if (sigsetjmp(back, 1) == 0) {
            computing = 1;
            raise(SIGUSR1);
        }
        computing = 0;
        jumps++;
        allocate_some((uint64_t)jumps, 10);
        if (indexed() && sigsetjmp(back, 1) == 0) alloc_walk(NULL, jump_out, NULL);
    }
    puts("jumped");
}

// Threads that are cancelled while they allocate, write and free.
static void give_back(void *chunk) { free(*(void **)chunk); }

static void *cancelled(void *seed) {
    void *volatile chunk = NULL;
    pthread_cleanup_push(give_back, (void *)&chunk);
    for (uint64_t i = (uintptr_t)seed;; i++) {
        free(chunk);
        chunk = malloc(i % 3001);
        allocate_some(i + 1, 10);
        pthread_testcancel();
    }
    pthread_cleanup_pop(1);
    return NULL;
}

static void cancel_threads(void) {
    int count = 0;
    for (int i = 0; i < 100; i++) {
        pthread_t threads[4];
        for (int j = 0; j < 4; j++) pthread_create(&threads[j], NULL, cancelled, (void *)(uintptr_t)(i * 4 + j));
        allocate_some((uint64_t)i + 7, 300);
        for (int j = 0; j < 4; j++) pthread_cancel(threads[j]);
        for (int j = 0; j < 4; j++) {
            void *result;
            pthread_join(threads[j], &result);
            count += result == PTHREAD_CANCELED;
        }
    }
    printf("%d cancelled\n", count);
}

int main(int argc, char **argv) {
    make_stable();
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "storm") == 0) storm();
    if (strcmp(what, "fork") == 0) fork_from_threads();
    if (strcmp(what, "spawn") == 0) spawn_from_threads();
    if (strcmp(what, "exit") == 0) exit_busy(false);
    if (strcmp(what, "exit-now") == 0) exit_busy(true);
    if (strcmp(what, "longjmp") == 0) long_jumps();
    if (strcmp(what, "cancel") == 0) cancel_threads();
    expect_stable();
    printf("%s: done\n", what);
    report_answers();
    return 0;
}
