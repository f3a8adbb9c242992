//! The code of the entry phase: it calls the runtime's init and goes on to the old entry point.
//!
//! musl has no preinit array and no IFUNCs. It relocates everything, jumps to the entry point, and
//! runs constructors from `__libc_start_main` (ldso/dynlink.c, `__dls3`; src/env/__libc_start_main.c):
//! whatever the entry point does comes before all of them. At that point the stack pointer leads to
//! argc, argv and envp, and rdx is the function to call at exit (x86-64 psABI, "Process
//! Initialization"); all other registers are free or kept by the called function. The psABI has the
//! stack pointer a multiple of 16, but when musl's loader is started by hand and takes its own
//! arguments off, it need not be.

use iced_x86::code_asm::{CodeAssembler, dword_ptr, edi, ptr, rbp, rdi, rdx, rsi, rsp};
use iced_x86::{
    BlockEncoderOptions, Code, Decoder, DecoderOptions, IcedError, Instruction, MemoryOperand,
    Register,
};

use crate::elf::Vaddr;

/// Size of the code with its padding, in bytes.
pub(crate) const SIZE: u64 = 64;

/// A trampoline's two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trampoline {
    /// The pointer to the runtime's init, which a relocation fills.
    pub(crate) slot: Vaddr,
    /// The program's own entry point.
    pub(crate) entry: Vaddr,
}

impl Trampoline {
    /// The code for the address `at`: [`SIZE`] bytes. `None` if an address is out of its reach of
    /// 2 GiB.
    pub(crate) fn assemble(self, at: Vaddr) -> Option<Vec<u8>> {
        let mut code = self.encode(at).ok()?;
        let size = usize::try_from(SIZE).ok()?;
        // Padding traps, should anything ever get there.
        code.resize(size.max(code.len()), 0xcc);
        (code.len() == size).then_some(code)
    }

    fn encode(self, at: Vaddr) -> Result<Vec<u8>, IcedError> {
        let slot = MemoryOperand::with_base_displ(Register::RIP, self.slot.0.cast_signed());
        let mut code = CodeAssembler::new(64)?;
        code.set_prefer_short_branch(false);
        code.endbr64()?;
        code.push(rdx)?;
        code.push(rbp)?;
        code.mov(rbp, rsp)?;
        code.mov(edi, dword_ptr(rbp + 16))?; // argc
        code.lea(rsi, ptr(rbp + 24))?; // argv
        code.lea(rdx, ptr(rsi + rdi * 8 + 8))?; // envp, behind argv's null
        code.and(rsp, -16)?;
        code.add_instruction(Instruction::with1(Code::Call_rm64, slot)?)?;
        code.leave()?;
        code.pop(rdx)?;
        code.jmp(self.entry.0)?;
        let options = BlockEncoderOptions::DONT_FIX_BRANCHES;
        Ok(code.assemble_options(at.0, options)?.inner.code_buffer)
    }

    /// The trampoline that `code`, at the address `at`, is.
    pub(crate) fn recognise(code: &[u8], at: Vaddr) -> Option<Self> {
        // endbr64, push rdx, push rbp: a decoder is not needed to tell most code from it.
        if !code.starts_with(b"\xf3\x0f\x1e\xfa\x52\x55") {
            return None;
        }
        let mut slot = None;
        let mut entry = None;
        for instruction in Decoder::with_ip(64, code, at.0, DecoderOptions::NONE) {
            match instruction.code() {
                Code::Call_rm64 if instruction.is_ip_rel_memory_operand() => {
                    slot = slot.or(Some(Vaddr(instruction.ip_rel_memory_address())));
                }
                Code::Jmp_rel32_64 => {
                    entry = Some(Vaddr(instruction.near_branch64()));
                    break;
                }
                _ => {}
            }
        }
        let (slot, entry) = slot.zip(entry)?;
        let found = Self { slot, entry };
        (found.assemble(at)? == code).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_assembled_is_recognised() {
        let trampoline = Trampoline {
            slot: Vaddr(0x3ff8),
            entry: Vaddr(0x1040),
        };
        let at = Vaddr(0x7_0123_4560);
        assert_eq!(trampoline.assemble(at), None, "28 GiB away");
        let at = Vaddr(0x5010);
        let code = trampoline.assemble(at).unwrap_or_default();
        assert_eq!(code.len() as u64, SIZE);
        assert_eq!(&code[..4], b"\xf3\x0f\x1e\xfa", "endbr64 comes first");
        assert_eq!(Trampoline::recognise(&code, at), Some(trampoline));
        assert_eq!(Trampoline::recognise(&code[..40], at), None);
        assert_eq!(Trampoline::recognise(b"\x31\xed", at), None);
    }
}
