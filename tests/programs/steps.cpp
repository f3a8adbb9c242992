// Steps through calls of the program's own allocator and of its operators, one instruction after the other. On each
// instruction of code that a rewrite has added, a signal handler asks for the way back to main.
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>

#include <link.h>
#include <malloc.h>
#include <ucontext.h>
#include <unwind.h>

int main();

static uintptr_t begin, end;
static int instructions, whole;
static uintptr_t lost;

static _Unwind_Reason_Code frame(_Unwind_Context *context, void *found) {
    if (_Unwind_GetRegionStart(context) == reinterpret_cast<uintptr_t>(main)) *static_cast<bool *>(found) = true;
    return _URC_NO_REASON;
}

static void step(int, siginfo_t *, void *context) {
    uintptr_t pc = static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_RIP];
    if (pc < begin || pc >= end) return;
    bool found = false;
    _Unwind_Backtrace(frame, &found);
    instructions++;
    if (found) whole++;
    else if (lost == 0) lost = pc - begin;
}

// The executable's last segment of code, if it has two.
static int last_code(dl_phdr_info *info, size_t, void *) {
    int segments = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &header = info->dlpi_phdr[i];
        if (header.p_type != PT_LOAD || (header.p_flags & PF_X) == 0) continue;
        segments++;
        begin = info->dlpi_addr + header.p_vaddr;
        end = begin + header.p_memsz;
    }
    if (segments < 2) begin = end = 0;
    return 1;
}

static void trap(bool on) {
    const unsigned long long flag = 0x100;
    unsigned long long flags = __builtin_ia32_readeflags_u64();
    __builtin_ia32_writeeflags_u64(on ? flags | flag : flags & ~flag);
}

static __attribute__((noinline)) void calls() {
    void *chunk = malloc(100);
    chunk = realloc(chunk, 5000);
    if (malloc_usable_size(chunk) < 5000) abort();
    free(chunk);
    free(calloc(3, 100));
    free(aligned_alloc(64, 640));
    if (posix_memalign(&chunk, 64, 100) != 0) abort();
    free(chunk);
    operator delete(operator new(10));
    operator delete[](operator new[](10));
    operator delete(operator new(10), size_t(10));
    operator delete(operator new(10, std::nothrow), std::nothrow);
    operator delete[](operator new[](10, std::nothrow), std::nothrow);
}

int main() {
    calls(); // what is done once only
    dl_iterate_phdr(last_code, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = step;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, nullptr);
    trap(true);
    calls();
    trap(false);
    printf("%d instructions, %d whole, %zx lost\n", instructions, whole, lost);
    return 0;
}
