// The library of init_boundary.c. Its constructor allocates blocks that the program frees, and its
// destructor frees one block that the program allocated. A runtime that came late would be asked to
// free what it never saw.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// 10007 is no size that anything else here asks for, so a report shows whether these were counted.
enum { BLOCKS = 1000, SIZE = 10007 };

char *boundary_blocks[BLOCKS];
char *boundary_last;

__attribute__((constructor)) static void fill(void) {
    for (int i = 0; i < BLOCKS; i++) {
        boundary_blocks[i] = malloc(SIZE);
        memset(boundary_blocks[i], 'a' + i % 26, SIZE);
    }
}

__attribute__((destructor)) static void drain(void) {
    printf("destructor of the library: %s\n", boundary_last);
    free(boundary_last);
}

int boundary_count(void) { return BLOCKS; }
int boundary_size(void) { return SIZE; }
