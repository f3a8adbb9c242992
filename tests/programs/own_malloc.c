// A small allocator that a program brings along, as those that are linked into an executable do. Its functions call
// each other by the names that the program calls them by: its first call asks itself for memory, calloc and realloc
// call malloc, realloc calls free. They are called `own_malloc` and so on here; a test makes functions of the
// usual names, or others, that lead to the runtime and from there to these.
//
// A chunk has its capacity and what was asked for in the 16 bytes in front of it. What is freed that was not made
// here is counted (`own_strangers`) and left alone.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#ifndef PUBLIC
#define PUBLIC(name) name
#endif

enum { BINS = 48, PIECE = 1 << 20 };

struct header {
    uint32_t mark, bin;
    uint32_t distance; // of the chunk from the beginning of its block
    uint32_t unused;
};
enum { LIVE = 0x6c697665, GONE = 0x676f6e65 };

// A block begins with its sizes.
struct block {
    struct block *next;
    size_t asked;
};

void *PUBLIC(malloc)(size_t size);
void PUBLIC(free)(void *chunk);
void *PUBLIC(realloc)(void *chunk, size_t size);
void *PUBLIC(memalign)(size_t alignment, size_t size);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *bins[BINS];
static char *piece, *piece_end;
static void *first;
static atomic_bool begun;
_Atomic long own_strangers;

static void *take(size_t size) {
    if (size >= PIECE) {
        void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return memory == MAP_FAILED ? NULL : memory;
    }
    if ((size_t)(piece_end - piece) < size) {
        void *memory = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return NULL;
        piece = memory;
        piece_end = piece + PIECE;
    }
    void *taken = piece;
    piece += size;
    return taken;
}

static void *make(size_t alignment, size_t size) {
    // An allocator that has to be initialised asks itself for what it needs.
    if (!atomic_exchange(&begun, true)) first = PUBLIC(malloc)(100);
    size_t room = sizeof(struct block) + sizeof(struct header) + (alignment > 16 ? alignment : 0);
    if (size > SIZE_MAX / 4) {
        errno = ENOMEM;
        return NULL;
    }
    uint32_t bin = 5;
    while (((size_t)1 << bin) < size + room) bin++;
    pthread_mutex_lock(&lock);
    struct block *block = bins[bin];
    if (block != NULL) bins[bin] = block->next;
    else block = take((size_t)1 << bin);
    pthread_mutex_unlock(&lock);
    if (block == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    block->asked = size;
    uintptr_t chunk = (uintptr_t)block + sizeof *block + sizeof(struct header);
    if (alignment > 16) chunk = (chunk + alignment - 1) & -alignment;
    *((struct header *)chunk - 1) = (struct header){LIVE, bin, (uint32_t)(chunk - (uintptr_t)block), 0};
    return (void *)chunk;
}

static struct block *block_of(void *chunk) {
    return (struct block *)((char *)chunk - ((struct header *)chunk - 1)->distance);
}

// How large a chunk is.
size_t own_malloc_usable_size(void *chunk) {
    if (chunk == NULL) return 0;
    struct header *header = (struct header *)chunk - 1;
    return ((size_t)1 << header->bin) - header->distance;
}

static size_t asked(void *chunk) { return chunk == NULL ? 0 : block_of(chunk)->asked; }

void *own_malloc(size_t size) { return make(16, size); }

void own_free(void *chunk) {
    if (chunk == NULL) return;
    struct header *header = (struct header *)chunk - 1;
    if (header->mark != LIVE) {
        own_strangers++;
        return;
    }
    header->mark = GONE;
    uint32_t bin = header->bin;
    struct block *block = block_of(chunk);
    pthread_mutex_lock(&lock);
    block->next = bins[bin];
    bins[bin] = block;
    pthread_mutex_unlock(&lock);
}

// As a free of which the compiler has found out that it is the same.
void own_cfree(void *chunk) { PUBLIC(free)(chunk); }

// Looks for the end of the chunk where the size says that it is, as sized deallocation may.
void own_free_sized(void *chunk, size_t size) {
    if (chunk != NULL && asked(chunk) != size) __builtin_trap();
    own_free(chunk);
}

void *own_calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    void *chunk = PUBLIC(malloc)(bytes);
    return chunk == NULL ? NULL : memset(chunk, 0, bytes);
}

void *own_realloc(void *chunk, size_t size) {
    if (chunk == NULL) return PUBLIC(malloc)(size);
    if (size == 0) {
        PUBLIC(free)(chunk);
        return NULL;
    }
    size_t before = own_malloc_usable_size(chunk);
    if (size <= before && size > before / 4) {
        block_of(chunk)->asked = size;
        return chunk;
    }
    void *larger = PUBLIC(malloc)(size);
    if (larger == NULL) return NULL;
    memcpy(larger, chunk, before < size ? before : size);
    PUBLIC(free)(chunk);
    return larger;
}

void *own_reallocarray(void *chunk, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return PUBLIC(realloc)(chunk, bytes);
}

void *own_memalign(size_t alignment, size_t size) { return make(alignment, size); }
void *own_aligned_alloc(size_t alignment, size_t size) { return PUBLIC(memalign)(alignment, size); }
void *own_valloc(size_t size) { return PUBLIC(memalign)(4096, size); }
void *own_pvalloc(size_t size) { return PUBLIC(memalign)(4096, (size + 4095) & -4096); }
int own_posix_memalign(void **chunk, size_t alignment, size_t size) {
    void *made = PUBLIC(memalign)(alignment, size);
    if (made == NULL) return ENOMEM;
    *chunk = made;
    return 0;
}
