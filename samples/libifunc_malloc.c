// The library of ifunc_malloc.c: its IFUNC resolver allocates. Resolvers run while the loader is
// still relocating, which is before any constructor and before anything that a preinit array can do.

#include <stdlib.h>

static int plain(int x) { return x + 1; }

static void *resolver_block;

static int (*resolve(void))(int) {
    if (resolver_block == NULL)
        resolver_block = malloc(10037);
    return plain;
}

int picked(int) __attribute__((ifunc("resolve")));

int call_picked(int x) { return picked(x); }

// A function, not the variable itself: a COPY relocation of the program would reset that.
void *take_resolver_block(void) { return resolver_block; }
