// Loads a library that has an allocator of its own, out of sight: with RTLD_DEEPBIND, or in a namespace of its own.
// Its chunks are nobody's that is known; those of the program are known as ever, and all that are.
//
//     namespaces LIBRARY deepbind|dlmopen
#define _GNU_SOURCE
#include "index.h"

#include <dlfcn.h>

enum { COUNT = 1000, ROUNDS = 30 };

static struct {
    void *own, *plugins;
    size_t size;
    int seen;
} chunks[COUNT];

static ALLOCATING void *make(size_t size) { return malloc(size); }

static int reported(const struct alloc_chunk *chunk, void *argument) {
    (void)argument;
    for (int i = 0; i < COUNT; i++) {
        if (chunks[i].plugins == chunk->base) wrong("%p is the library's", chunk->base);
        if (chunks[i].own == chunk->base) {
            if (chunk->size != chunks[i].size) wrong("%p: %zu bytes", chunk->base, chunk->size);
            chunks[i].seen++;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    bool apart = strcmp(argv[2], "dlmopen") == 0;
    void *library = apart ? dlmopen(LM_ID_NEWLM, argv[1], RTLD_NOW) : dlopen(argv[1], RTLD_NOW | RTLD_DEEPBIND);
    if (library == NULL) wrong("%s", dlerror());
    void *(*plugin_make)(size_t);
    void (*plugin_give)(void *);
    *(void **)&plugin_make = dlsym(library, "plugin_make");
    *(void **)&plugin_give = dlsym(library, "plugin_give");
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = round % 3; i < COUNT; i += 3) {
            free(chunks[i].own);
            if (chunks[i].plugins != NULL) plugin_give(chunks[i].plugins);
            chunks[i].size = 1 + (size_t)(i * round) * 31 % 30000;
            chunks[i].own = make(chunks[i].size);
            chunks[i].plugins = plugin_make(chunks[i].size);
            if (chunks[i].own == NULL || chunks[i].plugins == NULL) wrong("no memory");
            if (!indexed()) continue;
            const struct allocator *allocator = alloc_get_allocator(chunks[i].plugins);
            if (allocator != NULL && strcmp(allocator->name, "malloc") == 0) wrong("%p is the program's", chunks[i].plugins);
            const char *last = (char *)chunks[i].own + chunks[i].size - 1;
            if (alloc_get_base(last) != chunks[i].own || alloc_get_size(last) != chunks[i].size) wrong("%p is not known", chunks[i].own);
            if (!made_here(alloc_get_site(last))) wrong("%p: made at %p", chunks[i].own, alloc_get_site(last));
            answers++;
        }
        if (!indexed()) continue;
        alloc_walk(NULL, reported, NULL);
        for (int i = 0; i < COUNT; i++) {
            if (chunks[i].seen != (chunks[i].own != NULL)) wrong("%p is reported %d times", chunks[i].own, chunks[i].seen);
            chunks[i].seen = 0;
        }
    }
    puts("done");
    report_answers();
    return 0;
}
