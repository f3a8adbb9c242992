// Allocates and frees at random, in many threads, by every function of the malloc family, and checks what
// comes of it: contents, alignment, zeros; and, where the runtime is, that the index agrees with the
// program's own list of its chunks, at any time for a thread's own and for all of them while none works.
//
//     stress THREADS OPERATIONS SEED [foreign] [incomplete] [small] [silent]
//
// foreign: the allocator is not libc's. It may lack pvalloc, so that libc's chunks would get into its free, and
// misalign: mimalloc 2.0.9 does. incomplete: the index may lack chunks (those of another allocator, or made
// under a limit on memory); what it says must be right. small: nothing beyond 4 KiB. silent: the
// index is not asked.
#define _GNU_SOURCE
#include "index.h"

#include <errno.h>
#include <malloc.h>

// Whose chunks they are.
#ifndef ALLOCATOR
#define ALLOCATOR "malloc"
#endif

// How much of a chunk may be used.
#ifndef USABLE
#define USABLE(chunk, size) malloc_usable_size(chunk)
#endif

enum { MOST_THREADS = 64, OWN = 1000, SHARED = 2000, FREED = 64, ROUNDS = 8, LARGE = 1 << 20 };

// A chunk as this program knows it, or none (null).
struct record {
    unsigned char *chunk;
    size_t size, usable, filled;
    uint64_t key; // of its pattern
    int seen;     // how often the walk has reported it
};

// Whoever has the number of a record owns it; threads exchange numbers with `shared`.
static struct record records[MOST_THREADS * OWN + SHARED];
static _Atomic int shared[SHARED];
static struct record *sorted[MOST_THREADS * OWN + SHARED];
static int live;

struct thread {
    pthread_t thread;
    uint64_t random;
    int own[OWN];
    const void *freed[FREED];
    unsigned frees;
    bool has_huge; // at most one chunk beyond a megabyte
};

static struct thread threads[MOST_THREADS];
static int thread_count;
static long operations;
static bool foreign, incomplete, small, silent;
static _Atomic long failures;
static pthread_barrier_t barrier;

// Large chunks are filled at both ends and every 64 KiB, the others throughout.
static size_t stride(size_t size) { return size > LARGE ? 65536 : 8; }

static void fill(struct record *record) {
    uint64_t word = record->key;
    size_t step = stride(record->filled), at = 0;
    for (; at + 8 <= record->filled; at += step, word += 0x9e3779b97f4a7c15)
        memcpy(record->chunk + at, &word, 8);
    if (step == 8)
        for (; at < record->filled; at++) record->chunk[at] = (unsigned char)(record->key >> 56);
    else
        record->chunk[record->filled - 1] = (unsigned char)(record->key >> 56);
}

// Checks the first `size` bytes of what `fill` has written.
static void check(const struct record *record, size_t size) {
    uint64_t word = record->key, difference = 0;
    size_t step = stride(record->filled), at = 0;
    for (; at + 8 <= size && at + 8 <= record->filled; at += step, word += 0x9e3779b97f4a7c15) {
        uint64_t found;
        memcpy(&found, record->chunk + at, 8);
        difference |= found ^ word;
    }
    if (step == 8 && size == record->filled)
        for (; at < size; at++) difference |= record->chunk[at] ^ (record->key >> 56);
    else if (size == record->filled)
        difference |= record->chunk[size - 1] ^ (record->key >> 56);
    if (difference != 0) wrong("%p of %zu bytes was overwritten", (void *)record->chunk, record->size);
}

// Small sizes mostly, up to 1 MiB, and now and then one of 64 KiB to 64 MiB.
static size_t random_size(struct thread *self) {
    uint64_t random = next_random(&self->random);
    if (small) return random >> 32 & 4095 >> (random & 7);
    if (random % 20000 == 0 && !self->has_huge) {
        self->has_huge = true;
        return (65536u << (random >> 20) % 10) + (random >> 30) % 65536;
    }
    unsigned a = (random >> 8) % 21, b = (random >> 16) % 21;
    return (random >> 32) % ((1u << (a < b ? a : b)) + 1);
}

static void no_zeros(void) { wrong("calloc gave memory that is not zero"); }

static void expect_zeros(const unsigned char *chunk, size_t size) {
    if (size == 0) return;
    if (chunk[0] != 0 || memcmp(chunk, chunk + 1, size - 1) != 0) no_zeros();
}

