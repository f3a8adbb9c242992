// Allocates as programs in C++ do, and prints the function that the runtime takes for the one that did it.

#include <cstdio>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "allocs.h"

#define FUNCTION extern "C" __attribute__((noinline))
#define HAS_RETURNED __asm__ volatile("" ::: "memory")

static void print(const char *how, const void *chunk) {
    Dl_info info;
    const char *site = static_cast<const char *>(alloc_get_site(chunk));
    std::printf("%s: %s\n", how, site && dladdr(site - 1, &info) && info.dli_sname ? info.dli_sname : "?");
}

static std::string text;
static std::vector<int> numbers;
static std::map<int, std::string> names;
static std::shared_ptr<std::string> shared;

FUNCTION const void *by_new() {
    const void *chunk = new int[100];
    HAS_RETURNED;
    return chunk;
}

FUNCTION const void *by_aligned_new() {
    struct alignas(64) Line {
        char bytes[64];
    };
    const void *chunk = new Line;
    HAS_RETURNED;
    return chunk;
}

FUNCTION const void *by_string() {
    text.append(1000, 'x');
    HAS_RETURNED;
    return text.data();
}

FUNCTION const void *by_vector() {
    for (int number = 0; number < 1000; number++)
        numbers.push_back(number);
    HAS_RETURNED;
    return numbers.data();
}

FUNCTION const void *by_map() {
    const void *name = &names[7];
    HAS_RETURNED;
    return name;
}

FUNCTION const void *by_make_shared() {
    shared = std::make_shared<std::string>("text");
    HAS_RETURNED;
    return shared.get();
}

#define SHOW(name) print(#name, by_##name())

int main() {
    SHOW(new);
    SHOW(aligned_new);
    SHOW(string);
    SHOW(vector);
    SHOW(map);
    SHOW(make_shared);
}
