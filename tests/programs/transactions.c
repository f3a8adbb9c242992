// Transactions, and what they allocate: libitm defines what the start files refer to.
#include <stdio.h>
#include <stdlib.h>

static long count;

static void add(void) { count++; }

int main(void) {
    void *block;
    for (int i = 0; i < 1000; i++)
        __transaction_atomic { count++; }
    __transaction_atomic {
        block = malloc(12345);
        count++;
    }
    __transaction_relaxed {
        void (*indirect)(void) = add;
        indirect();
    }
    free(block);
    printf("%ld\n", count);
    return 5;
}
