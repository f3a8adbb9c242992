/* Allocates in many ways and prints the function that the runtime takes for the one that did it. */

#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "allocs.h"

/* Every function has a frame of its own, with its name. */
#define FUNCTION __attribute__((noinline))
#define HAS_RETURNED __asm__ volatile("" ::: "memory")
/* And these have none. */
#define INSIDE inline __attribute__((always_inline))

static const char *function_at(const void *address) {
    Dl_info info;
    return address && dladdr((char *)address - 1, &info) && info.dli_sname ? info.dli_sname : "?";
}

static void print(const char *how, const void *chunk) {
    const void *frames[64];
    size_t count = alloc_get_stack ? alloc_get_stack(chunk, frames, 64) : 0;
    printf("%s:", how);
    for (size_t at = 0; at < count; at++) {
        const char *name = function_at(frames[at]);
        printf(" %s", name);
        if (!strcmp(name, "main"))
            break;
    }
    puts("");
}

/* Facades: known by name, static ones too; with and without a frame that moves. */
static FUNCTION void *xmalloc(size_t size) {
    void *chunk = malloc(size);
    if (!chunk)
        abort();
    return chunk;
}

static FUNCTION void *xcalloc(size_t count, size_t size) {
    volatile char *space = alloca(count * 16);
    space[0] = 0;
    void *chunk = calloc(count, size);
    HAS_RETURNED;
    return chunk;
}

/* Outermost of three. */
static FUNCTION void *xmemdup(const void *from, size_t size) {
    void *chunk = memcpy(xmalloc(size), from, size);
    HAS_RETURNED;
    return chunk;
}

/* None by name, unless the user says so. */
FUNCTION void *make_node(size_t size) {
    void *chunk = malloc(size);
    HAS_RETURNED;
    return chunk;
}

#define BY(name, call)                                                                                                 \
    FUNCTION void *by_##name(void) {                                                                                   \
        void *chunk = call;                                                                                            \
        HAS_RETURNED;                                                                                                  \
        return chunk;                                                                                                  \
    }

static INSIDE char *line(void) {
    static char text[] = "a line\n";
    FILE *stream = fmemopen(text, sizeof text - 1, "r");
    char *line = NULL;
    size_t size = 0;
    if (!stream || getline(&line, &size, stream) < 0)
        abort();
    fclose(stream);
    return line;
}

static INSIDE char *formatted(void) {
    char *text = NULL;
    return asprintf(&text, "%0*d", 300, 7) < 0 ? NULL : text;
}

static INSIDE void *aligned(void) {
    void *chunk = NULL;
    return posix_memalign(&chunk, 64, 100) ? NULL : chunk;
}

BY(malloc, malloc(100))
BY(calloc, calloc(10, 10))
BY(realloc, realloc(malloc(10), 1000))
BY(posix_memalign, aligned())
BY(strdup, strdup("some text"))
BY(asprintf, formatted())
BY(getline, line())
BY(realpath, realpath("/", NULL))
BY(fopen, fopen("/dev/null", "r"))
BY(xmalloc, xmalloc(100))
BY(xcalloc, xcalloc(10, 10))
BY(xmemdup, xmemdup("text", 5))
BY(make_node, make_node(100))

#define SHOW(name) print(#name, by_##name())

int main(void) {
    SHOW(malloc);
    SHOW(calloc);
    SHOW(realloc);
    SHOW(posix_memalign);
    SHOW(strdup);
    SHOW(asprintf);
    SHOW(getline);
    SHOW(realpath);
    SHOW(fopen);
    SHOW(xmalloc);
    SHOW(xcalloc);
    SHOW(xmemdup);
    SHOW(make_node);
    return 0;
}
