/* What questions cost: prints nanoseconds for an address inside of chunks of some sizes and for others, and
 * milliseconds for a walk over ten million chunks and for a report about them. */
#include "allocs.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CHUNKS = 64, QUESTIONS = 3000000, SLOW_QUESTIONS = 2000, MANY = 10000000 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void inside(size_t size, int count) {
    char *chunks[CHUNKS];
    for (int i = 0; i < count; i++) chunks[i] = malloc(size);
    unsigned random = 1;
    size_t sum = 0;
    double start = now();
    for (long i = 0; i < QUESTIONS; i++) {
        random = random * 1103515245u + 12345u;
        size_t offset = (size_t)random * 2654435761u % size;
        sum += alloc_get_size(chunks[(random >> 20) % (unsigned)count] + offset);
    }
    double end = now();
    if (sum != (size_t)QUESTIONS * size) exit(1);
    printf("| inside of a chunk of %zu bytes | %.0f ns |\n", size, (end - start) / QUESTIONS);
    for (int i = 0; i < count; i++) free(chunks[i]);
}

static void elsewhere(const char *what, const void *address) {
    double start = now();
    for (int i = 0; i < SLOW_QUESTIONS; i++) alloc_get_base(address);
    printf("| %s | %.1f us |\n", what, (now() - start) / SLOW_QUESTIONS / 1e3);
}

static int add(const struct alloc_chunk *chunk, void *sum) {
    *(size_t *)sum += chunk->size;
    return 0;
}

int main(void) {
    inside(64, CHUNKS);
    inside(4096, CHUNKS);
    inside(1 << 20, CHUNKS);
    inside(64 << 20, 2);
    inside(1 << 30, 2);
    int local = 0;
    elsewhere("of the stack", &local);
    elsewhere("where nothing is mapped", (void *)0x1234567000);
    char *chunk = malloc(100);
    struct alloc_info info;
    double start = now();
    for (int i = 0; i < SLOW_QUESTIONS; i++) alloc_get_info(chunk, &info);
    printf("| all about a chunk: alloc_get_info | %.1f us |\n", (now() - start) / SLOW_QUESTIONS / 1e3);
    for (int i = 0; i < MANY; i++)
        if (!malloc(24)) return 1;
    size_t sum = 0;
    start = now();
    alloc_walk(NULL, add, &sum);
    printf("| walk over 10,000,000 chunks | %.0f ms |\n", (now() - start) / 1e6);
    FILE *nowhere = fopen("/dev/null", "w");
    start = now();
    if (!nowhere || alloc_report(fileno(nowhere), "json") != ALLOC_OK) return 1;
    printf("| report about them | %.0f ms |\n", (now() - start) / 1e6);
    return 0;
}