ALLOCATING static void allocate(struct thread *self, struct record *record) {
    size_t size = random_size(self), alignment = 16;
    uint64_t random = next_random(&self->random);
    size_t asked_alignment = (size_t)8 << (random >> 40) % 14;
    void *chunk = NULL;
    switch (random % 16) {
    default: chunk = malloc(size); break;
    case 0: case 1: case 2: {
        size_t count = random % 7 + 1;
        chunk = calloc(count, size / count);
        size = size / count * count;
        if (chunk != NULL) expect_zeros(chunk, size);
        break;
    }
    case 3: chunk = realloc(NULL, size); break;
    case 4: chunk = reallocarray(NULL, 3, size / 3); size = size / 3 * 3; break;
    case 5: alignment = asked_alignment; chunk = memalign(alignment, size); break;
    case 6:
        alignment = asked_alignment;
        if (posix_memalign(&chunk, alignment, size) != 0) chunk = NULL;
        break;
    case 7:
        alignment = asked_alignment;
        size = (size + alignment - 1) & -alignment;
        chunk = aligned_alloc(alignment, size);
        break;
    case 8: if (random >> 32 & 7) chunk = malloc(size);
            else { alignment = 4096; chunk = valloc(size); }
            break;
#ifdef __GLIBC__
    case 9: if (random >> 32 & 7 || foreign) chunk = malloc(size);
            else { alignment = 4096; chunk = pvalloc(size); }
            break;
#endif
    }
    if (chunk == NULL) {
        failures++;
        return;
    }
    // An allocator may align less what is smaller than that.
    if (foreign || (alignment == 16 && size < 16)) alignment = 8;
    if ((uintptr_t)chunk % alignment != 0) wrong("%p is not aligned to %zu", chunk, alignment);
    record->size = size;
    record->usable = USABLE(chunk, size);
    if (record->usable < size) wrong("%p: usable size %zu is less than %zu", chunk, record->usable, size);
    record->filled = random >> 60 & 3 ? size : record->usable;
    record->key = next_random(&self->random);
    record->chunk = chunk;
    if (record->filled > 0) fill(record);
}

static void forget(struct thread *self, struct record *record) {
    self->freed[self->frees++ % FREED] = record->chunk;
    if (record->size >= 65536) self->has_huge = false;
    record->chunk = NULL;
}

static void release(struct thread *self, struct record *record) {
    check(record, record->filled);
    void *chunk = record->chunk;
    forget(self, record);
    errno = 77;
    free(chunk);
    // Not promised by every allocator, so that it is compared only where libc's own is there.
#ifdef __GLIBC__
    if (errno != 77 && !foreign && !incomplete) wrong("free changed errno to %d", errno);
#endif
}

ALLOCATING static void resize(struct thread *self, struct record *record) {
    struct record old = *record;
    size_t size = random_size(self);
    check(record, record->filled);
    uint64_t random = next_random(&self->random);
    void *chunk;
    if (random % 4 == 0) {
        size = size / 5 * 5;
        chunk = reallocarray(record->chunk, size / 5, 5);
    } else {
        chunk = realloc(record->chunk, size);
    }
    if (chunk == NULL) {
        // Nothing for nothing asked: the chunk is gone, or it would be as it was.
        if (size == 0) forget(self, record);
        else failures++;
        return;
    }
    if (chunk != record->chunk) forget(self, record);
    record->chunk = chunk;
    record->size = size;
    record->usable = USABLE(chunk, size);
    if (record->usable < size) wrong("%p: usable size %zu is less than %zu", chunk, record->usable, size);
    size_t kept = old.filled < size ? old.filled : size;
    old.chunk = chunk;
    if (kept > 0) check(&old, kept);
    record->filled = random >> 60 & 3 ? size : record->usable;
    record->key = next_random(&self->random);
    if (record->filled > 0) fill(record);
}

// The index knows chunks that begin at multiples of 16: all of libc's. What realloc gives for no bytes, where it
// gives something, may have no byte for a record.
static bool may_be_unknown(const struct record *record) {
    return incomplete || (uintptr_t)record->chunk % 16 != 0 || record->usable == 0;
}

// Whether the chunk of malloc's that contains `address` is this one; mappings are known as well.
static bool is_in(const void *address, const struct record *record) {
    return alloc_get_base(address) == record->chunk && strcmp(alloc_get_allocator(address)->name, ALLOCATOR) == 0;
}

static void ask(struct thread *self, const struct record *record) {
    if (silent || !indexed()) return;
    size_t offset = record->usable == 0 ? 0 : next_random(&self->random) % record->usable;
    if (!may_be_unknown(record) || is_in(record->chunk + offset, record))
        expect_live(record->chunk, record->size, record->usable, offset);
    // What lies behind it is not in it; its own address always is. What is in no chunk is looked for elsewhere, too,
    // which takes long.
    if (record->usable > 0 && record->key % 32 == 0 && is_in(record->chunk + record->usable, record))
        wrong("%p + %zu is behind the chunk", (void *)record->chunk, record->usable);
}

static void operate(struct thread *self) {
    uint64_t random = next_random(&self->random);
    int *own = &self->own[random % OWN];
    if (random >> 32 & 1) *own = atomic_exchange(&shared[(random >> 10) % SHARED], *own);
    struct record *record = &records[*own];
    switch (random >> 33 & 7) {
    case 0: case 1: if (record->chunk != NULL) resize(self, record);
                    else allocate(self, record);
                    break;
    case 2: if (record->chunk != NULL) ask(self, record); break;
    default: if (record->chunk != NULL) release(self, record);
             else allocate(self, record);
    }
}

static int by_address(const void *a, const void *b) {
    const struct record *left = *(struct record *const *)a, *right = *(struct record *const *)b;
    return (left->chunk > right->chunk) - (left->chunk < right->chunk);
}

