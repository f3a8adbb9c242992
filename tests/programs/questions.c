/* Asks the runtime about an address of each kind, and checks what it says. Without the runtime it says that
 * nothing can be asked. */
#define _GNU_SOURCE
#include "allocs.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK(condition)                                                                \
    do {                                                                                \
        if (!(condition)) {                                                             \
            printf("line %d: %s\n", __LINE__, #condition);                              \
            show(&info);                                                                \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)
#define NOINLINE __attribute__((noinline))
#define ASK(address) answer = alloc_get_info(address, &info)

int table[1001];
static char hidden[303];
static struct alloc_info info;
static enum alloc_error answer;

static const char *or_none(const char *string) { return string ? string : "none"; }

static void show(const struct alloc_info *i) {
    printf("error %d, %s at %p, %zu of %zu, made at %p in %s of %s, chunk %p, mapping %d %p to %p, %s of %s\n",
           answer, i->allocator ? i->allocator->name : "none", i->base, i->size, i->usable_size, i->site,
           or_none(i->site_place.symbol), or_none(i->site_place.file), i->chunk_base, i->mapping_kind,
           i->mapping_base, i->mapping_limit, or_none(i->file.symbol), or_none(i->file.file));
}

static int is_allocator(const char *name) { return info.allocator && !strcmp(info.allocator->name, name); }

static int is_made_in(const char *function) {
    return info.site && info.site_place.symbol && !strcmp(info.site_place.symbol, function);
}

NOINLINE static char *make_small(size_t size) {
    char *made = malloc(size);
    made[0] = 1;
    return made;
}

NOINLINE static char *make_copy(const char *text) {
    char *made = strdup(text);
    made[0] = 'H';
    return made;
}

NOINLINE static void heap(void) {
    char *small = make_small(10002), *large = malloc(3 << 20), *copy = make_copy("hello, hello");
    for (size_t at = 0; at < 10002; at += 101) {
        ASK(small + at);
        CHECK(answer == ALLOC_OK && is_allocator("malloc") && info.base == small && info.size == 10002);
        CHECK(info.usable_size >= 10002 && info.chunk_base == small && info.chunk_size == 10002);
        CHECK(is_made_in("make_small") && info.mapping_kind == ALLOC_MAPPING_HEAP);
        CHECK((char *)info.arena_base <= small && small + 10002 <= (char *)info.arena_limit);
    }
    CHECK(alloc_get_base(small + 7) == small && alloc_get_limit(small + 7) == small + 10002);
    CHECK(alloc_get_size(small) == 10002 && alloc_get_site(small + 1) == info.site);
    CHECK(alloc_get_allocator(small) == info.allocator);
    const void *frames[4];
    CHECK(alloc_get_stack(small, frames, 4) >= 1 && frames[0] == info.site);
    ASK(large + (2 << 20));
    CHECK(answer == ALLOC_OK && info.base == large && info.size == 3 << 20);
    ASK(copy + 3);
    CHECK(answer == ALLOC_OK && info.size == 13 && is_made_in("make_copy"));
    small = realloc(small, 20002);
    ASK(small + 20001);
    CHECK(answer == ALLOC_OK && info.base == small && info.size == 20002 && is_made_in("heap"));
    /* The chunk behind keeps it from being given back to the system. */
    char *behind = malloc(100);
    free(small);
    ASK(small + 5000);
    CHECK(answer == ALLOC_E_FREE && info.mapping_kind == ALLOC_MAPPING_HEAP && !info.base);
    free(large);
    ASK(large + (2 << 20));
    CHECK(answer != ALLOC_OK);
    free(copy);
    free(behind);
}

NOINLINE static void objects(void) {
    ASK(&table[500]);
    CHECK(answer == ALLOC_OK && is_allocator("static") && info.base == table && info.size == sizeof table);
    CHECK(!strcmp(info.file.symbol, "table") && !strcmp(info.section, ".bss") && info.segment >= 0);
    CHECK(info.mapping_kind == ALLOC_MAPPING_OBJECT && info.build_id_size == 20 && strstr(info.file.file, "questions"));
    ASK(hidden + 302);
    CHECK(answer == ALLOC_OK && info.base == hidden && info.size == sizeof hidden);
    ASK((void *)objects);
    CHECK(answer == ALLOC_OK && !strcmp(info.file.symbol, "objects") && !strcmp(info.section, ".text"));
    ASK((void *)qsort);
    CHECK(answer == ALLOC_OK && strstr(info.file.file, "libc.so.6") && !strcmp(info.file.symbol, "qsort"));
    struct alloc_place place;
    CHECK(alloc_get_place((void *)qsort, &place) == ALLOC_OK && !strcmp(place.symbol, "qsort"));
}

NOINLINE static void libraries(void) {
    void *library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
    void *function = library ? dlsym(library, "cbrt") : NULL;
    CHECK(function);
    ASK(function);
    CHECK(answer == ALLOC_OK && strstr(info.file.file, "libm.so.6") && !strcmp(info.file.symbol, "cbrt"));
    void *again = dlmopen(LM_ID_NEWLM, "libm.so.6", RTLD_NOW);
    void *other = again ? dlsym(again, "cbrt") : NULL;
    CHECK(other && other != function);
    ASK(other);
    CHECK(answer == ALLOC_OK && !strcmp(info.file.symbol, "cbrt") && info.base != function);
    dlclose(again);
    dlclose(library);
    ASK(function);
    CHECK(answer == ALLOC_E_UNMAPPED);
}

static void *on_a_stack(void *argument) {
    char local[100] = {0};
    ASK(local + 50);
    CHECK(answer == ALLOC_OK && is_allocator("stack") && info.mapping_kind == ALLOC_MAPPING_THREAD_STACK);
    return argument;
}

NOINLINE static void mappings(char **argv, char **environ_of_main) {
    char *mapped = mmap(NULL, 50000, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASK(mapped + 40000);
    CHECK(answer == ALLOC_OK && is_allocator("mmap") && info.base == mapped && info.mapping_protection == PROT_READ);
    CHECK(info.mapping_site == info.site && is_made_in("mappings"));
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    CHECK((char *)info.mapping_limit == mapped + (50000 + page - 1) / page * page);
    mapped = mremap(mapped, 50000, 1 << 20, MREMAP_MAYMOVE);
    ASK(mapped + (1 << 19));
    CHECK(answer == ALLOC_OK && info.base == mapped && info.size == 1 << 20);
    munmap(mapped + (1 << 19), 1); /* all of the page */
    ASK(mapped + (1 << 19) + page - 1);
    CHECK(answer == ALLOC_E_UNMAPPED);
    ASK(mapped + (1 << 19) + page);
    CHECK(answer == ALLOC_OK && info.base == mapped + (1 << 19) + page);
    munmap(mapped, 1 << 20);
    ASK(mapped + (1 << 19) - 1);
    CHECK(answer == ALLOC_E_UNMAPPED);
    int local = 0;
    (void)argv, (void)environ_of_main;
#ifndef EMULATED /* qemu gives its own mappings as the thread's, and does not say that this is a stack */
    ASK(&local);
    CHECK(answer == ALLOC_OK && is_allocator("stack") && info.mapping_kind == ALLOC_MAPPING_MAIN_STACK);
    ASK(argv[0]);
    CHECK(info.mapping_kind == ALLOC_MAPPING_MAIN_STACK);
    ASK(environ_of_main);
    CHECK(info.mapping_kind == ALLOC_MAPPING_MAIN_STACK);
#endif
    pthread_t thread;
    pthread_create(&thread, NULL, on_a_stack, NULL);
    pthread_join(thread, NULL);
    ASK(NULL);
    CHECK(answer == ALLOC_E_UNMAPPED);
    ASK((void *)-4096);
    CHECK(answer == ALLOC_E_UNMAPPED);
    CHECK(alloc_get_info(&local, NULL) == ALLOC_E_INVALID);
}

static int count(const struct alloc_chunk *chunk, void *argument) {
    (void)chunk;
    return ++*(int *)argument == 12 ? 12 : 0;
}

NOINLINE static void nested(void) {
    const struct allocator *pool = alloc_register_allocator("pool");
    char *chunk = malloc(4096);
    CHECK(pool && alloc_announce(pool, chunk + 100, 50) == ALLOC_OK);
    CHECK(alloc_announce(pool, chunk + 200, 60) == ALLOC_OK);
    CHECK(alloc_announce(NULL, chunk + 300, 60) == ALLOC_E_INVALID);
    ASK(chunk + 149);
    CHECK(answer == ALLOC_OK && info.allocator == pool && info.base == chunk + 100 && info.size == 50);
    CHECK(is_made_in("nested") && info.chunk_base == chunk && info.chunk_size == 4096);
    ASK(chunk + 150);
    CHECK(answer == ALLOC_OK && is_allocator("malloc") && info.base == chunk);
    int seen = 0;
    struct alloc_range range = {.allocator = pool};
    CHECK(alloc_walk(&range, count, &seen) == 0 && seen == 2);
    seen = 0;
    range = (struct alloc_range){.begin = chunk, .end = chunk + 150};
    CHECK(alloc_walk(&range, count, &seen) == 0 && seen == 2);
    CHECK(alloc_retract(pool, chunk + 100) == ALLOC_OK && alloc_retract(pool, chunk + 100) == ALLOC_E_INVALID);
    ASK(chunk + 120);
    CHECK(is_allocator("malloc"));
    free(chunk);
}

int main(int argc, char **argv, char **envp) {
    (void)argc;
    if (!alloc_get_info) {
        puts("nothing can be asked");
        return 0;
    }
    heap();
    objects();
    libraries();
    mappings(argv, envp);
    nested();
    puts("all answers are right");
    return 0;
}
