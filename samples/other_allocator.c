// A program that is linked with another allocator than libc's. Whoever hooks malloc must pass each
// call on to that one, from the first call to the last: memory of two heaps would be fatal.
//
//# library: libother_allocator.c -fno-builtin

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int other_allocator_owns(const void *chunk);

static void show(const char *what, void *chunk) {
    printf("%s: %s\n", what, other_allocator_owns(chunk) ? "its heap" : "another heap");
    free(chunk);
}

// Not known to the compiler, which may otherwise leave an allocation out that nobody uses.
static volatile size_t too_large = 1 << 30;

int main(void) {
    show("malloc", malloc(100));
    show("calloc", calloc(10, 10));
    show("realloc", realloc(malloc(10), 10000));
    show("strdup", strdup("text"));
    show("aligned_alloc", aligned_alloc(256, 256));
    void *chunk = NULL;
    printf("posix_memalign: %d\n", posix_memalign(&chunk, 64, 10));
    show("posix_memalign", chunk);
    char *line = NULL;
    size_t size = 0;
    FILE *file = fopen("/proc/self/stat", "r");
    if (file != NULL && getline(&line, &size, file) > 0)
        show("getline", line);
    if (file != NULL)
        fclose(file);
    printf("too large: %s\n", malloc(too_large) == NULL ? "none" : "some");
    return 0;
}
