//! Stubs: exported functions that add to their arguments where they were called from, which Rust has no way to ask for.
//! Registers are those of the System V ABI ("Parameter Passing").

use crate::memory::Mapped;
use crate::site::step::Frame;

/// Where a function was called from.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// rbp, which the caller may reach its frame by.
    rbp: usize,
    /// The stack pointer at the beginning of the function: where the return address lies.
    stack: usize,
}

impl Call {
    /// The return address.
    #[inline(always)]
    pub(crate) fn caller(self) -> usize {
        // SAFETY: the call has not returned.
        unsafe { Mapped::new(self.stack) }.word()
    }

    /// What the stack tells about the call.
    #[inline(always)]
    pub(crate) fn frame(self) -> Frame {
        Frame {
            caller: self.caller(),
            stack: self.stack.wrapping_add(size_of::<usize>()),
            frame_pointer: self.rbp,
        }
    }
}

/// The register of the argument that follows so many others.
macro_rules! register {
    () => {
        "rdi"
    };
    ($a:tt) => {
        "rsi"
    };
    ($a:tt $b:tt) => {
        "rdx"
    };
    ($a:tt $b:tt $c:tt) => {
        "rcx"
    };
    ($a:tt $b:tt $c:tt $d:tt) => {
        "r8"
    };
    ($a:tt $b:tt $c:tt $d:tt $e:tt) => {
        "r9"
    };
}
pub(crate) use register;

/// Adds a [`Call`] to so many arguments. The return address is the word at `rsp + $at`.
macro_rules! add_call {
    ($at:literal: $($argument:tt)*) => {
        concat!(
            "mov ", $crate::machine::stubs::register!($($argument)*), ", rbp\n",
            "lea ", $crate::machine::stubs::register!(_ $($argument)*), ", [rsp + ", $at, "]",
        )
    };
}
pub(crate) use add_call;

/// Exports `$name` as a stub in front of what it `$does`, with the [`Call`] as `$call`.
macro_rules! called {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, $call:ident => $does:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "not all need it")]
            use super::*;

            pub(super) unsafe extern "C" fn called($($argument: $type,)* $call: $crate::machine::stubs::Call) $(-> $result)? {
                // SAFETY: the caller keeps to the function's contract.
                #[allow(unused_unsafe, reason = "not all that is done is unsafe")]
                unsafe { $does }
            }
        }
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($(_: $type),*) $(-> $result)? {
            core::arch::naked_asm!(
                $crate::machine::stubs::add_call!(0: $($argument)*),
                "jmp {}",
                sym $name::called,
            )
        }
    };
}
pub(crate) use called;

/// The same for a function that makes chunks of a size, and goes the short way by itself: where next's function for it can
/// be called `$direct`ly, and `$size` is not too large, it calls that for room for a record, too, and `$enters` the
/// `$chunk`, if there is one. So nothing has to be kept across the call but the size.
macro_rules! called_directly {
    (
        $(#[$doc:meta])* $name:ident($size:ident: usize) -> $result:ty, $call:ident => $does:expr,
        $direct:expr, $chunk:ident => $enters:expr
    ) => {
        mod $name {
            use super::*;

            pub(super) unsafe extern "C" fn called($size: usize, $call: $crate::machine::stubs::Call) -> $result {
                // SAFETY: the caller keeps to the function's contract.
                unsafe { $does }
            }

            pub(super) unsafe extern "C" fn made(
                $chunk: $result,
                $size: usize,
                $call: $crate::machine::stubs::Call,
            ) -> $result {
                // SAFETY: the stub has compared them.
                unsafe { core::hint::assert_unchecked($size < $crate::index::LARGE) };
                $enters
            }
        }
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name(_: usize) -> $result {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "cmp rdi, {large}",
                "jae 2f",
                "mov rax, [rip + {found} + {direct}]",
                "test rax, rax",
                "jz 2f",
                "push rdi",
                ".cfi_adjust_cfa_offset 8",
                "add rdi, {record}",
                "call rax",
                "pop rsi",
                ".cfi_adjust_cfa_offset -8",
                "test rax, rax",
                "jz 3f",
                "mov rdi, rax",
                "mov rdx, rbp",
                "mov rcx, rsp",
                "jmp {made}",
                "2:",
                $crate::machine::stubs::add_call!(0: _),
                "jmp {called}",
                "3:",
                "ret",
                ".cfi_endproc",
                large = const $crate::index::LARGE,
                record = const $crate::record::RECORD,
                found = sym $crate::next::FOUND,
                direct = const $direct,
                made = sym $name::made,
                called = sym $name::called,
            )
        }
    };
}
pub(crate) use called_directly;

