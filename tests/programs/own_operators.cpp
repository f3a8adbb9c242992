// Operators new and delete that a program brings along, which take what they hand out from malloc. They are called
// `own__Znwm` and so on here; a test makes operators that lead to the runtime and from there to these.
#include <cstdlib>
#include <new>

static void *make_or_null(std::size_t alignment, std::size_t size) {
    for (;;) {
        void *chunk = nullptr;
        if (alignment > 16) {
            if (posix_memalign(&chunk, alignment, size == 0 ? 1 : size) != 0) chunk = nullptr;
        } else {
            chunk = std::malloc(size == 0 ? 1 : size);
        }
        if (chunk != nullptr) return chunk;
        auto handler = std::get_new_handler();
        if (handler == nullptr) return nullptr;
        handler();
    }
}

static void *make(std::size_t alignment, std::size_t size) {
    if (void *chunk = make_or_null(alignment, size)) return chunk;
    throw std::bad_alloc();
}

extern "C" {
void *own__Znwm(std::size_t size) { return make(16, size); }
void *own__Znam(std::size_t size) { return make(16, size); }
void *own__ZnwmRKSt9nothrow_t(std::size_t size, const std::nothrow_t &) { return make_or_null(16, size); }
void *own__ZnamRKSt9nothrow_t(std::size_t size, const std::nothrow_t &) { return make_or_null(16, size); }
void *own__ZnwmSt11align_val_t(std::size_t size, std::size_t alignment) { return make(alignment, size); }
void *own__ZnamSt11align_val_t(std::size_t size, std::size_t alignment) { return make(alignment, size); }
void *own__ZnwmSt11align_val_tRKSt9nothrow_t(std::size_t size, std::size_t alignment, const std::nothrow_t &) {
    return make_or_null(alignment, size);
}
void *own__ZnamSt11align_val_tRKSt9nothrow_t(std::size_t size, std::size_t alignment, const std::nothrow_t &) {
    return make_or_null(alignment, size);
}
void own__ZdlPv(void *chunk) { std::free(chunk); }
void own__ZdaPv(void *chunk) { std::free(chunk); }
void own__ZdlPvm(void *, std::size_t) { std::abort(); }
void own__ZdaPvm(void *, std::size_t) { std::abort(); }
void own__ZdlPvRKSt9nothrow_t(void *chunk, const std::nothrow_t &) { std::free(chunk); }
void own__ZdaPvRKSt9nothrow_t(void *chunk, const std::nothrow_t &) { std::free(chunk); }
void own__ZdlPvSt11align_val_t(void *chunk, std::size_t) { std::free(chunk); }
void own__ZdaPvSt11align_val_t(void *chunk, std::size_t) { std::free(chunk); }
void own__ZdlPvmSt11align_val_t(void *, std::size_t, std::size_t) { std::abort(); }
void own__ZdaPvmSt11align_val_t(void *, std::size_t, std::size_t) { std::abort(); }
void own__ZdlPvSt11align_val_tRKSt9nothrow_t(void *chunk, std::size_t, const std::nothrow_t &) { std::free(chunk); }
void own__ZdaPvSt11align_val_tRKSt9nothrow_t(void *chunk, std::size_t, const std::nothrow_t &) { std::free(chunk); }
}
