// Calls an allocator of the same file, for which GCC does not align the stack: no callee that it sees needs that.
// With an argument it says how far from a multiple of 16 the stack was at the entry of malloc and of operator new; 8 is
// aligned.

#include <cstddef>
#include <cstdio>
#include <cstdlib>

static char heap[1 << 16] __attribute__((aligned(16)));
static char *next = heap;
static unsigned long stacks[2];
static volatile long freed;

static void *take(std::size_t size) {
    if (size > (std::size_t)(heap + sizeof heap - next))
        return nullptr;
    char *chunk = next;
    next += (size + 15) & ~(std::size_t)15;
    return chunk;
}

extern "C" void *malloc(std::size_t size) {
    asm volatile("mov %%rsp, %0" : "=m"(stacks[0]));
    return take(size);
}

extern "C" void free(void *chunk) {
    if (chunk)
        freed = freed + 1;
}

void *operator new(std::size_t size) {
    asm volatile("mov %%rsp, %0" : "=m"(stacks[1]));
    return take(size);
}

void operator delete(void *chunk) noexcept {
    if (chunk)
        freed = freed + 2;
}
void operator delete(void *chunk, std::size_t) noexcept {
    if (chunk)
        freed = freed + 3;
}

__attribute__((noinline)) static long ask() {
    void *volatile chunk = malloc(5);
    void *volatile other = operator new(6);
    long distance = (char *)other - (char *)chunk;
    operator delete(other);
    free(chunk);
    return distance;
}

int main(int argc, char **) {
    long distance = ask();
    unsigned long asked[] = {stacks[0] & 15, stacks[1] & 15};
    if (argc > 1)
        std::printf("%lu %lu\n", asked[0], asked[1]);
    else
        std::printf("%d %ld\n", distance > 0, freed);
    return 0;
}
