// Gives back with their size what aligned operator new has made, among chunks of malloc's: an allocator that takes the
// program's word for the size would hand out the memory of others if it were another than it was asked for.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

struct Chunk {
    unsigned char *base;
    std::size_t size, alignment;
    bool aligned;
};
static Chunk chunks[4000];
static std::uint64_t state = 88172645463325252u;

static std::uint64_t next_random() {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void make(Chunk &chunk, unsigned char fill) {
    chunk.aligned = next_random() % 2 == 0;
    chunk.alignment = std::size_t(32) << next_random() % 4;
    chunk.size = (1 + next_random() % 50) * chunk.alignment;
    chunk.base = static_cast<unsigned char *>(
        chunk.aligned ? ::operator new(chunk.size, std::align_val_t{chunk.alignment}) : std::malloc(chunk.size));
    std::memset(chunk.base, fill, chunk.size);
}

static bool release(Chunk &chunk, unsigned char fill) {
    for (std::size_t at = 0; at < chunk.size; at += 31)
        if (chunk.base[at] != fill) return false;
    if (chunk.aligned) ::operator delete(chunk.base, chunk.size, std::align_val_t{chunk.alignment});
    else std::free(chunk.base);
    chunk.base = nullptr;
    return true;
}

int main() {
    for (long count = 0; count < 300000; count++) {
        auto i = next_random() % 4000;
        auto fill = static_cast<unsigned char>(i);
        if (chunks[i].base == nullptr) make(chunks[i], fill);
        else if (!release(chunks[i], fill)) {
            std::printf("%p was overwritten\n", static_cast<void *>(chunks[i].base));
            return 1;
        }
    }
    std::puts("done");
    return 0;
}
