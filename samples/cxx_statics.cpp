// C++ from before `main` to after it: libstdc++'s own constructor allocates its emergency pool for
// exceptions, static objects here allocate in their constructors and free in destructors at exit,
// and in between there are streams, exceptions (one of them thrown while another unwinds), over-
// aligned new and thread_local objects.
//
//# flags: -std=c++17 -pthread
//# constructors: malloc 1 calls 72704 bytes

#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

class Log {
  public:
    explicit Log(const char *name) : name_(name), lines_(100, std::string(50, '.')) {
        std::cout << name_ << " constructed\n";
    }
    ~Log() { std::cout << name_ << " destroyed with " << lines_.size() << " lines\n"; }
    void add(std::string line) { lines_.push_back(std::move(line)); }

  private:
    std::string name_;
    std::vector<std::string> lines_;
};

Log first("the first static object, with a name too long for the small string");
Log second("the second static object, with a name too long for the small string");

thread_local std::map<int, std::string> per_thread;

struct alignas(256) Wide {
    char bytes[256];
};

struct ThrowsInside {
    ~ThrowsInside() {
        try {
            throw std::runtime_error("thrown while unwinding");
        } catch (const std::exception &e) {
            std::cout << "caught: " << e.what() << '\n';
        }
    }
};

int depth(int n) {
    std::vector<int> numbers(static_cast<std::size_t>(n) + 1, n);
    ThrowsInside guard;
    if (n == 0)
        throw std::out_of_range("the bottom");
    return depth(n - 1) + numbers.back();
}

} // namespace

int main() {
    try {
        depth(3);
    } catch (const std::out_of_range &e) {
        std::cout << "caught: " << e.what() << '\n';
    }

    auto wide = std::make_unique<Wide[]>(7);
    std::cout << "aligned: " << (reinterpret_cast<std::uintptr_t>(wide.get()) % 256 == 0) << '\n';

    void *none = ::operator new(~std::size_t{0} / 2, std::nothrow);
    std::cout << "nothrow: " << (none == nullptr) << '\n';
    try {
        ::operator delete(::operator new(~std::size_t{0} / 2));
    } catch (const std::bad_alloc &e) {
        std::cout << "caught: " << e.what() << '\n';
    }

    std::vector<std::string> results(4);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([t, &results] {
            for (int i = 0; i < 1000; i++)
                per_thread[i] = std::string(static_cast<std::size_t>(i % 40), 'x');
            std::ostringstream out;
            out << "thread " << t << " has " << per_thread.size();
            results[static_cast<std::size_t>(t)] = out.str();
        });
    for (auto &thread : threads)
        thread.join();
    for (const auto &result : results)
        std::cout << result << '\n';

    first.add("one more");
    std::cerr << "done" << std::endl;
    return 0;
}
