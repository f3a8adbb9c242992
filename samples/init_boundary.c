// Memory that crosses the start of the program: a library's constructor allocates, the program's
// own constructor reallocates some of it, `main` frees it, and the library's destructor frees what
// `main` allocated.
//
//# library: libinit_boundary.c
//# constructors: malloc 1000 calls 10007000 bytes

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char *boundary_blocks[];
extern char *boundary_last;
int boundary_count(void);
int boundary_size(void);

__attribute__((constructor)) static void grow(void) {
    for (int i = 0; i < boundary_count(); i += 2) {
        boundary_blocks[i] = realloc(boundary_blocks[i], 2 * boundary_size());
        memset(boundary_blocks[i] + boundary_size(), boundary_blocks[i][0], boundary_size());
    }
    printf("constructor of the program\n");
}

__attribute__((destructor)) static void leave(void) { printf("destructor of the program\n"); }

int main(void) {
    unsigned long sum = 0;
    for (int i = 0; i < boundary_count(); i++) {
        int size = i % 2 == 0 ? 2 * boundary_size() : boundary_size();
        for (int j = 0; j < size; j++)
            sum += boundary_blocks[i][j];
        free(boundary_blocks[i]);
    }
    printf("sum %lu\n", sum);
    boundary_last = strdup("from main");
    return 3;
}
