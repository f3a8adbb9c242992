// Asks the index in difficult moments: while other threads allocate, free and trim (churn), in signal
// handlers that interrupt malloc and free (signals), and about addresses that are no chunk's (wild). Without
// the runtime it does the same work and asks nothing.
#define _GNU_SOURCE
#include "index.h"

#include <malloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

enum { STABLE = 5000, CHURNERS = 4 };

static struct {
    char *chunk;
    size_t size, usable;
    int seen;
} stable[STABLE];

static _Atomic bool stop;

// A hash table by address: the callbacks of walks must not allocate.
static struct { const void *base; int number; } table[4 * STABLE];

static size_t place_of(const void *base) {
    size_t at = ((uintptr_t)base >> 4) * 0x9e3779b97f4a7c15 % (4 * STABLE);
    while (table[at].base != NULL && table[at].base != base) at = (at + 1) % (4 * STABLE);
    return at;
}

static int find_stable(const void *base) {
    size_t at = place_of(base);
    return table[at].base == base ? table[at].number : -1;
}

// Chunks that live throughout, of distinctive sizes, with gaps between them; two are mapped of their own.
ALLOCATING static void make_stable(void) {
    char *gaps[STABLE];
    for (int i = 0; i < STABLE; i++) {
        stable[i].size = i % 1000 == 7 ? 1000003 : i % 100 == 3 ? 20011 : (size_t)(i * 37 % 611 + 1);
        stable[i].chunk = malloc(stable[i].size);
        stable[i].usable = malloc_usable_size(stable[i].chunk);
        gaps[i] = malloc((size_t)(i * 53 % 307));
    }
    for (int i = 0; i < STABLE; i++) {
        free(gaps[i]);
        size_t at = place_of(stable[i].chunk);
        table[at].base = stable[i].chunk;
        table[at].number = i;
    }
}

static void free_stable(void) {
    for (int i = 0; i < STABLE; i++) free(stable[i].chunk);
}

static int reported(const struct alloc_chunk *chunk, void *count) {
    int number = find_stable(chunk->base);
    if (chunk->size > chunk->usable_size) wrong("%p: size %zu of %zu", chunk->base, chunk->size, chunk->usable_size);
    if (number < 0) return 0;
    stable[number].seen++;
    if (chunk->size != stable[number].size || chunk->usable_size != stable[number].usable)
        wrong("%p: size %zu of %zu", chunk->base, chunk->size, stable[number].size);
    ++*(int *)count;
    return 0;
}

// Each stable chunk is reported once.
static void walk(void) {
    if (!indexed()) return;
    int count = 0;
    alloc_walk(NULL, reported, &count);
    for (int i = 0; i < STABLE; i++) {
        if (stable[i].seen != 1) wrong("%p is reported %d times", (void *)stable[i].chunk, stable[i].seen);
        stable[i].seen = 0;
    }
    answers += (unsigned long)count;
}

static void *churn(void *argument) {
    uint64_t random = (uint64_t)(uintptr_t)argument;
    enum { OWN = 500 };
    char *own[OWN] = {NULL};
    while (!stop) {
        uint64_t number = next_random(&random);
        char **chunk = &own[(number >> 40) % OWN];
        size_t size = number % 500 == 0 ? 300007 + (number >> 20) % 5000000 : (number >> 20) % 3001;
        if (*chunk != NULL && number >> 63) {
            *chunk = realloc(*chunk, size + 1);
        } else if (*chunk != NULL) {
            free(*chunk);
            *chunk = NULL;
        } else {
            *chunk = malloc(size);
            if (size > 0) memset(*chunk, 0x5a, size > 10000 ? 10000 : size);
        }
#ifdef __GLIBC__
        if (number % 5000 == 1) malloc_trim(0);
#endif
    }
    for (int i = 0; i < OWN; i++) free(own[i]);
    return NULL;
}

// A chunk for every so many reported: the callback may allocate and free.
static int allocate_meanwhile(const struct alloc_chunk *chunk, void *last) {
    char **kept = last;
    if ((uintptr_t)chunk->base / 16 % 7 == 0) {
        free(*kept);
        *kept = malloc(10009);
    }
    return 0;
}

static void walks_under_churn(void) {
    pthread_t threads[CHURNERS];
    for (int i = 0; i < CHURNERS; i++) pthread_create(&threads[i], NULL, churn, (void *)(uintptr_t)(i + 7));
    for (int i = 0; i < 200; i++) {
        walk();
        char *kept = NULL;
        if (indexed() && i % 10 == 0) alloc_walk(NULL, allocate_meanwhile, &kept);
        free(kept);
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, NULL);
    }
    stop = true;
    for (int i = 0; i < CHURNERS; i++) pthread_join(threads[i], NULL);
    walk();
}

