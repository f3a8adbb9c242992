// A program built with AddressSanitizer, which brings its own allocator and a preinit entry of its
// own (`__asan_init`, as the static runtime does it) or insists on being the first library (as the
// shared runtime does). Its checks must still see the program's allocations: the last one here
// reads freed memory on purpose when it is given an argument.
//
//# flags: -fsanitize=address -g

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
