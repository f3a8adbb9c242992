// Functions of jemalloc's own, linked into the program: chunks that are made, resized and given back by them are
// known, and what is said of their size is what jemalloc knows. With -DSIZED there is none that says how large a chunk
// is, and all are given back with their size, as Rust programs do.
#include "index.h"

#include <jemalloc/jemalloc.h>

enum { COUNT = 2000, ROUNDS = 20 };

static struct {
    unsigned char *base;
    size_t size;
    int flags;
} chunks[COUNT];
static uint64_t state = 20231125;

static void expect(int i) {
    if (!indexed()) return;
    unsigned char *last = chunks[i].base + chunks[i].size - 1;
    if (alloc_get_base(last) != chunks[i].base || alloc_get_size(last) != chunks[i].size)
        wrong("%p of %zu: %p of %zu", chunks[i].base, chunks[i].size, alloc_get_base(last), alloc_get_size(last));
    if (!made_here(alloc_get_site(last))) wrong("%p: made at %p", chunks[i].base, alloc_get_site(last));
    if (strcmp(alloc_get_allocator(last)->name, "jemalloc") != 0) wrong("%p is of another", chunks[i].base);
    answers++;
}

static void fill(int i) { memset(chunks[i].base, i & 0xff, chunks[i].size); }

static void check(int i, size_t size) {
    for (size_t at = 0; at < size; at++)
        if (chunks[i].base[at] != (i & 0xff)) wrong("%p was overwritten", chunks[i].base);
}

static size_t random_size(void) { return 1 + (next_random(&state) >> 20) % (16u << next_random(&state) % 13); }

static ALLOCATING void make(int i) {
    chunks[i].size = random_size();
    chunks[i].flags = i % 3 == 0 ? MALLOCX_ALIGN((size_t)16 << i % 9) : 0;
    bool zero = i % 4 == 0;
    chunks[i].base = mallocx(chunks[i].size, chunks[i].flags | (zero ? MALLOCX_ZERO : 0));
    if (chunks[i].base == NULL) wrong("no memory");
    for (size_t at = 0; zero && at < chunks[i].size; at++)
        if (chunks[i].base[at] != 0) wrong("%p is not zero", chunks[i].base);
}

static ALLOCATING void resize(int i) {
    size_t size = random_size(), before = chunks[i].size;
    chunks[i].base = rallocx(chunks[i].base, size, chunks[i].flags);
    chunks[i].size = size;
    check(i, before < size ? before : size);
}

#ifndef SIZED
static void resize_in_place(int i) {
    size_t size = random_size(), real = xallocx(chunks[i].base, size, 0, chunks[i].flags);
    if (real != sallocx(chunks[i].base, chunks[i].flags)) wrong("%p: %zu bytes", chunks[i].base, real);
    if (real >= size) chunks[i].size = size;
    else if (real < chunks[i].size) wrong("%p: %zu bytes left of %zu", chunks[i].base, real, chunks[i].size);
    // All of it is the program's.
    memset(chunks[i].base, 0xff, real);
}
#endif

static void release(int i) {
    void *base = chunks[i].base;
#ifndef SIZED
    if (i % 2 == 0) dallocx(base, chunks[i].flags);
    else
#endif
    sdallocx(base, chunks[i].size, chunks[i].flags);
    chunks[i].base = NULL;
    expect_gone(base);
}

static int reported(const struct alloc_chunk *chunk, void *count) {
    if (strcmp(chunk->allocator->name, "jemalloc") == 0 && made_here(chunk->site)) ++*(int *)count;
    return 0;
}

int main(void) {
    for (int i = 0; i < COUNT; i++) make(i);
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < COUNT; i++) {
            fill(i);
            switch (next_random(&state) >> 40 & 3) {
            case 0: resize(i); break;
            case 1: release(i); make(i); break;
#ifndef SIZED
            case 2: resize_in_place(i); break;
#endif
            default: check(i, chunks[i].size);
            }
            expect(i);
        }
    int count = 0;
    if (indexed()) alloc_walk(NULL, reported, &count);
    if (indexed() && count != COUNT) wrong("%d chunks", count);
    for (int i = 0; i < COUNT; i++) release(i);
    puts("done");
    report_answers();
    return 0;
}
