// Handlers of signals that leave a question, a report or a hook of malloc by siglongjmp, at any instruction: then all
// questions have their answers, those who free do not wait, and no file is left open.
//
//     jumps base|info|walk|report|malloc|stack|threads|frees
#define _GNU_SOURCE
#include "index.h"

#include <dirent.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

enum { JUMPS = 3000, THREADS = 300, FREES = 40, NEIGHBOURS = 40 };

static __thread sigjmp_buf back;
static __thread volatile sig_atomic_t asking;
static char *chunk;
static int nowhere;

ALLOCATING static char *make(size_t size) { return malloc(size); }

static void leave(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    if (asking) siglongjmp(back, 1);
}

// Where the runtime's code lies.
static const char *begin_of_runtime, *end_of_runtime;

static void find_runtime(void) {
    struct alloc_info info;
    alloc_get_info((void *)alloc_get_info, &info);
    begin_of_runtime = info.mapping_base;
    end_of_runtime = info.mapping_limit;
}

// The program's allocator is not there to be left.
static void leave_runtime(int signal, siginfo_t *info, void *context) {
    ucontext_t *registers = context;
    const char *at = (const char *)registers->uc_mcontext.gregs[REG_RIP];
    if (at >= begin_of_runtime && at < end_of_runtime) leave(signal, info, context);
}

// Now and then the handler asks as well, and lets the one that it interrupted go on.
static void ask_or_leave(int signal, siginfo_t *info, void *context) {
    static volatile sig_atomic_t count;
    if (count++ % 4 != 0) leave(signal, info, context);
    if (asking && alloc_get_base(chunk + 7) != chunk) wrong("the handler has no answer");
}

static void nothing(int signal, siginfo_t *info, void *context) { (void)signal, (void)info, (void)context; }

static int seen(const struct alloc_chunk *found, void *count) {
    *(int *)count += found->base == chunk;
    return 0;
}

static void ask_base(void) {
    if (alloc_get_base(chunk + 10) != chunk) wrong("no answer");
}

static void ask_info(void) {
    struct alloc_info info;
    enum alloc_error error = alloc_get_info(chunk + 100, &info);
    if (error != ALLOC_OK || info.base != chunk) wrong("error %d", (int)error);
}

static void walk(void) {
    int count = 0;
    alloc_walk(NULL, seen, &count);
    if (count != 1) wrong("%d in the walk", count);
}

static void report(void) {
    enum alloc_error error = alloc_report(nowhere, "json");
    if (error != ALLOC_OK) wrong("no report: error %d", (int)error);
}

static void allocate(void) {
    char *made = make(300);
    if (made == NULL) wrong("no memory");
    free(made);
}

// Further down in the stack than what was left.
static void allocate_deep(int count) {
    char frame[1 << 12];
    memset(frame, count, sizeof frame);
    for (int i = 0; i < count; i++) free(calloc(1, 300 + (size_t)(frame[i % 4096] & 1)));
}

// With another thread, which no signal comes to.
static void *idle(void *unused) {
    for (;;) pause();
    return unused;
}

