// Operators new and delete of a program's own that begin with a call, of what throws if there is no memory.
#include <cstdlib>
#include <new>

static volatile long calls;

static __attribute__((noinline)) void *obtain(std::size_t size) {
    void *chunk = std::malloc(size);
    if (chunk == nullptr) throw std::bad_alloc();
    return chunk;
}

static __attribute__((noinline)) void *obtain_or_null(std::size_t size) { return std::malloc(size); }

static __attribute__((noinline)) void give_back(void *chunk) noexcept { std::free(chunk); }

static void *counted(void *chunk) {
    calls = calls + 1;
    return chunk;
}

void *operator new(std::size_t size) { return counted(obtain(size)); }
void *operator new[](std::size_t size) { return counted(obtain(size)); }
void *operator new(std::size_t size, const std::nothrow_t &) noexcept { return counted(obtain_or_null(size)); }
void *operator new[](std::size_t size, const std::nothrow_t &) noexcept { return counted(obtain_or_null(size)); }

void operator delete(void *chunk) noexcept {
    give_back(chunk);
    calls = calls + 1;
}
void operator delete[](void *chunk) noexcept {
    give_back(chunk);
    calls = calls + 1;
}
void operator delete(void *chunk, std::size_t) noexcept {
    give_back(chunk);
    calls = calls + 1;
}
void operator delete[](void *chunk, std::size_t) noexcept {
    give_back(chunk);
    calls = calls + 1;
}
void operator delete(void *chunk, const std::nothrow_t &) noexcept {
    give_back(chunk);
    calls = calls + 1;
}
void operator delete[](void *chunk, const std::nothrow_t &) noexcept {
    give_back(chunk);
    calls = calls + 1;
}
