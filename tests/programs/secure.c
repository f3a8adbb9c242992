// Says whether it runs with more rights than its caller, as the kernel tells it.

#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

int main(void) {
    free(malloc(10007));
    printf("secure: %lu\n", getauxval(AT_SECURE));
    return 0;
}
