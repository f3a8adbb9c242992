// What programs that ask the index share. The functions of allocs.h are weak: without the runtime every
// question here has no answer, and the program prints what it prints with it. How many answers were right
// goes to the file that the variable ANSWERS names, so that a test can tell that there were any.
#pragma once
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>

#include "allocs.h"

// Functions that make the chunks that are looked for. libc's own chunks may have the program's code as their
// site, too: what a thread needs is made for whoever creates it.
#define ALLOCATING __attribute__((noinline, section("allocating")))
extern const char __start_allocating[], __stop_allocating[];

static _Atomic unsigned long answers;

// Says what is wrong and ends the process, in a signal handler as well.
__attribute__((noreturn, unused, format(printf, 1, 2))) static void wrong(const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)length) < 0) _exit(98);
    _exit(99);
}

// Whether the runtime is there.
static inline bool indexed(void) { return alloc_get_info != NULL; }

// Whether one of the functions that make chunks made this one.
__attribute__((unused)) static bool made_here(const void *site) {
    return (const char *)site >= __start_allocating && (const char *)site <= __stop_allocating;
}

// The chunk at `base` is live: an address in it, `offset` bytes from its beginning, says so. Everything that is
// known about an address takes much longer than its chunk alone, and is asked for now and then.
__attribute__((unused)) static void expect_live(const void *base, size_t size, size_t usable, size_t offset) {
    if (!indexed()) return;
    const char *address = (const char *)base + offset;
    void *found = alloc_get_base(address);
    size_t found_size = alloc_get_size(address);
    if (found != base || found_size != size)
        wrong("%p + %zu: base %p, size %zu of %zu", base, offset, found, found_size, size);
    if (atomic_fetch_add_explicit(&answers, 1, memory_order_relaxed) % 64 != 0) return;
    struct alloc_info info;
    enum alloc_error error = alloc_get_info(address, &info);
    if (error != ALLOC_OK || info.base != base || info.size != size || info.usable_size != usable)
        wrong("%p + %zu: error %d, base %p, size %zu of %zu, usable %zu of %zu", base, offset, (int)error,
              error ? NULL : info.base, error ? 0 : info.size, size, error ? 0 : info.usable_size, usable);
}

// The chunk at `base` is gone: nothing begins there now that was made here.
__attribute__((unused)) static void expect_gone(const void *base) {
    if (!indexed()) return;
    atomic_fetch_add_explicit(&answers, 1, memory_order_relaxed);
    if (alloc_get_base(base) != base) return;
    struct alloc_info info;
    enum alloc_error error = alloc_get_info(base, &info);
    bool another = error == ALLOC_OK && info.base != base;
    bool of_others = error == ALLOC_OK && !made_here(info.site);
    if (error != ALLOC_E_FREE && error != ALLOC_E_UNMAPPED && error != ALLOC_E_UNKNOWN && !another && !of_others)
        wrong("%p was freed: error %d, site %p", base, (int)error, error ? NULL : info.site);
}

// Tells the test how many answers there were. By hand: a program may do this in an exit handler.
__attribute__((unused)) static void report_answers(void) {
    const char *path = getenv("ANSWERS");
    int fd = path == NULL ? -1 : open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) return;
    char text[32];
    int length = snprintf(text, sizeof text, "%lu\n", atomic_load(&answers));
    if (write(fd, text, (size_t)length) != length) wrong("cannot write %s", path);
    close(fd);
}

// Pseudo-random numbers (xorshift64*), one state a thread: a run can be repeated by its seed.
__attribute__((unused)) static uint64_t next_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1d;
}
