// As combination.c, for C++: exceptions, run-time type information, statics, operator new.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

struct Base {
    virtual ~Base() = default;
    virtual int answer() const { return 1; }
};
struct Derived : Base {
    int answer() const override { return 42; }
};

static std::vector<std::string> words{"one", "two", std::string(500, 'x')};
static thread_local std::string own = "thread";

int main(int, char **argv) {
    const Base &base = Derived();
    std::size_t length = 0;
    for (const auto &word : words) length += word.size();
    try {
        throw std::runtime_error(own + " error");
    } catch (const std::exception &error) {
        std::printf("%s; %zu; %d; %d\n", error.what(), length, base.answer(), dynamic_cast<const Derived *>(&base) != nullptr);
    }
    return argv[1] ? 3 : 4;
}