static _Atomic long interrupts;
static _Thread_local void *volatile current;
static _Thread_local volatile size_t current_size;
static _Thread_local size_t own; // the remainder of the sizes that this thread asks for

static int counted(const struct alloc_chunk *chunk, void *count) {
    if (find_stable(chunk->base) >= 0) ++*(int *)count;
    return 0;
}

// The chunk that this thread is allocating or freeing right now is there or not; if it is, as it was asked for. Once
// it is free, another thread may have made one of its own there.
static void interrupted(int signal) {
    (void)signal;
    long number = interrupts++;
    if (!indexed()) return;
    int i = (int)(number * 31 % STABLE);
    expect_live(stable[i].chunk, stable[i].size, stable[i].usable, stable[i].size / 2);
    void *chunk = current;
    size_t size = current_size, found = alloc_get_size(chunk);
    if (chunk != NULL && alloc_get_base(chunk) == chunk && found % CHURNERS == own && found != size && found != 0)
        wrong("%p: size %zu of %zu", chunk, found, size);
    if (alloc_get_base((void *)16) != NULL) wrong("address 16 is known");
    if (number % 16 == 0) {
        int count = 0;
        alloc_walk(NULL, counted, &count);
        if (count != STABLE) wrong("%d stable chunks are reported", count);
    }
}

static void *allocate_under_signals(void *argument) {
    uint64_t random = (uint64_t)(uintptr_t)argument;
    own = random % CHURNERS;
    for (int i = 0; !stop; i++) {
        uint64_t number = next_random(&random);
        size_t size = (number % 100 == 0 ? 200000 : number % 500 * CHURNERS) + own;
        char *chunk = malloc(size);
        current_size = size;
        current = chunk;
        if (number >> 60 == 0) {
            current = NULL;
            chunk = realloc(chunk, size * (CHURNERS + 1));
        }
        free(chunk);
        current = NULL;
    }
    return NULL;
}

static void queries_in_handlers(void) {
    struct sigaction action = {.sa_handler = interrupted, .sa_flags = SA_RESTART};
    sigaction(SIGPROF, &action, NULL);
    struct itimerval every = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_PROF, &every, NULL);
    pthread_t threads[CHURNERS];
    for (int i = 0; i < CHURNERS; i++)
        pthread_create(&threads[i], NULL, allocate_under_signals, (void *)(uintptr_t)(i + 7));
    while (interrupts < 1000) {
        pthread_kill(threads[interrupts % CHURNERS], SIGPROF);
        struct timespec pause = {0, 500000};
        nanosleep(&pause, NULL);
    }
    stop = true;
    for (int i = 0; i < CHURNERS; i++) pthread_join(threads[i], NULL);
    signal(SIGPROF, SIG_IGN);
    walk();
}

// What every function says about one address fits together; it says so soon.
static enum alloc_error ask(const void *address) {
    struct timespec before, after;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    struct alloc_info info;
    enum alloc_error error = alloc_get_info(address, &info);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    long took = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
    if (took > 50000000) wrong("%p: %ld ns", address, took);
    bool none = error != ALLOC_OK;
    if (alloc_get_base(address) != (none ? NULL : info.base)) wrong("%p: another base", address);
    if (alloc_get_size(address) != (none ? 0 : info.size)) wrong("%p: another size", address);
    if (alloc_get_site(address) != (none ? NULL : info.site)) wrong("%p: another site", address);
    if (alloc_get_allocator(address) != (none ? NULL : info.allocator)) wrong("%p: another allocator", address);
    if (alloc_get_limit(address) != (none ? NULL : (char *)info.base + info.size)) wrong("%p: another limit", address);
    if (!none && ((const char *)address < (char *)info.base || (const char *)address >= (char *)info.base + info.usable_size))
        wrong("%p is not in %p of %zu", address, info.base, info.usable_size);
    answers++;
    return error;
}

static void expect_error(const char *what, uintptr_t address, enum alloc_error expected) {
    enum alloc_error error = ask((const void *)address);
    if (error != expected) wrong("%s: %#lx: error %d", what, address, (int)error);
}

