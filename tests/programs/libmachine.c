// The library of machine.c: data that the program may have a copy of, and a constructor that allocates.

#include <stdlib.h>

int library_number = 3;
static int *kept;

__attribute__((constructor)) static void construct(void) {
    kept = malloc(sizeof *kept);
    *kept = 10;
}

int library_call(int number) { return *kept + number; }
