// A runtime for machines that the own one is not built for: its init is an IFUNC where glibc has them, its malloc
// counts, and at exit it says on descriptor 3 (if that is open) whether it came first.

#include <stddef.h>
#include <string.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);

static unsigned long early, calls;
static const char *state = "never";

static void preinit(int argc, char **argv, char **envp) {
    // What a preinit function is called with is the program's own.
    if (argc > 0 && argv[argc] == NULL && (envp == NULL || envp == argv + argc + 1))
        state = "preinit";
}

#ifdef __mips__
void allocs_preinit(int argc, char **argv, char **envp) { preinit(argc, argv, envp); }
#else
static void *resolve(void) {
    state = "relocation";
    return (void *)preinit;
}

void allocs_preinit(int argc, char **argv, char **envp) __attribute__((ifunc("resolve")));
#endif

void *malloc(size_t size) {
    if (state[0] == 'n')
        early++;
    calls++;
    return __libc_malloc(size);
}

static void say(const char *name, unsigned long number) {
    char text[64], *end = text + sizeof text, *at = end;
    *--at = '\n';
    do
        *--at = (char)('0' + number % 10);
    while (number /= 10);
    at -= strlen(name);
    memcpy(at, name, strlen(name));
    (void)!write(3, at, (size_t)(end - at));
}

__attribute__((destructor)) static void report(void) {
    say("early ", early);
    say("called ", calls > 0);
    say("phase ", state[0] == 'p');
}