// In no chunk of malloc's.
static void expect_no_chunk(const char *what, const void *address) {
    if (ask(address) == ALLOC_OK && strcmp(alloc_get_allocator(address)->name, "malloc") == 0)
        wrong("%s: %p is in a chunk", what, address);
}

static void wild_addresses(void) {
    if (!indexed()) return;
    expect_error("null", 0, ALLOC_E_UNMAPPED);
    expect_error("one", 1, ALLOC_E_UNMAPPED);
    expect_error("first page", 4095, ALLOC_E_UNMAPPED);
    expect_error("last of user space", 0x7fffffffffff, ALLOC_E_UNMAPPED);
    expect_error("non-canonical", 0x800000000000, ALLOC_E_UNMAPPED);
    expect_error("non-canonical", 0x8000000000000000, ALLOC_E_UNMAPPED);
    expect_error("non-canonical", 0xffff7fffffffffff, ALLOC_E_UNMAPPED);
    expect_error("kernel", 0xffff800000000000, ALLOC_E_UNMAPPED);
    expect_error("kernel", 0xffffffff81000000, ALLOC_E_UNMAPPED);
    expect_error("last", UINTPTR_MAX, ALLOC_E_UNMAPPED);
    expect_no_chunk("vsyscall", (void *)0xffffffffff600000);
    int local = 0;
    expect_no_chunk("stack", &local);
    expect_no_chunk("code", (const void *)(uintptr_t)wild_addresses);
    expect_no_chunk("code of libc", (const void *)(uintptr_t)nanosleep);
    expect_no_chunk("static data", &stop);
    expect_no_chunk("thread-local data of the main thread", (const void *)&current);
    if (alloc_get_info(&local, NULL) != ALLOC_E_INVALID) wrong("no info asked for");

    char *mapping = mmap(NULL, 3 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect_no_chunk("mapping", mapping + 12345);
    munmap(mapping + (1 << 20), 1 << 20);
    expect_no_chunk("mapping with a hole", mapping + 5);
    expect_error("hole", (uintptr_t)mapping + (1 << 20), ALLOC_E_UNMAPPED);
    expect_error("hole", (uintptr_t)mapping + (2 << 20) - 1, ALLOC_E_UNMAPPED);
    mprotect(mapping, 4096, PROT_NONE);
    expect_no_chunk("no access", mapping + 100);
    munmap(mapping, 3 << 20);
    expect_error("no longer mapped", (uintptr_t)mapping, ALLOC_E_UNMAPPED);

    // Chunks that were mappings of their own, and what glibc's heap has given back.
    for (size_t size = 1000003; size < 200000000; size *= 3) {
        char *chunk = malloc(size);
        expect_live(chunk, size, malloc_usable_size(chunk), size / 2);
        expect_live(chunk, size, malloc_usable_size(chunk), size - 1);
        chunk[size - 1] = 1;
        free(chunk);
        if (ask(chunk) == ALLOC_OK || ask(chunk + size / 2) == ALLOC_OK || ask(chunk + size - 1) == ALLOC_OK)
            wrong("%p of %zu bytes is free and known", (void *)chunk, size);
    }

    // A program that writes beyond its chunk writes over what is noted there.
    unsigned char *overrun = malloc(1003);
    memset(overrun, 0xff, malloc_usable_size(overrun) + 8);
    if (ask(overrun + 500) == ALLOC_OK && alloc_get_base(overrun + 500) != overrun) wrong("another base");
    ask(overrun);
    walk();
    free(overrun);

    uint64_t random = 7;
    for (int i = 0; i < 500; i++) {
        uint64_t number = next_random(&random);
        // Anywhere; near a chunk; near a library.
        ask((const void *)number);
        ask((const void *)(number >> 17));
        ask(stable[number % STABLE].chunk + (long)(number >> 40) % 100000 - 50000);
        ask((const char *)(uintptr_t)nanosleep + (long)(number >> 32) % 10000000 - 5000000);
    }
    for (int i = 0; i < 200000; i++) {
        uint64_t number = next_random(&random);
        const char *address = stable[number % STABLE].chunk + (long)(number >> 40) % 100000 - 50000;
        const char *base = alloc_get_base(address);
        if (base > address) wrong("%p is below %p", (const void *)address, (const void *)base);
    }
    walk();
}

int main(int argc, char **argv) {
    make_stable();
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "churn") == 0) walks_under_churn();
    if (strcmp(what, "signals") == 0) queries_in_handlers();
    if (strcmp(what, "wild") == 0) wild_addresses();
    free_stable();
    printf("%s: done\n", what);
    report_answers();
    return 0;
}
