// A program built with AddressSanitizer, which brings its own allocator and a preinit entry of its
// own. Its checks must still see the program's allocations: with an argument, this one reads freed
// memory on purpose.
//
// The sanitizer's runtime is linked into the program, as clang does by itself. gcc's shared libasan
// insists on being the first library, so nothing else can be.
//
//# flags: -fsanitize=address -g
//# flags-gcc: -static-libasan

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Called through a pointer that the compiler cannot follow, or it would warn of what comes.
static void (*volatile release)(void *) = free;

int main(int argc, char **argv) {
    (void)argv;
    unsigned long sum = 0;
    for (int i = 1; i < 500; i++) {
        char *block = malloc((size_t)i);
        memset(block, i % 128, (size_t)i);
        block = realloc(block, (size_t)(2 * i));
        sum += (unsigned char)block[i - 1];
        free(block);
    }
    printf("sum %lu\n", sum);
    if (argc > 1) {
        char *volatile gone = malloc(100);
        release(gone);
        return gone[50];
    }
    return 0;
}
