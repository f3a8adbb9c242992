//! What the compiler may call whatever the source says: the memory functions. Hidden symbols, so that neither the program
//! nor libc ever sees them and no dynamic relocation is needed to reach them.

use core::arch::global_asm;

global_asm!(
    ".macro allocs_builtin name",
    ".section .text.\\name, \"ax\", @progbits",
    ".globl \\name",
    ".hidden \\name",
    ".type \\name, @function",
    "\\name:",
    ".endm",
    // rdi: to, rsi: from, rdx: bytes; returns rdi.
    "allocs_builtin memcpy",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    "allocs_builtin memmove",
    "mov rax, rdi",
    "mov rcx, rdx",
    "mov r8, rdi",
    "sub r8, rsi",
    "cmp r8, rdx",
    "jb 1f",
    "rep movsb",
    "ret",
    // The destination begins inside the source: from the end backwards.
    "1:",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    // rdi: to, esi: byte, rdx: bytes; returns rdi.
    "allocs_builtin memset",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    // rdi, rsi: what is compared, rdx: bytes; returns the difference of the first two that differ.
    "allocs_builtin memcmp",
    "xor eax, eax",
    "xor ecx, ecx",
    "2:",
    "cmp rcx, rdx",
    "je 3f",
    "movzx eax, byte ptr [rdi + rcx]",
    "movzx r8d, byte ptr [rsi + rcx]",
    "inc rcx",
    "sub eax, r8d",
    "je 2b",
    "3:",
    "ret",
    "allocs_builtin bcmp",
    "jmp memcmp",
    // core was compiled to be unwound through, and says so in a build without link-time optimisation.
    // Nothing here unwinds.
    "allocs_builtin rust_eh_personality",
    "ud2",
    ".text",
    ".purgem allocs_builtin",
);