/// Exports `$name`, whose first argument is a number, as a stub that sets the byte `$noted` if it is `$number`, and goes on to
/// the function whose address is in `$next`, wherever the other arguments are. `$look_up` is to store that.
macro_rules! noted {
    (
        $(#[$doc:meta])* $name:ident($type:ty) -> $result:ty,
        $noted:path = $number:path, $next:path: $at:expr, $look_up:path
    ) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name(_: $type) -> $result {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "cmp edi, {number}",
                "jne 2f",
                "mov byte ptr [rip + {noted}], 1",
                "2:",
                "mov rax, [rip + {next} + {at}]",
                "test rax, rax",
                "jz 3f",
                "jmp rax",
                "3:",
                "push rdi",
                "push rsi",
                "push rdx",
                "push rcx",
                "push r8",
                "push r9",
                "sub rsp, 8",
                ".cfi_adjust_cfa_offset 56",
                "call {look_up}",
                "add rsp, 8",
                "pop r9",
                "pop r8",
                "pop rcx",
                "pop rdx",
                "pop rsi",
                "pop rdi",
                ".cfi_adjust_cfa_offset -56",
                "mov rax, [rip + {next} + {at}]",
                "test rax, rax",
                "jz 4f",
                "jmp rax",
                "4:",
                "mov rax, -1",
                "ret",
                ".cfi_endproc",
                number = const $number,
                noted = sym $noted,
                next = sym $next,
                at = const $at,
                look_up = sym $look_up,
            )
        }
    };
}
pub(crate) use noted;

