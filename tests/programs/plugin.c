// A library that is loaded with an allocator of its own, and hands out what it got from it.
#include <stdlib.h>
#include <string.h>

void *plugin_make(size_t size) {
    void *chunk = malloc(size);
    return chunk == NULL ? NULL : memset(chunk, 0x21, size);
}

void plugin_give(void *chunk) { free(chunk); }
