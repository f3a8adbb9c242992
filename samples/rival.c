// A rival: a library with DF_1_INITFIRST, as libpthread.so.0 was in every threaded program up to
// glibc 2.33. The loader runs the constructor of the last such library before the preinit array of
// the program, so a runtime that starts from the preinit array alone comes after it.
//
//# library: librival.c -Wl,-z,initfirst
//# constructors: malloc 1 calls 10039 bytes

#include <stdio.h>
#include <stdlib.h>

extern char *rival_block;

int main(void) {
    printf("%c%c\n", rival_block[0], rival_block[10038]);
    free(rival_block);
    return 0;
}
