// The library of rival.c: it asks the loader to run its constructor before all others.

#include <stdlib.h>
#include <string.h>

char *rival_block;

__attribute__((constructor)) static void first_of_all(void) {
    rival_block = malloc(10039);
    memset(rival_block, 'r', 10039);
}
