// What tests/tests/combinations.rs links in many ways: thread-local and zero-initialised data, constructors,
// symbols that are weak, copied or versioned, and a chunk that outlives main.
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern int absent(void) __attribute__((weak));
static __thread int per_thread = 41;
static __thread char fresh[100];
static char zeros[100000];
static const char *const names[] = {"one", "two", "three"};
static char *early;

__attribute__((constructor)) static void begin(void) { early = strdup("constructor"); }
__attribute__((destructor)) static void end(void) { fputs("destructor\n", stdout); }

#ifdef PREINIT
static int arguments;
static void first(int argc, char **argv, char **envp) { arguments = argc + !argv[0] + !envp; }
static void second(void) { arguments += 100; }
__attribute__((section(".preinit_array"), used)) static void (*const entries[])(void) = {
    (void (*)(void))first, second};
#else
static const int arguments = 101;
#endif

int main(int argc, char **argv) {
    volatile double two = 2;
    char *copy = malloc(12345);
    zeros[sizeof zeros - 1] = (char)argc;
    snprintf(copy, 12345, "%s %s %d %d %d %.3f", names[per_thread % 3], early, ++per_thread, fresh[7],
             zeros[sizeof zeros - 1], pow(two, 0.5));
    printf("%s; %s; %d; %s; %s\n", copy, absent ? "present" : "absent", arguments,
           program_invocation_short_name, environ[0] ? "environment" : "none");
    free(early);
    return argv[1] ? 3 : 4;
}
