// A program with two allocators: libc's, and one of its own whose functions (own_malloc.c) have names of their own.
// Each chunk is known, with whom it is from, where it was made and how large it was asked for, whatever the
// allocator's functions call each other for; and what is given to the wrong one stays where it is.
#include "index.h"

#include <malloc.h>

void *pool_malloc(size_t size);
void *pool_calloc(size_t count, size_t size);
void *pool_realloc(void *chunk, size_t size);
void *pool_reallocarray(void *chunk, size_t count, size_t size);
void *pool_memalign(size_t alignment, size_t size);
void *pool_aligned_alloc(size_t alignment, size_t size);
int pool_posix_memalign(void **chunk, size_t alignment, size_t size);
void pool_free(void *chunk);
void pool_cfree(void *chunk);
extern _Atomic long own_strangers;

enum { COUNT = 600 };

struct chunk {
    const char *allocator;
    void *base;
    size_t size;
    int seen;
};
static struct chunk chunks[COUNT];
static void *at_first;

// Ahead of all constructors.
static ALLOCATING void at_start(void) { at_first = pool_malloc(4711); }
__attribute__((section(".preinit_array"), used)) static void (*preinit)(void) = at_start;

static void expect(const struct chunk *chunk) {
    if (chunk->base == NULL) wrong("no memory");
    if (!indexed()) return;
    const char *last = (char *)chunk->base + chunk->size - 1;
    const struct allocator *allocator = alloc_get_allocator(last);
    if (alloc_get_base(last) != chunk->base || alloc_get_size(last) != chunk->size)
        wrong("%p of %zu: %p of %zu", chunk->base, chunk->size, alloc_get_base(last), alloc_get_size(last));
    if (strcmp(allocator->name, chunk->allocator) != 0) wrong("%p: is of %s", chunk->base, allocator->name);
    if (!made_here(alloc_get_site(last))) wrong("%p: made at %p", chunk->base, alloc_get_site(last));
    answers++;
}

static ALLOCATING void make(struct chunk *chunk, unsigned i) {
    size_t size = chunk->size = 1 + i * 37 % 5000;
    chunk->allocator = i % 10 < 7 ? "pool" : "malloc";
    switch (i % 10) {
    case 0: chunk->base = pool_malloc(size); break;
    case 1: chunk->base = pool_calloc(1, size); break;
    case 2: chunk->base = pool_realloc(pool_malloc(3), size); break;
    case 3: chunk->base = pool_reallocarray(pool_calloc(2, 7000), 1, size); break;
    case 4: chunk->base = pool_memalign(256, size); break;
    case 5: chunk->base = pool_aligned_alloc(64, chunk->size = size * 64); break;
    case 6: if (pool_posix_memalign(&chunk->base, 4096, size) != 0) wrong("no memory"); break;
    case 7: chunk->base = malloc(size); break;
    case 8: chunk->base = realloc(calloc(1, 3), size); break;
    default: chunk->base = memalign(256, size);
    }
    memset(chunk->base, 0x5a, chunk->size);
}

// Libc has some more chunks, and the pool one that it needs itself.
static int reported(const struct alloc_chunk *chunk, void *name) {
    if (name != NULL && strcmp(chunk->allocator->name, name) != 0) wrong("%p: is of %s", chunk->base, chunk->allocator->name);
    for (int i = 0; i < COUNT; i++)
        if (chunks[i].base == chunk->base) {
            if (strcmp(chunks[i].allocator, chunk->allocator->name) != 0) wrong("%p: is of %s", chunk->base, chunk->allocator->name);
            if (chunk->size != chunks[i].size) wrong("%p: %zu bytes", chunk->base, chunk->size);
            chunks[i].seen++;
            answers++;
            return 0;
        }
    if (chunk->base != at_first && made_here(chunk->site)) wrong("%p was freed", chunk->base);
    return 0;
}

static void walk(const char *name) {
    if (!indexed()) return;
    struct alloc_range range = {NULL, NULL, NULL};
    for (int i = 0; i < COUNT && name != NULL; i++)
        if (chunks[i].base != NULL && strcmp(chunks[i].allocator, name) == 0) range.allocator = alloc_get_allocator(chunks[i].base);
    alloc_walk(&range, reported, (void *)name);
    for (int i = 0; i < COUNT; i++) {
        bool is_sought = chunks[i].base != NULL && (name == NULL || strcmp(chunks[i].allocator, name) == 0);
        if (chunks[i].seen != is_sought) wrong("%p is reported %d times", chunks[i].base, chunks[i].seen);
        chunks[i].seen = 0;
    }
}

static int stop(const struct alloc_chunk *chunk, void *calls) {
    (void)chunk;
    return ++*(int *)calls == 3 ? 7 : 0;
}

static void release(struct chunk *chunk) {
    void *base = chunk->base;
    if (strcmp(chunk->allocator, "malloc") == 0) free(base);
    else if (chunk->size % 2 == 0) pool_cfree(base);
    else pool_free(base);
    chunk->base = NULL;
    expect_gone(base);
}

int main(void) {
    struct chunk first = {"pool", at_first, 4711, 0};
    expect(&first);
    for (unsigned i = 0; i < COUNT; i++) make(&chunks[i], i);
    for (int i = 0; i < COUNT; i++) expect(&chunks[i]);
    walk(NULL);
    walk("malloc");
    walk("pool");
    int calls = 0;
    if (indexed() && (alloc_walk(NULL, stop, &calls) != 7 || calls != 3)) wrong("%d calls", calls);
    // The pool's free leaves a stranger alone, and so does the index.
    pool_free(chunks[7].base);
    if (own_strangers != 1) wrong("%ld strangers", own_strangers);
    expect(&chunks[7]);
    for (int i = 0; i < COUNT; i += 2) release(&chunks[i]);
    walk(NULL);
    for (int i = 1; i < COUNT; i += 2) expect(&chunks[i]);
    for (int i = 1; i < COUNT; i += 2) release(&chunks[i]);
    walk(NULL);
    // What fails leaves the chunk as it is.
    struct chunk kept = {"pool", NULL, 100, 0};
    make(&kept, 10);
    static volatile size_t much = SIZE_MAX / 3;
    if (pool_realloc(kept.base, much) != NULL) wrong("memory that nobody has");
    expect(&kept);
    release(&kept);
    puts("done");
    report_answers();
    return 0;
}
