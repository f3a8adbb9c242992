// Allocates at 32 places of a library that was loaded by dlopen, in a sandbox without process_vm_readv. As in browsers,
// each call of that is a signal, whose handler refuses it. Says whether it was called more than once, and whether the
// sites are the places; the same without the runtime. With -DLIBRARY, it is the library.
#define _GNU_SOURCE
#include <stdlib.h>

#ifdef LIBRARY
__attribute__((noinline)) void *xmalloc(size_t size) {
    void *chunk = malloc(size);
    if (chunk == NULL) abort();
    return chunk;
}
#define PLACE(n) \
    void *place_##n(void) { \
        char *chunk = xmalloc(n + 1); \
        *chunk = n; \
        return chunk; \
    }
#define FOUR(n) PLACE(n##0) PLACE(n##1) PLACE(n##2) PLACE(n##3)
FOUR(1) FOUR(2) FOUR(3) FOUR(4) FOUR(5) FOUR(6) FOUR(7) FOUR(8)
#else
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "allocs.h"

static volatile int calls;

static void refuse(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    calls++;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = -ENOSYS;
}

int main(int argc, char **argv) {
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (library == NULL) return 2;
    struct sigaction action = {.sa_sigaction = refuse, .sa_flags = SA_SIGINFO};
    if (sigaction(SIGSYS, &action, NULL) != 0) return 2;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return 2;
    int others = 0;
    for (int i = 0; i < 32; i++) {
        char name[16];
        snprintf(name, sizeof name, "place_%d%d", i / 4 + 1, i % 4);
        void *(*place)(void) = (void *(*)(void))dlsym(library, name);
        if (place == NULL) return 2;
        void *chunk = place();
        if (alloc_get_site == NULL) continue;
        Dl_info info;
        others += dladdr(alloc_get_site(chunk), &info) == 0 || info.dli_sname == NULL || strcmp(info.dli_sname, name) != 0;
    }
    printf("%s, %d other sites\n", calls > 1 ? "called again" : "called once at most", others);
    // That it is the sandbox: this is refused.
    errno = 0;
    int before = calls;
    syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0);
    return !(calls == before + 1 && errno == ENOSYS);
}
#endif
