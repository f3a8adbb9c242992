// Asks every function of the malloc family for what its manual promises and prints the answers in
// words, so that two runs print the same wherever the memory lies. What a function may do either way
// (the address for size 0, say) is compared between runs, not judged.

#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// C23, not in every libc: called if there.
void free_sized(void *, size_t) __attribute__((weak));
void free_aligned_sized(void *, size_t, size_t) __attribute__((weak));

static volatile size_t huge = SIZE_MAX, half = SIZE_MAX / 2;

static const char *word(int error) {
    return error == 0 ? "0" : error == ENOMEM ? "ENOMEM" : error == EINVAL ? "EINVAL" : "another";
}

// Fills all that may be used, to the last byte.
static void use(void *chunk, size_t size) {
    if (chunk == NULL)
        return;
    size_t usable = malloc_usable_size(chunk);
    if (usable < size)
        printf("  usable size %zu is less than %zu\n", usable, size);
    memset(chunk, 0xa5, usable);
}

static void show(const char *what, void *chunk, size_t size, size_t alignment) {
    int error = errno;
    printf("%s: %s, errno %s", what, chunk == NULL ? "none" : "some", word(error));
    if (chunk != NULL)
        printf(", %s", (uintptr_t)chunk % alignment == 0 ? "aligned" : "NOT ALIGNED");
    printf("\n");
    use(chunk, size);
    errno = 0;
    free(chunk);
    if (errno != 0)
        printf("  free changed errno to %s\n", word(errno));
    errno = 0;
}

#define SHOW(call, size, alignment) show(#call, call, size, alignment)

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    errno = 0;
    SHOW(malloc(0), 0, 16);
    SHOW(malloc(1), 1, 16);
    SHOW(malloc(24), 24, 16);
    SHOW(malloc(10002), 10002, 16);
    SHOW(malloc(20000002), 20000002, 16);
    SHOW(malloc(huge), 0, 16);
    SHOW(malloc(half), 0, 16);
    SHOW(malloc(half + 1), 0, 16);
    SHOW(calloc(0, 0), 0, 16);
    SHOW(calloc(0, 5), 0, 16);
    SHOW(calloc(3, 1001), 3003, 16);
    SHOW(calloc(half, 3), 0, 16);
    SHOW(calloc(huge, huge), 0, 16);
    SHOW(calloc(1, half), 0, 16);
    SHOW(memalign(4096, 100), 100, 4096);
    SHOW(memalign(48, 100), 100, 16);
    SHOW(memalign(0, 100), 100, 16);
    SHOW(memalign(huge, 100), 0, 16);
    SHOW(aligned_alloc(64, 128), 128, 64);
    SHOW(aligned_alloc(64, 100), 100, 64);
    SHOW(aligned_alloc(4096, half), 0, 16);
    SHOW(valloc(10), 10, 4096);
    SHOW(valloc(huge), 0, 4096);
    SHOW(pvalloc(10), 4096, 4096);
    SHOW(pvalloc(0), 0, 4096);
    SHOW(pvalloc(huge), 0, 4096);

    // realloc: contents stay, NULL allocates, 0 frees, failure leaves the old chunk alone.
    char *chunk = malloc(100);
    memset(chunk, 'x', 100);
    chunk = realloc(chunk, 100000);
    printf("realloc grows: %d\n", chunk[0] == 'x' && chunk[99] == 'x');
    chunk = realloc(chunk, 50);
    printf("realloc shrinks: %d\n", chunk[49] == 'x');
    chunk = realloc(chunk, 50000000);
    printf("realloc to mapped: %d\n", chunk[49] == 'x');
    use(chunk, 50000000);
    errno = 0;
    printf("realloc too large: %s", realloc(chunk, half + 1) == NULL ? "none" : "some");
    printf(", errno %s, still there: %d\n", word(errno), (unsigned char)chunk[49999999] == 0xa5);
    errno = 0;
    printf("reallocarray overflows: %s", reallocarray(chunk, half, 3) == NULL ? "none" : "some");
    printf(", errno %s, still there: %d\n", word(errno), (unsigned char)chunk[49999999] == 0xa5);
    errno = 0;
    printf("realloc 0: %s\n", realloc(chunk, 0) == NULL ? "none" : "some");
    SHOW(realloc(NULL, 77), 77, 16);
    SHOW(realloc(NULL, 0), 0, 16);
    SHOW(realloc(NULL, huge), 0, 16);
    SHOW(reallocarray(NULL, 7, 11), 77, 16);
    SHOW(reallocarray(NULL, 0, 11), 0, 16);
    SHOW(reallocarray(NULL, huge, 2), 0, 16);

    // posix_memalign: the error is the result, errno and the pointer stay on failure.
    static const size_t alignments[] = {0, 1, 2, 4, 7, 8, 16, 24, 64, 4096, 1 << 20, 3 << 20};
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++) {
        void *old = &chunk, *result = old;
        errno = 0;
        int error = posix_memalign(&result, alignments[i], 1000);
        printf("posix_memalign %zu: %s, errno %s, pointer %s\n", alignments[i], word(error),
               word(errno), result == old ? "left alone" : "set");
        if (error == 0)
            show("  chunk", result, 1000, alignments[i]);
    }
    void *old = &chunk, *result = old;
    int error = posix_memalign(&result, 64, half);
    printf("posix_memalign too large: %s, errno %s, pointer %s\n", word(error), word(errno),
           result == old ? "left alone" : "set");

    errno = EINVAL;
    free(NULL);
    printf("free NULL: errno %s\n", word(errno));
    printf("usable size of NULL: %zu\n", malloc_usable_size(NULL));
    void *mapped = malloc(5000000);
    errno = ENOMEM;
    free(mapped);
    printf("free of a mapped chunk: errno %s\n", word(errno));

    void *sized = malloc(10007);
    free_sized ? free_sized(sized, 10007) : free(sized);
    sized = aligned_alloc(128, 1280);
    free_aligned_sized ? free_aligned_sized(sized, 128, 1280) : free(sized);

    // Many sizes at once: no chunk overlaps another.
    enum { MANY = 3000 };
    static unsigned char *many[MANY];
    int wrong = 0;
    for (int i = 0; i < MANY; i++) {
        many[i] = malloc((size_t)i);
        use(many[i], (size_t)i);
        memset(many[i], i % 251, (size_t)i);
    }
    for (int i = 0; i < MANY; i++) {
        for (int j = 0; j < i; j++)
            wrong += many[i][j] != i % 251;
        free(many[i]);
    }
    printf("overwritten bytes: %d\n", wrong);

    // What libc makes from inside.
    char *text = NULL;
    printf("asprintf: %d\n", asprintf(&text, "%05000d", 1));
    free(text);
    text = getcwd(NULL, 0);
    printf("getcwd: %s\n", text != NULL ? "some" : "none");
    free(text);
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    fprintf(memory, "%03000d", 1);
    fclose(memory);
    printf("open_memstream: %zu\n", size);
    free(text);
    struct mallinfo2 info = mallinfo2();
    printf("mallinfo2: %s\n", info.arena > 0 ? "some" : "none");
    printf("malloc_trim: %d\n", malloc_trim(0) >= 0);
    printf("mallopt: %d\n", mallopt(M_MMAP_THRESHOLD, 1 << 20));
    return 0;
}