/// Exports `$entry`, which the function of that name of an allocator in the executable is diverted to, with the address
/// of its table in r11. It `$does` the same with that as `$table`, and the [`Call`] as `$call` if it is asked for.
macro_rules! entry {
    ($(#[$doc:meta])* $entry:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, $table:ident, $call:ident => $does:expr) => {
        mod $entry {
            use super::*;

            pub(super) unsafe extern "C" fn diverted(
                $($argument: $type,)*
                $call: $crate::machine::stubs::Call,
                $table: $crate::diverted::Table,
            ) $(-> $result)? {
                // SAFETY: the caller keeps to the function's contract.
                unsafe { $does }
            }
        }
        $crate::machine::stubs::diverted!(
            $(#[$doc])*
            $entry($($type),*) $(-> $result)?,
            $crate::machine::stubs::register!(_ _ $($argument)*) => $entry::diverted,
            $crate::machine::stubs::add_call!(344: $($argument)*)
        );
    };
    ($(#[$doc:meta])* $entry:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, $table:ident => $does:expr) => {
        mod $entry {
            use super::*;

            pub(super) unsafe extern "C" fn diverted(
                $($argument: $type,)*
                $table: $crate::diverted::Table,
            ) $(-> $result)? {
                // SAFETY: the caller keeps to the function's contract.
                unsafe { $does }
            }
        }
        $crate::machine::stubs::diverted!(
            $(#[$doc])*
            $entry($($type),*) $(-> $result)?,
            $crate::machine::stubs::register!($($argument)*) => $entry::diverted
        );
    };
}
pub(crate) use entry;

/// Keeps the registers that functions may change (System V ABI, "Register Usage") below the return address, in 344 bytes.
/// Where GCC sees which of them a function leaves alone, it leaves values in these (-fipa-ra), and what is diverted may
/// have been such a function. r11 is already there: the executable's entry put it at `rsp - 8`. The runtime's code
/// changes no wider vector registers, no masks, and nothing of the x87.
macro_rules! keep {
    () => {
        concat!(
            "sub rsp, 344\n",
            ".cfi_adjust_cfa_offset 344\n",
            "mov [rsp], rcx\n",
            "mov [rsp + 8], rdx\n",
            "mov [rsp + 16], rsi\n",
            "mov [rsp + 24], rdi\n",
            "mov [rsp + 32], r8\n",
            "mov [rsp + 40], r9\n",
            "mov [rsp + 48], r10\n",
            "mov [rsp + 56], rax\n",
            "movups [rsp + 64], xmm0\n",
            "movups [rsp + 80], xmm1\n",
            "movups [rsp + 96], xmm2\n",
            "movups [rsp + 112], xmm3\n",
            "movups [rsp + 128], xmm4\n",
            "movups [rsp + 144], xmm5\n",
            "movups [rsp + 160], xmm6\n",
            "movups [rsp + 176], xmm7\n",
            "movups [rsp + 192], xmm8\n",
            "movups [rsp + 208], xmm9\n",
            "movups [rsp + 224], xmm10\n",
            "movups [rsp + 240], xmm11\n",
            "movups [rsp + 256], xmm12\n",
            "movups [rsp + 272], xmm13\n",
            "movups [rsp + 288], xmm14\n",
            "movups [rsp + 304], xmm15\n",
        )
    };
}
pub(crate) use keep;

/// Calls function `{$function}`, puts back what [`keep`] kept, rax only if the function has no `$result`, and returns. The
/// stack is aligned for the call: GCC does not do that for a function that it sees and that does not need it.
macro_rules! call_and_put_back {
    ($function:literal $(-> $result:ty)?) => {
        concat!(
            "test spl, 8\n",
            "jnz 2f\n",
            "call {", $function, "}\n",
            "3:\n",
            ".cfi_remember_state\n",
            "mov rcx, [rsp]\n",
            "mov rdx, [rsp + 8]\n",
            "mov rsi, [rsp + 16]\n",
            "mov rdi, [rsp + 24]\n",
            "mov r8, [rsp + 32]\n",
            "mov r9, [rsp + 40]\n",
            "mov r10, [rsp + 48]\n",
            "mov r11, [rsp + 336]\n",
            $crate::machine::stubs::put_back_rax!($($result)?),
            "movups xmm0, [rsp + 64]\n",
            "movups xmm1, [rsp + 80]\n",
            "movups xmm2, [rsp + 96]\n",
            "movups xmm3, [rsp + 112]\n",
            "movups xmm4, [rsp + 128]\n",
            "movups xmm5, [rsp + 144]\n",
            "movups xmm6, [rsp + 160]\n",
            "movups xmm7, [rsp + 176]\n",
            "movups xmm8, [rsp + 192]\n",
            "movups xmm9, [rsp + 208]\n",
            "movups xmm10, [rsp + 224]\n",
            "movups xmm11, [rsp + 240]\n",
            "movups xmm12, [rsp + 256]\n",
            "movups xmm13, [rsp + 272]\n",
            "movups xmm14, [rsp + 288]\n",
            "movups xmm15, [rsp + 304]\n",
            "add rsp, 344\n",
            ".cfi_adjust_cfa_offset -344\n",
            "ret\n",
            ".cfi_restore_state\n",
            "2:\n",
            "sub rsp, 8\n",
            ".cfi_adjust_cfa_offset 8\n",
            "call {", $function, "}\n",
            "add rsp, 8\n",
            ".cfi_adjust_cfa_offset -8\n",
            "jmp 3b\n",
        )
    };
}
pub(crate) use call_and_put_back;

macro_rules! put_back_rax {
    () => {
        "mov rax, [rsp + 56]\n"
    };
    ($result:ty) => {
        ""
    };
}
pub(crate) use put_back_rax;

/// Exports `$entry` as a stub in front of `$body`, which takes the same arguments, what `$more` adds to them, and in
/// register `$table` the table that r11 leads to.
macro_rules! diverted {
    ($(#[$doc:meta])* $entry:ident($($type:ty),*) $(-> $result:ty)?, $table:expr => $body:path $(, $more:expr)*) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $entry($(_: $type),*) $(-> $result)? {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "endbr64",
                $crate::machine::stubs::keep!(),
                $($more,)*
                concat!("mov ", $table, ", r11"),
                $crate::machine::stubs::call_and_put_back!("body" $(-> $result)?),
                ".cfi_endproc",
                body = sym $body,
            )
        }
    };
}
pub(crate) use diverted;

/// Has the loader call one function at the start and one at the end. DT_INIT and DT_FINI hold offsets; DT_INIT_ARRAY would
/// hold addresses, that is, relocations. They name symbols to the linker (build.rs), and one that Rust gives a name to is
/// exported.
#[cfg(not(test))]
macro_rules! called_by_loader {
    ($constructor:path, $destructor:path) => {
        core::arch::global_asm!(
            ".text",
            ".hidden allocs_constructor",
            ".globl allocs_constructor",
            ".type allocs_constructor, @function",
            "allocs_constructor:",
            "jmp {}",
            ".hidden allocs_destructor",
            ".globl allocs_destructor",
            ".type allocs_destructor, @function",
            "allocs_destructor:",
            "jmp {}",
            sym $constructor,
            sym $destructor,
        );
    };
}
#[cfg(not(test))]
pub(crate) use called_by_loader;

/// Goes on with another function.
#[cfg(not(test))]
macro_rules! jump {
    ($to:literal) => {
        concat!("jmp ", $to)
    };
}
#[cfg(not(test))]
pub(crate) use jump;

/// Of mmap's arguments: prot and flags, an int each, go together into the register of the latter; into that of the
/// former, the return address.
#[cfg(not(test))]
macro_rules! add_caller_to_mmap {
    () => {
        "shl rdx, 32\nmov ecx, ecx\nor rcx, rdx\nmov rdx, [rsp]"
    };
}
#[cfg(not(test))]
pub(crate) use add_caller_to_mmap;

/// Adds the return address to mremap's arguments.
#[cfg(not(test))]
macro_rules! add_caller_to_mremap {
    () => {
        "mov r9, [rsp]"
    };
}
#[cfg(not(test))]
pub(crate) use add_caller_to_mremap;
