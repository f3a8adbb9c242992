// Runs the first instructions of functions where they were, and where a rewrite has put them: registers, flags,
// memory, faults and where they go on must be the same.
//
//     moved ORIGINAL RESULT < ADDRESSES
//
// Both files are mapped at the same place, one after the other, and each function is run instruction by instruction
// until it leaves the bytes that the jump of the result replaces; or in the result, until it leaves its
// continuation. Calls return at once. Prints how many were run.
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

enum { MOST = 4096, CONTINUATION = 64, STEPS = 64, SCRATCH = 1 << 15, TRAP_FLAG = 0x100 };

struct state {
    int signal;
    uint64_t fault, rip, called;
    gregset_t registers;
    uint8_t vectors[16 * 16], scratch[SCRATCH];
};

struct function {
    uint64_t at, end, continuation; // in the file
    bool moved;
    struct state before;
};

static struct function functions[MOST];
static int count;
static struct state now;
static uint64_t base, size, from, to, start;
static int steps;
static uint8_t *scratch;
static sigjmp_buf back;

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

// Maps what a file's segments say, all of it writable and executable.
static void map(const char *path) {
    int file = open(path, O_RDONLY);
    struct stat stat;
    if (file < 0 || fstat(file, &stat)) fail(path);
    char *bytes = mmap(0, stat.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    Elf64_Ehdr *header = (Elf64_Ehdr *)bytes;
    Elf64_Phdr *segments = (Elf64_Phdr *)(bytes + header->e_phoff);
    uint64_t end = 0;
    for (int i = 0; i < header->e_phnum; i++)
        if (segments[i].p_type == PT_LOAD && segments[i].p_vaddr + segments[i].p_memsz > end)
            end = segments[i].p_vaddr + segments[i].p_memsz;
    base = header->e_type == ET_EXEC ? 0 : 0x100000000;
    uint64_t lowest = header->e_type == ET_EXEC ? 0x10000 : base;
    if (size) munmap((void *)lowest, size);
    size = (base + end - lowest + 4095) & ~4095ul;
    void *place = mmap((void *)lowest, size, PROT_READ | PROT_WRITE | PROT_EXEC,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
    if (place != (void *)lowest) fail("no room for the program");
    for (int i = 0; i < header->e_phnum; i++)
        if (segments[i].p_type == PT_LOAD)
            memcpy((void *)(base + segments[i].p_vaddr), bytes + segments[i].p_offset, segments[i].p_filesz);
    munmap(bytes, stat.st_size);
    close(file);
}

static void begin(ucontext_t *context) {
    // Registers that are likely to be pointers are such.
    greg_t *registers = context->uc_mcontext.gregs;
    for (int i = REG_R8; i <= REG_RSP; i++) registers[i] = (greg_t)(scratch + SCRATCH / 2 + 512 * i);
    registers[REG_RAX] = 3;
    registers[REG_RIP] = start;
    registers[REG_EFL] = 0x246 | TRAP_FLAG;
    // What libc last did is in these, which depends on the processor.
    struct _libc_fpstate *vectors = context->uc_mcontext.fpregs;
    for (unsigned i = 0; i < sizeof now.vectors / 4; i++) vectors->_xmm[i / 4].element[i % 4] = i;
    // Where there is more behind them, XSTATE_BV says that they are to be read (Intel SDM vol. 1, 13.4.2; the
    // kernel's asm/sigcontext.h, `_fpx_sw_bytes`).
    uint32_t magic = vectors->__glibc_reserved1[12];
    if (magic == 0x46505853) ((uint64_t *)(vectors + 1))[0] |= 2;
}

// Of SIGUSR1: begins. Of any other: an instruction is done, or has failed.
static void handler(int signal, siginfo_t *info, void *pointer) {
    ucontext_t *context = pointer;
    greg_t *registers = context->uc_mcontext.gregs;
    if (signal == SIGUSR1) {
        begin(context);
        return;
    }
    uint64_t rip = registers[REG_RIP];
    bool trapped = signal == SIGTRAP && info->si_code == TRAP_TRACE;
    // A call has left its return address, which is all that differs.
    uint64_t *top = (uint64_t *)registers[REG_RSP], *stack = (uint64_t *)scratch;
    bool outside = rip < from || rip >= to;
    if (trapped && outside && top >= stack && top < stack + SCRATCH / 8 && *top > from && *top <= to) {
        now.called = rip;
        rip = registers[REG_RIP] = *top;
        registers[REG_RSP] += sizeof *top;
        *top = 0;
    }
    if (trapped && rip >= from && rip < to && ++steps < STEPS) return;
    now.signal = trapped ? 0 : signal;
    now.fault = trapped ? 0 : (uint64_t)info->si_addr;
    if (now.fault >= from && now.fault < to) now.fault = 0; // the instruction itself
    now.rip = trapped ? rip : 0;
    memcpy(now.registers, registers, sizeof now.registers);
    now.registers[REG_RIP] = now.registers[REG_EFL] & TRAP_FLAG;
    now.registers[REG_ERR] = now.registers[REG_TRAPNO] = 0;
    now.registers[REG_CR2] = now.registers[REG_OLDMASK] = 0;
    memcpy(now.vectors, context->uc_mcontext.fpregs->_xmm, sizeof now.vectors);
    siglongjmp(back, 1);
}

static void run(uint64_t first, uint64_t end) {
    for (int i = 0; i < SCRATCH / 8; i++) ((uint64_t *)scratch)[i] = (uint64_t)(scratch + i % 4096 * 8);
    start = from = base + first;
    to = base + end;
    steps = 0;
    memset(&now, 0, sizeof now);
    if (!sigsetjmp(back, 1)) raise(SIGUSR1);
    memcpy(now.scratch, scratch, SCRATCH);
}

static int64_t distance(uint64_t at) {
    int32_t value;
    memcpy(&value, (void *)at, 4);
    return value;
}

// Follows the jump of a function to its entry, table and continuation, of malloc: the first word but one.
static bool find(struct function *function) {
    uint8_t *code = (uint8_t *)(base + function->at);
    if (code[0] != 0xe9) return false;
    uint64_t entry = base + function->at + 5 + distance(base + function->at + 1);
    // mov %r11, -8(%rsp); lea table(%rip), %r11
    static const uint8_t begins[8] = {0x4c, 0x89, 0x5c, 0x24, 0xf8, 0x4c, 0x8d, 0x1d};
    if (entry < base || entry >= base + size || memcmp((uint8_t *)entry, begins, sizeof begins)) return false;
    uint64_t table = entry + 12 + distance(entry + 8);
    int64_t word;
    memcpy(&word, (void *)(table + 8), 8);
    function->continuation = table + word - base;
    // It ends in a jump back, behind which are traps.
    uint8_t *continuation = (uint8_t *)(table + word);
    int length = CONTINUATION;
    while (continuation[length - 1] == 0xcc) length--;
    uint64_t behind = table + word + length;
    function->end = behind + distance(behind - 4) - base;
    return true;
}

int main(int argc, char **argv) {
    if (argc != 3) fail("moved ORIGINAL RESULT");
    for (char line[64]; count < MOST && fgets(line, sizeof line, stdin);)
        functions[count++].at = strtoull(line, 0, 16);
    scratch = mmap((void *)0x7000000000, SCRATCH, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    sigaltstack(&stack, 0);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    int signals[] = {SIGUSR1, SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    for (int i = 0; i < 6; i++) sigaction(signals[i], &action, 0);

    map(argv[2]);
    for (int i = 0; i < count; i++) {
        struct function *function = &functions[i];
        if (!memcmp((void *)(base + function->at), "\xf3\x0f\x1e\xfa", 4)) function->at += 4;
        function->moved = find(function);
    }
    map(argv[1]);
    for (int i = 0; i < count; i++) {
        struct function *function = &functions[i];
        if (!function->moved) continue;
        run(function->at, function->end);
        function->before = now;
    }
    map(argv[2]);
    int moved = 0, ended = 0, differ = 0;
    for (int i = 0; i < count; i++) {
        struct function *function = &functions[i];
        if (!function->moved) continue;
        moved++;
        run(function->continuation, function->continuation + CONTINUATION);
        ended += now.signal == 0;
        if (memcmp(&now, &function->before, sizeof now)) {
            differ++;
            printf("%#lx differs: signal %d %d, goes on at %#lx %#lx\n", function->at,
                   function->before.signal, now.signal, function->before.rip, now.rip);
        }
    }
    printf("%d moved, %d left without a fault, %d differ\n", moved, ended, differ);
    return differ > 0;
}
