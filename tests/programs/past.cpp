// An allocator of the program's own that gives chunks back to itself past free and operator delete, and writes over all of
// them: what their records said is lost. So does PartitionAlloc. One size of chunks, in one list.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

constexpr std::size_t most = 128; // with room for a record
alignas(16) static char memory[1 << 16], *next = memory;
static void *list;

static void *get(std::size_t size) {
    if (size > most) std::abort();
    void *chunk = list;
    if (chunk != nullptr) {
        std::memcpy(&list, chunk, sizeof list);
    } else {
        chunk = next;
        if ((next += most) > memory + sizeof memory) std::abort();
    }
    return chunk;
}

static void put(void *chunk) {
    if (chunk == nullptr) return;
    std::memcpy(chunk, &list, sizeof list);
    list = chunk;
}

// libc's own chunks (stdio's buffer) come from here, too.
extern "C" {
void *malloc(std::size_t size) { return size > most ? nullptr : get(size); }
void free(void *chunk) { put(chunk); }
void *calloc(std::size_t count, std::size_t size) {
    void *chunk = malloc(count * size);
    return chunk == nullptr ? nullptr : std::memset(chunk, 0, count * size);
}
void *realloc(void *chunk, std::size_t size) {
    if (size > most) return nullptr;
    return chunk == nullptr ? malloc(size) : chunk;
}
std::size_t malloc_usable_size(void *chunk) { return chunk == nullptr ? 0 : most; }
}
__attribute__((noinline)) void *operator new(std::size_t size) { return get(size); }
void operator delete(void *chunk) noexcept { put(chunk); }
void operator delete(void *chunk, std::size_t) noexcept { put(chunk); }

int main() {
    for (int i = 0; i < 1000; i++) {
        auto chunk = static_cast<char *>(::operator new(100));
        std::memset(chunk, i % 2 == 0 ? 0 : 0xff, most); // past, and over its record
        put(chunk);
    }
    return 0;
}