static void begin(pthread_t *thread, void *(*function)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_create(thread, NULL, function, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

typedef void handler(int signal, siginfo_t *info, void *context);

static void handle(int signal, handler *handler, int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    sigaction(signal, &action, NULL);
}

static void interrupt(long microseconds) {
    struct itimerval timer = {{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

static int open_files(void) {
    int count = 0;
    DIR *files = opendir("/proc/self/fd");
    while (readdir(files) != NULL) count++;
    closedir(files);
    return count;
}

static void leave_often(void (*ask)(void), handler *handler, int flags) {
    pthread_t other;
    begin(&other, idle, NULL);
    int files = open_files();
    handle(SIGALRM, handler, flags);
    interrupt(150);
    for (volatile int jumps = 0; jumps < JUMPS; jumps++) {
        if (sigsetjmp(back, 1) == 0) {
            asking = 1;
            for (;;) ask();
        }
        asking = 0;
        if (ask == allocate) allocate_deep(40);
    }
    interrupt(0);
    if (open_files() != files) wrong("%d files are open, and %d were", open_files(), files);
}

// Another thread frees what lies beside the chunk that was asked about.
static char *neighbours[NEIGHBOURS];
static sem_t wanted, done;

static void *free_neighbours(void *unused) {
    for (;;) {
        sem_wait(&wanted);
        for (int i = 0; i < NEIGHBOURS; i++) free(neighbours[i]);
        sem_post(&done);
    }
    return unused;
}

static void make_neighbours(void) {
    for (int i = 0; i < NEIGHBOURS; i++) neighbours[i] = make(24);
    chunk = neighbours[NEIGHBOURS / 2];
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void expect_no_wait(double waited) {
    if (waited > 2) wrong("freeing took %f seconds", waited);
}

// Each thread is left once, and ends; then what lies beside the chunk that it asked about is freed.
static void *left_thread(void *ready) {
    if (sigsetjmp(back, 1) == 0) {
        asking = 1;
        sem_post(ready);
        for (;;) ask_base();
    }
    asking = 0;
    return NULL;
}

static void leave_threads(void) {
    handle(SIGUSR1, leave, 0);
    sem_t ready;
    sem_init(&ready, 0, 0);
    double waited = 0;
    for (int i = 0; i < THREADS; i++) {
        make_neighbours();
        pthread_t thread;
        pthread_create(&thread, NULL, left_thread, &ready);
        sem_wait(&ready);
        struct timespec pause = {0, 20000 + i % 100 * 1000};
        nanosleep(&pause, NULL);
        pthread_kill(thread, SIGUSR1);
        pthread_join(thread, NULL);
        ask_base();
        double before = seconds();
        for (int j = 0; j < NEIGHBOURS; j++)
            if (neighbours[j] != chunk) free(neighbours[j]);
        waited += seconds() - before;
        free(chunk);
    }
    expect_no_wait(waited);
}

static void free_after_jumps(void) {
    sem_init(&wanted, 0, 0);
    sem_init(&done, 0, 0);
    pthread_t other;
    begin(&other, free_neighbours, NULL);
    handle(SIGALRM, leave, 0);
    double waited = 0;
    for (volatile int i = 0; i < FREES; i++) {
        make_neighbours();
        interrupt(150);
        if (sigsetjmp(back, 1) == 0) {
            asking = 1;
            for (;;) ask_base();
        }
        asking = 0;
        interrupt(0);
        double before = seconds();
        sem_post(&wanted);
        while (sem_wait(&done) != 0) {}
        waited += seconds() - before;
    }
    expect_no_wait(waited);
}

static void all(const char *what) {
    if (strcmp(what, "base") == 0) leave_often(ask_base, leave, 0);
    if (strcmp(what, "info") == 0) leave_often(ask_info, leave, 0);
    if (strcmp(what, "walk") == 0) leave_often(walk, leave, 0);
    if (strcmp(what, "report") == 0) leave_often(report, leave, 0);
    if (strcmp(what, "malloc") == 0) {
        find_runtime();
        leave_often(allocate, leave_runtime, 0);
    }
    if (strcmp(what, "threads") == 0) leave_threads();
    if (strcmp(what, "frees") == 0) free_after_jumps();
    if (strcmp(what, "stack") == 0) {
        // Above the stack, and in it.
        static char memory[1 << 16] __attribute__((aligned(16)));
        char within[1 << 16] __attribute__((aligned(16)));
        for (int i = 0; i < 2; i++) {
            stack_t stack = {.ss_sp = i == 0 ? memory : within, .ss_size = 1 << 16};
            sigaltstack(&stack, NULL);
            leave_often(ask_base, ask_or_leave, SA_ONSTACK);
        }
        stack_t none = {.ss_flags = SS_DISABLE};
        handle(SIGALRM, nothing, 0);
        sigaltstack(&none, NULL);
    }
}

int main(int argc, char **argv) {
    chunk = make(1000);
    nowhere = open("/dev/null", O_WRONLY);
    const char *what = argc > 1 ? argv[1] : "";
    if (indexed()) all(what);
    if (indexed() && strcmp(what, "frees") != 0 && strcmp(what, "threads") != 0) {
        for (int i = 0; i < 1000; i++) ask_base();
        ask_info();
        walk();
        report();
    }
    answers++;
    printf("%s: done\n", what);
    report_answers();
    return 0;
}
