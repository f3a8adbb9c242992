// An allocator that changes few registers, and says which ones its functions change: GCC leaves values in the others
// where it compiles callers together with it (-fipa-ra).

#include <stdio.h>
#include <string.h>

void *malloc(unsigned long size);
void free(void *chunk);
void *_Znwm(unsigned long size);
void _ZdlPv(void *chunk);

char heap[4096] __attribute__((aligned(16)));
char *next = heap;
long freed;

__asm__(".text\n\
.globl malloc, free, _Znwm, _ZdlPv\n\
.type malloc, @function\n\
.type free, @function\n\
.type _Znwm, @function\n\
.type _ZdlPv, @function\n\
malloc:\n\
    mov next(%rip), %rax\n\
    addq $64, next(%rip)\n\
    ret\n\
.size malloc, . - malloc\n\
free:\n\
    addq $1, freed(%rip)\n\
    ret\n\
.size free, . - free\n\
_Znwm:\n\
    mov next(%rip), %rax\n\
    addq $64, next(%rip)\n\
    ret\n\
.size _Znwm, . - _Znwm\n\
_ZdlPv:\n\
    addq $2, freed(%rip)\n\
    ret\n\
.size _ZdlPv, . - _ZdlPv\n");

// Calls `function` with the registers as in `before`, and notes what is in them then.
void probe(void (*function)(void), const unsigned long *before, unsigned long *after);

__asm__("probe:\n\
    push %rbx\n\
    push %r12\n\
    push %r13\n\
    mov %rdi, %rbx\n\
    mov %rsi, %r12\n\
    mov %rdx, %r13\n\
    mov 0(%r12), %rax\n\
    mov 8(%r12), %rcx\n\
    mov 16(%r12), %rdx\n\
    mov 24(%r12), %rsi\n\
    mov 32(%r12), %rdi\n\
    mov 40(%r12), %r8\n\
    mov 48(%r12), %r9\n\
    mov 56(%r12), %r10\n\
    mov 64(%r12), %r11\n\
    movups 72(%r12), %xmm0\n\
    movups 88(%r12), %xmm1\n\
    movups 104(%r12), %xmm2\n\
    movups 120(%r12), %xmm3\n\
    movups 136(%r12), %xmm4\n\
    movups 152(%r12), %xmm5\n\
    movups 168(%r12), %xmm6\n\
    movups 184(%r12), %xmm7\n\
    movups 200(%r12), %xmm8\n\
    movups 216(%r12), %xmm9\n\
    movups 232(%r12), %xmm10\n\
    movups 248(%r12), %xmm11\n\
    movups 264(%r12), %xmm12\n\
    movups 280(%r12), %xmm13\n\
    movups 296(%r12), %xmm14\n\
    movups 312(%r12), %xmm15\n\
    call *%rbx\n\
    mov %rax, 0(%r13)\n\
    mov %rcx, 8(%r13)\n\
    mov %rdx, 16(%r13)\n\
    mov %rsi, 24(%r13)\n\
    mov %rdi, 32(%r13)\n\
    mov %r8, 40(%r13)\n\
    mov %r9, 48(%r13)\n\
    mov %r10, 56(%r13)\n\
    mov %r11, 64(%r13)\n\
    movups %xmm0, 72(%r13)\n\
    movups %xmm1, 88(%r13)\n\
    movups %xmm2, 104(%r13)\n\
    movups %xmm3, 120(%r13)\n\
    movups %xmm4, 136(%r13)\n\
    movups %xmm5, 152(%r13)\n\
    movups %xmm6, 168(%r13)\n\
    movups %xmm7, 184(%r13)\n\
    movups %xmm8, 200(%r13)\n\
    movups %xmm9, 216(%r13)\n\
    movups %xmm10, 232(%r13)\n\
    movups %xmm11, 248(%r13)\n\
    movups %xmm12, 264(%r13)\n\
    movups %xmm13, 280(%r13)\n\
    movups %xmm14, 296(%r13)\n\
    movups %xmm15, 312(%r13)\n\
    pop %r13\n\
    pop %r12\n\
    pop %rbx\n\
    ret\n");

enum { RDI = 4, GENERAL = 9, ALL = GENERAL + 2 * 16 };

static const char *const names[GENERAL] = {"rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"};

static void *show(const char *name, void (*function)(void), unsigned long argument) {
    unsigned long before[ALL], after[ALL];
    for (int i = 0; i < ALL; i++)
        before[i] = 0x0101010101010101ul * (i + 1);
    before[RDI] = argument;
    probe(function, before, after);
    printf("%s:", name);
    for (int i = 0; i < GENERAL; i++)
        if (before[i] != after[i])
            printf(" %s", names[i]);
    for (int i = GENERAL; i < ALL; i += 2)
        if (memcmp(&before[i], &after[i], 16) != 0)
            printf(" xmm%d", (i - GENERAL) / 2);
    puts("");
    return (void *)after[0];
}

int main(void) {
    void *chunk = show("malloc", (void (*)(void))malloc, 40);
    show("free", (void (*)(void))free, (unsigned long)chunk);
    chunk = show("operator new", (void (*)(void))_Znwm, 40);
    show("operator delete", (void (*)(void))_ZdlPv, (unsigned long)chunk);
    printf("%ld freed\n", freed);
    return 0;
}
