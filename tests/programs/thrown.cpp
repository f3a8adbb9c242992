// What operator new throws arrives where it is caught, as often as it is thrown.
#include <cstdio>
#include <new>

struct Witness {
    ~Witness() { std::puts("unwound"); }
};

static __attribute__((noinline)) void *take(std::size_t size) {
    Witness witness;
    return operator new(size);
}

int main() {
    for (int i = 0; i < 3; i++) {
        try {
            operator delete(take(100));
            std::size_t all = ~std::size_t(0) / 4;
            std::printf("%p\n", take(all + i));
        } catch (const std::bad_alloc &error) {
            std::puts(error.what());
        }
    }
}