static struct record *find(const void *base) {
    struct record key = {.chunk = (unsigned char *)base}, *pointer = &key;
    struct record **found = bsearch(&pointer, sorted, (size_t)live, sizeof *sorted, by_address);
    return found == NULL ? NULL : *found;
}

// A chunk that is not in the list is libc's, unless it was made here: all of those are in the list.
static int reported(const struct alloc_chunk *chunk, void *strangers) {
    struct record *record = find(chunk->base);
    if (record == NULL) {
        if (made_here(chunk->site))
            wrong("%p of %zu bytes is reported and not live", chunk->base, chunk->size);
        ++*(int *)strangers;
        return 0;
    }
    if (record->seen++ > 0) wrong("%p is reported twice", chunk->base);
    if (chunk->size != record->size || chunk->usable_size != record->usable)
        wrong("%p: size %zu of %zu, usable %zu of %zu", chunk->base, chunk->size, record->size,
              chunk->usable_size, record->usable);
    if (!made_here(chunk->site)) wrong("%p: site %p is not where it was made", chunk->base, chunk->site);
    if (strcmp(chunk->allocator->name, ALLOCATOR) != 0) wrong("%p is of %s", chunk->base, chunk->allocator->name);
    answers++;
    return 0;
}

static int only(const struct alloc_chunk *chunk, void *base) {
    if (chunk->base != base) wrong("%p is reported for %p", chunk->base, base);
    return 7;
}

// Compares list and index while no other thread works.
static void compare(void) {
    live = 0;
    for (size_t i = 0; i < sizeof records / sizeof *records; i++)
        if (records[i].chunk != NULL) sorted[live++] = &records[i];
    // Not qsort, which allocates.
    for (int gap = live / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11)
        for (int i = gap; i < live; i++) {
            struct record *moved = sorted[i];
            int j = i;
            for (; j >= gap && sorted[j - gap]->chunk > moved->chunk; j -= gap) sorted[j] = sorted[j - gap];
            sorted[j] = moved;
        }
    for (int i = 0; i < live; i++) {
        const struct record *record = sorted[i];
        check(record, record->filled);
        if (i + 1 < live && record->chunk + record->usable > sorted[i + 1]->chunk)
            wrong("%p and %p overlap", (void *)record->chunk, (void *)sorted[i + 1]->chunk);
    }
    if (silent || !indexed()) return;
    int strangers = 0;
    if (alloc_walk(NULL, reported, &strangers) != 0) wrong("the walk ended early");
    if (strangers > 200) wrong("%d chunks are reported that are not the program's", strangers);
    for (int i = 0; i < live; i++) {
        struct record *record = sorted[i];
        if (record->seen == 0 && !may_be_unknown(record))
            wrong("%p of %zu bytes is not reported", (void *)record->chunk, record->size);
        bool seen = record->seen > 0;
        record->seen = 0;
        ask(&threads[0], record);
        struct alloc_range range = {record->chunk, record->chunk + 1, NULL};
        if (seen && i % 16 == 0 && alloc_walk(&range, only, record->chunk) != 7)
            wrong("%p is not reported for its own range", (void *)record->chunk);
    }
    for (int i = 0; i < thread_count * FREED; i++) {
        const void *freed = threads[i / FREED].freed[i % FREED];
        if (freed != NULL && find(freed) == NULL) expect_gone(freed);
    }
}

static void *work(void *argument) {
    struct thread *self = argument;
    // Under a limit on memory all threads get their stacks before any of them takes what is left.
    if (incomplete) pthread_barrier_wait(&barrier);
    for (int round = 0; round < ROUNDS; round++) {
        for (long left = operations / ROUNDS / thread_count; left > 0; left--) operate(self);
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) compare();
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    thread_count = atoi(argv[1]);
    operations = atol(argv[2]);
    if (thread_count < 1 || thread_count > MOST_THREADS) return 2;
    for (int i = 4; i < argc; i++) {
        foreign |= strcmp(argv[i], "foreign") == 0;
        incomplete |= strcmp(argv[i], "incomplete") == 0;
        small |= strcmp(argv[i], "small") == 0;
        silent |= strcmp(argv[i], "silent") == 0;
    }
    pthread_barrier_init(&barrier, NULL, (unsigned)thread_count);
    for (int i = 0; i < SHARED; i++) shared[i] = MOST_THREADS * OWN + i;
    for (int i = 0; i < thread_count; i++) {
        threads[i].random = strtoull(argv[3], NULL, 10) * 1000003 + (uint64_t)i + 1;
        for (int j = 0; j < OWN; j++) threads[i].own[j] = i * OWN + j;
        if (pthread_create(&threads[i].thread, NULL, work, &threads[i]) != 0) return 3;
    }
    for (int i = 0; i < thread_count; i++) pthread_join(threads[i].thread, NULL);
    for (size_t i = 0; i < sizeof records / sizeof *records; i++)
        if (records[i].chunk != NULL) release(&threads[0], &records[i]);
    compare();
    if (!incomplete && failures > 0) wrong("%ld calls failed", failures);
    puts("done");
    report_answers();
    return 0;
}
