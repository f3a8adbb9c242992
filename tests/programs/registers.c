// An allocator that changes few registers, and says which ones its functions change: GCC leaves values in the others
// where it compiles callers together with it (-fipa-ra). One of its functions changes all that it may, but nobody has
// called that one.

#include <stdio.h>
#include <string.h>

void *malloc(unsigned long size);
void *realloc(void *chunk, unsigned long size);
void free(void *chunk);
void *_Znwm(unsigned long size);
void _ZdlPv(void *chunk);

char heap[4096] __attribute__((aligned(16)));
char *next = heap;
char large[1 << 20] __attribute__((aligned(4096)));
char *next_large = large;
long freed;

__asm__(".text\n\
.globl malloc, realloc, free, malloc_usable_size, _Znwm, _ZdlPv\n\
.type malloc, @function\n\
.type realloc, @function\n\
.type malloc_usable_size, @function\n\
.type free, @function\n\
.type _Znwm, @function\n\
.type _ZdlPv, @function\n\
malloc:\n\
    cmp $64, %rdi\n\
    ja 1f\n\
    mov next(%rip), %rax\n\
    addq $64, next(%rip)\n\
    ret\n\
1:  mov next_large(%rip), %rax\n\
    addq $0x20000, next_large(%rip)\n\
    ret\n\
.size malloc, . - malloc\n\
realloc:\n\
    mov %rdi, %rax\n\
    addq $4, freed(%rip)\n\
    ret\n\
.size realloc, . - realloc\n\
malloc_usable_size:\n\
    lea large(%rip), %rcx\n\
    mov $64, %eax\n\
    mov $0x20000, %edx\n\
    cmp %rcx, %rdi\n\
    jb 1f\n\
    lea 0x100000(%rcx), %rcx\n\
    cmp %rcx, %rdi\n\
    cmovb %rdx, %rax\n\
1:  mov $7, %ecx\n\
    mov $7, %edx\n\
    mov $7, %esi\n\
    mov $7, %edi\n\
    mov $7, %r8d\n\
    mov $7, %r9d\n\
    mov $7, %r10d\n\
    mov $7, %r11d\n\
    pxor %xmm0, %xmm0\n\
    pxor %xmm1, %xmm1\n\
    pxor %xmm2, %xmm2\n\
    pxor %xmm3, %xmm3\n\
    pxor %xmm4, %xmm4\n\
    pxor %xmm5, %xmm5\n\
    pxor %xmm6, %xmm6\n\
    pxor %xmm7, %xmm7\n\
    pxor %xmm8, %xmm8\n\
    pxor %xmm9, %xmm9\n\
    pxor %xmm10, %xmm10\n\
    pxor %xmm11, %xmm11\n\
    pxor %xmm12, %xmm12\n\
    pxor %xmm13, %xmm13\n\
    pxor %xmm14, %xmm14\n\
    pxor %xmm15, %xmm15\n\
    ret\n\
.size malloc_usable_size, . - malloc_usable_size\n\
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

enum { RSI = 3, RDI = 4, GENERAL = 9, ALL = GENERAL + 2 * 16 };

static const char *const names[GENERAL] = {"rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"};

static void *show(const char *name, void (*function)(void), const void *first, unsigned long second) {
    unsigned long before[ALL], after[ALL];
    for (int i = 0; i < ALL; i++)
        before[i] = 0x0101010101010101ul * (i + 1);
    before[RDI] = (unsigned long)first;
    before[RSI] = second;
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

// The first calls are not like those that follow, nor are chunks of some size like small ones.
int main(void) {
    for (int turn = 0; turn < 3; turn++)
        for (unsigned long size = 40; size < 1000000; size *= 2500) {
            void *chunk = show("malloc", (void (*)(void))malloc, (void *)size, 0);
            chunk = show("realloc", (void (*)(void))realloc, chunk, size + 8);
            show("free", (void (*)(void))free, chunk, 0);
            show("free", (void (*)(void))free, chunk, 0);
            chunk = show("operator new", (void (*)(void))_Znwm, (void *)40, 0);
            show("operator delete", (void (*)(void))_ZdlPv, chunk, 0);
        }
    printf("%ld freed\n", freed);
    return 0;
}
