/* Questions about memory: which allocation does this address lie in, how large is it, where was it
 * made?
 *
 * Every function is weak here. A program that includes this header needs no library at link time and
 * runs unchanged without the runtime; the answer is then "not available". With the runtime (a program
 * that allocs-rewrite has rewritten, or LD_PRELOAD) the answers cover every allocation of the malloc
 * family since the first one.
 *
 * All functions may be called by any thread at any time, in signal handlers too. None allocates, and
 * none but alloc_register_allocator, alloc_announce and alloc_retract changes anything. What they say
 * about memory that another thread is just giving back is what was true at some moment during the call.
 *
 * Strings and structures that an answer points to are valid for as long as the object (library) that
 * they tell about stays loaded; those of allocators for as long as the process lives. */
#ifndef ALLOCS_H
#define ALLOCS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whoever hands out memory: "malloc" (what the loader finds), the name of an allocator in the executable itself,
 * "mmap", "stack", "static", or a name that the program registered. */
struct allocator {
    const char *name;
};

/* Why there is no answer. */
enum alloc_error {
    ALLOC_OK = 0,
    ALLOC_E_NOT_AVAILABLE = 1, /* the runtime is not in this process */
    ALLOC_E_UNMAPPED = 2,      /* nothing is mapped at this address */
    ALLOC_E_FREE = 3,          /* an allocator's own memory, in no live allocation of it: free, or its bookkeeping */
    ALLOC_E_UNKNOWN = 4,       /* mapped, by whom is not known */
    ALLOC_E_INVALID = 5        /* an argument means nothing: unknown allocator, unknown format, null */
};

/* What kind of mapping an address lies in. */
enum alloc_mapping_kind {
    ALLOC_MAPPING_OTHER = 0,     /* anonymous, or a file that is no loaded object */
    ALLOC_MAPPING_OBJECT = 1,    /* the executable or a library: see file */
    ALLOC_MAPPING_HEAP = 2,      /* an arena of an allocator's: see arena */
    ALLOC_MAPPING_MAIN_STACK = 3, /* with argv, environ and auxv at its end */
    ALLOC_MAPPING_THREAD_STACK = 4,
    ALLOC_MAPPING_KERNEL = 5     /* vdso, vvar, vsyscall */
};

/* A place in code or data: an object and what is in it. Members that are not known are null or 0. */
struct alloc_place {
    const char *file;      /* path of the object that was loaded */
    uintptr_t load_base;   /* what is added to the addresses in the file */
    const char *symbol;    /* name of the function or object that contains the address */
    uintptr_t symbol_base; /* where it begins */
    size_t symbol_size;    /* its size in bytes; 0 if the file does not say */
};

/* Everything about one address, from the allocation that it lies in up to the mapping. */
struct alloc_info {
    /* The allocation: the innermost one that contains the address. */
    const struct allocator *allocator;
    void *base;
    size_t size;        /* bytes that were asked for */
    size_t usable_size; /* bytes that the program may use, from base on */
    const void *site;   /* return address of the call that made it, outside of facades; null if unknown */
    struct alloc_place site_place;

    /* The malloc chunk that a nested allocation (of a registered allocator) lies in, else as above; null
     * if it lies in none. */
    void *chunk_base;
    size_t chunk_size;

    /* The arena of an allocator; null if the address is not in one. */
    void *arena_base;
    void *arena_limit;

    /* The object whose segments contain the address. file.file is null if none does. */
    struct alloc_place file;
    const unsigned char *build_id; /* of that object; null if it has none */
    size_t build_id_size;
    int segment;         /* index of its program header; -1 if there is none */
    const char *section; /* name of the section; null if the file has no section headers */

    /* The mapping. */
    enum alloc_mapping_kind mapping_kind;
    void *mapping_base;
    void *mapping_limit;
    int mapping_protection; /* PROT_READ and so on, of sys/mman.h */
    const void *mapping_site; /* return address of the call of mmap, if the runtime saw it */
};

/* Fills `info` in for the allocation that contains `address`. Returns ALLOC_OK, or why there is no
 * allocation; the members about arena, file and mapping are filled in even then, as far as they are known. */
enum alloc_error alloc_get_info(const void *address, struct alloc_info *info) __attribute__((weak));

/* One member of that each; null or 0 if there is no allocation. */
void *alloc_get_base(const void *address) __attribute__((weak));
void *alloc_get_limit(const void *address) __attribute__((weak)); /* base + size */
size_t alloc_get_size(const void *address) __attribute__((weak));
const void *alloc_get_site(const void *address) __attribute__((weak));
const struct allocator *alloc_get_allocator(const void *address) __attribute__((weak));

/* What contains a code or data address: for the site of an allocation, say. */
enum alloc_error alloc_get_place(const void *address, struct alloc_place *place) __attribute__((weak));

/* The return addresses of the stack that made the allocation, innermost first: as many as were recorded
 * (ALLOCS_STACK=N), but not more than `most`. Returns how many. */
size_t alloc_get_stack(const void *address, const void **frames, size_t most) __attribute__((weak));

/* One live allocation, for alloc_walk. */
struct alloc_chunk {
    void *base;
    size_t size;
    size_t usable_size;
    const void *site;
    const struct allocator *allocator;
};

/* Which allocations to walk over. Members that are null do not restrict. */
struct alloc_range {
    const void *begin;
    const void *end;
    const struct allocator *allocator;
};

/* Calls `callback` for every live allocation in `range` (null: all) until it returns something else than 0,
 * and returns that, or 0. Other threads may go on allocating, and the callback may allocate and free: what
 * lives during the whole walk is reported once, what comes or goes meanwhile once or not at all. */
int alloc_walk(const struct alloc_range *range,
               int (*callback)(const struct alloc_chunk *chunk, void *argument),
               void *argument) __attribute__((weak));

/* For allocators of the program's own, such as pools: registers one by a name (kept by reference), and says
 * which allocations it makes and takes back inside memory that it has got elsewhere. alloc_announce takes the
 * caller's return address for the site. Null, or an error, if the runtime has no memory left for it. */
const struct allocator *alloc_register_allocator(const char *name) __attribute__((weak));
enum alloc_error alloc_announce(const struct allocator *allocator, void *base, size_t size) __attribute__((weak));
enum alloc_error alloc_retract(const struct allocator *allocator, void *base) __attribute__((weak));

/* Writes a census by site to the file descriptor. Formats: "txt", "json", "pb", "pb.gz". */
enum alloc_error alloc_report(int fd, const char *format) __attribute__((weak));

#ifdef __cplusplus
}
#endif

#endif
