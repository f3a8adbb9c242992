// The library of other_allocator.c: a whole malloc family of its own, as jemalloc or tcmalloc would
// bring it. It hands out memory of one array and never takes it back.

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static char heap[64 << 20];
static size_t used;

struct header {
    size_t size;
    size_t padding;
};

static void *take(size_t alignment, size_t size) {
    uintptr_t start = (uintptr_t)heap + __atomic_load_n(&used, __ATOMIC_RELAXED);
    uintptr_t chunk = start + sizeof(struct header);
    chunk = (chunk + alignment - 1) / alignment * alignment;
    if (size > sizeof heap || chunk + size > (uintptr_t)heap + sizeof heap) {
        errno = ENOMEM;
        return NULL;
    }
    used = (chunk + size + 15) / 16 * 16 - (uintptr_t)heap;
    ((struct header *)chunk)[-1].size = size;
    return (void *)chunk;
}

int other_allocator_owns(const void *chunk) {
    return (const char *)chunk >= heap && (const char *)chunk < heap + sizeof heap;
}

void *malloc(size_t size) { return take(16, size); }
void free(void *chunk) {
    if (chunk != NULL && !other_allocator_owns(chunk))
        __builtin_trap(); // what the runtime must never bring about
}
void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    void *chunk = take(16, bytes);
    return chunk == NULL ? NULL : memset(chunk, 0, bytes);
}
void *realloc(void *chunk, size_t size) {
    void *moved = take(16, size);
    if (chunk != NULL && moved != NULL) {
        size_t old = ((struct header *)chunk)[-1].size;
        memcpy(moved, chunk, old < size ? old : size);
    }
    return moved;
}
void *memalign(size_t alignment, size_t size) { return take(alignment < 16 ? 16 : alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **chunk, size_t alignment, size_t size) {
    void *memory = memalign(alignment, size);
    if (memory == NULL)
        return ENOMEM;
    *chunk = memory;
    return 0;
}
size_t malloc_usable_size(void *chunk) {
    return chunk == NULL ? 0 : ((struct header *)chunk)[-1].size;
}
