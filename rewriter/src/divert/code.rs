//! The first instructions of a function, taken out of it: which they are, and how they are encoded
//! elsewhere.
//!
//! In their place comes a jump of five bytes. endbr64 stays in front of it. What was there is re-encoded
//! for its new place, operands relative to rip and short branches included, and followed by a jump back.

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, BlockEncoderResult, Code, Decoder, DecoderOptions,
    FlowControl, Instruction, InstructionBlock, Mnemonic, Register,
};

use crate::elf::Vaddr;

/// Size of the jump, in bytes.
pub(crate) const JUMP: u64 = 5;
/// Room for a continuation: endbr64, what was moved, and the jump back.
pub(crate) const CONTINUATION: u64 = 64;
pub(crate) const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// The longest instruction of x86-64, in bytes (Intel's manual, volume 2, 2.3.11).
pub(crate) const LONGEST: u64 = 15;
/// Should anything ever get to where no instruction is.
pub(crate) const TRAP: u8 = 0xcc;

/// What is taken out of a function.
#[derive(Clone, Debug)]
pub(crate) struct Prologue {
    /// Where the jump goes: the function's first byte, or behind endbr64.
    pub(crate) at: Vaddr,
    /// Bytes that are taken out, padding behind a very short function included.
    pub(crate) len: u64,
    instructions: Vec<Instruction>,
}

impl Prologue {
    /// The beginning of the function at `start`, of which `code` are the first bytes, and which has `size`
    /// bytes (0: not known). An error says why it cannot be moved.
    pub(crate) fn take(code: &[u8], start: Vaddr, size: u64) -> Result<Self, String> {
        let skip = if code.starts_with(&ENDBR64) { 4 } else { 0 };
        let at = Vaddr(start.0.wrapping_add(skip));
        let code = code.get(usize::from(skip == 4) * 4..).unwrap_or(&[]);
        let own = match size {
            0 => u64::MAX,
            size => size.saturating_sub(skip),
        };
        let mut decoder = Decoder::with_ip(64, code, at.0, DecoderOptions::NONE);
        let mut instructions = Vec::new();
        let mut len = 0;
        let mut ended = false;
        while len < JUMP {
            let instruction = decoder.decode();
            let here = Vaddr(instruction.ip());
            let padding = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
            if instruction.is_invalid() {
                return Err(format!("its instruction at {here} cannot be decoded"));
            }
            if (ended || len >= own) && !padding {
                return Err("it is shorter than the jump, and something else follows it".to_owned());
            }
            len += instruction.len() as u64;
            if ended || len > own {
                continue;
            }
            if is_short_only(&instruction) {
                return Err(format!(
                    "its instruction at {here} is a branch that reaches 128 bytes only"
                ));
            }
            match instruction.flow_control() {
                FlowControl::Next
                | FlowControl::ConditionalBranch
                | FlowControl::Call
                | FlowControl::IndirectCall => {}
                FlowControl::Return
                | FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch => ended = true,
                _ => return Err(format!("its instruction at {here} raises an exception")),
            }
            instructions.push(instruction);
        }
        let prologue = Self {
            at,
            len,
            instructions,
        };
        match prologue.refers_to_itself() {
            Some(here) => Err(format!("its instruction at {here} refers to its beginning")),
            None => Ok(prologue),
        }
    }

    /// Address of an instruction that has an address among these, or in front of them, for its operand: a
    /// function that compares pointers with its own, say. It would have that of the continuation. A call of
    /// what follows it is another: that reads its return address.
    fn refers_to_itself(&self) -> Option<Vaddr> {
        let beginning = self.at.0.saturating_sub(ENDBR64.len() as u64)..self.end().0;
        let mut instructions = self.instructions.iter();
        let found = instructions.find(|instruction| {
            let operand = instruction.is_ip_rel_memory_operand()
                && beginning.contains(&instruction.ip_rel_memory_address());
            let called = instruction.is_call_near()
                && beginning.contains(&instruction.near_branch_target().wrapping_sub(1));
            operand || called
        });
        found.map(|instruction| Vaddr(instruction.ip()))
    }

    /// Address of a call among the instructions: its return address will be in the continuation.
    pub(crate) fn call(&self) -> Option<Vaddr> {
        let mut instructions = self.instructions.iter();
        let call = instructions.find(|instruction| is_call(instruction));
        call.map(|instruction| Vaddr(instruction.ip()))
    }

    /// The function that is called among the instructions, if it is with what the caller passed: nothing in front of
    /// the call changes more than the stack pointer.
    pub(crate) fn called(&self) -> Option<Vaddr> {
        let adjusts = |instruction: &&Instruction| {
            let makes_room = matches!(instruction.mnemonic(), Mnemonic::Sub | Mnemonic::Push);
            makes_room
                && (instruction.op0_register() == Register::RSP || instruction.op_count() == 1)
        };
        let call = self.instructions.iter().find(|one| !adjusts(one))?;
        let near = call.is_call_near();
        near.then(|| Vaddr(call.near_branch_target()))
    }

    /// Addresses of the instructions, and of what follows them.
    pub(crate) fn places(&self) -> Vec<u64> {
        let places = self.instructions.iter().map(Instruction::ip);
        let behind = self.instructions.last().map(Instruction::next_ip);
        places.chain(behind).collect()
    }

    /// First address behind what is taken out.
    pub(crate) fn end(&self) -> Vaddr {
        Vaddr(self.at.0.wrapping_add(self.len))
    }

    /// The continuation for the address `at`: [`CONTINUATION`] bytes. `None` if something that it refers to
    /// is out of its reach of 2 GiB.
    pub(crate) fn continuation(&self, at: Vaddr) -> Option<Vec<u8>> {
        let mut code = ENDBR64.to_vec();
        code.extend(self.encode(at)?.code_buffer);
        let size = usize::try_from(CONTINUATION).ok()?;
        let fits = code.len() <= size;
        code.resize(size, TRAP);
        fits.then_some(code)
    }

    /// Where in the continuation for the address `at` the instructions and the jump back are. The first begins
    /// with endbr64.
    pub(crate) fn places_in_continuation(&self, at: Vaddr) -> Option<Vec<u8>> {
        let endbr64 = u32::try_from(ENDBR64.len()).ok()?;
        let places = self.encode(at)?.new_instruction_offsets;
        let place = |(number, place): (usize, &u32)| match number {
            0 => Some(0),
            _ => u8::try_from(place.checked_add(endbr64)?).ok(),
        };
        places.iter().enumerate().map(place).collect()
    }

    /// The instructions and the jump back, as they come behind an endbr64 at `at`.
    fn encode(&self, at: Vaddr) -> Option<BlockEncoderResult> {
        let reach = |target: u64| {
            let distance = target.wrapping_sub(at.0).cast_signed();
            i32::try_from(distance.checked_add(distance.signum().checked_mul(4096)?)?).ok()
        };
        let mut block = self.instructions.clone();
        block.push(Instruction::with_branch(Code::Jmp_rel32_64, self.end().0).ok()?);
        for instruction in &block {
            if is_branch(instruction) || instruction.is_call_near() {
                reach(instruction.near_branch_target())?;
            }
            if instruction.is_ip_rel_memory_operand() {
                reach(instruction.ip_rel_memory_address())?;
            }
        }
        let rip = at.0.checked_add(ENDBR64.len() as u64)?;
        let block = InstructionBlock::new(&block, rip);
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        BlockEncoder::encode(64, block, options).ok()
    }

    /// What comes in the place of the instructions: a jump to `entry`.
    pub(crate) fn jump(&self, entry: Vaddr) -> Option<Vec<u8>> {
        let mut code = jump(self.at, entry)?.to_vec();
        code.resize(usize::try_from(self.len).ok()?, TRAP);
        Some(code)
    }

    /// Addresses inside what is taken out that nothing may lead to.
    pub(crate) fn interior(&self) -> (u64, u64) {
        (self.at.0.saturating_add(1), self.end().0)
    }
}

/// True if the instruction leaves a return address on the stack; not so a system call, which has iced's
/// `FlowControl::Call`, too.
pub(crate) fn is_call(instruction: &Instruction) -> bool {
    instruction.is_call_near()
        || instruction.is_call_near_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
}

/// Where the function at `start`, of which `code` are the first bytes, goes at once.
pub(crate) fn jumps_to(code: &[u8], start: Vaddr) -> Option<Vaddr> {
    let skip = if code.starts_with(&ENDBR64) { 4 } else { 0 };
    let code = code.get(skip..)?;
    let at = start.0.wrapping_add(skip as u64);
    let first = Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode();
    (first.code() == Code::Jmp_rel32_64).then(|| Vaddr(first.near_branch_target()))
}

/// The jump at `from` to `to`.
fn jump(from: Vaddr, to: Vaddr) -> Option<[u8; 5]> {
    let distance = to.0.wrapping_sub(from.0.wrapping_add(JUMP)).cast_signed();
    let [a, b, c, d] = i32::try_from(distance).ok()?.to_le_bytes();
    Some([0xe9, a, b, c, d])
}

/// True for branches whose target is part of the instruction, calls apart.
pub(crate) fn is_branch(instruction: &Instruction) -> bool {
    instruction.is_jmp_short_or_near() || instruction.is_jcc_short_or_near()
}

/// True for those that have no longer form: jrcxz, loop and so on.
pub(crate) fn is_short_only(instruction: &Instruction) -> bool {
    instruction.is_jcx_short() || instruction.is_loop() || instruction.is_loopcc()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(code: &[u8], size: u64) -> Result<Prologue, String> {
        Prologue::take(code, Vaddr(0x1000), size)
    }

    /// The continuation of `code` without its endbr64, as text.
    fn moved(code: &[u8]) -> Vec<String> {
        let prologue = take(code, 0).ok();
        let bytes = prologue.and_then(|prologue| prologue.continuation(Vaddr(0x80_0000)));
        let bytes = bytes.unwrap_or_default();
        assert_eq!(bytes.len() as u64, CONTINUATION);
        let text = Decoder::with_ip(64, &bytes[4..], 0x80_0004, DecoderOptions::NONE);
        text.into_iter()
            .take_while(|instruction| instruction.mnemonic() != Mnemonic::Int3)
            .map(|instruction| {
                let target = match is_branch(&instruction) || instruction.is_call_near() {
                    true => instruction.near_branch_target(),
                    false => instruction.ip_rel_memory_address(),
                };
                format!("{:?} {target:x}", instruction.mnemonic())
            })
            .collect()
    }

    #[test]
    fn operands_and_branches_lead_where_they_led() {
        // mov rax, [rip+0x10]
        let code = b"\x48\x8b\x05\x10\x00\x00\x00\xc3";
        assert_eq!(moved(code), ["Mov 1017", "Jmp 1007"]);
        // test edi, edi; je +0x20; push rbx
        let code = b"\x85\xff\x74\x20\x53\xc3";
        assert_eq!(moved(code), ["Test 0", "Je 1024", "Push 0", "Jmp 1005"]);
        // je to the ret behind xor eax, eax
        let code = b"\x74\x02\x31\xc0\xc3";
        assert_eq!(moved(code), ["Je 800008", "Xor 0", "Ret 0", "Jmp 1005"]);
        // sub rsp, 8; call +0x20
        let code = b"\x48\x83\xec\x08\xe8\x20\0\0\0\xc3";
        assert_eq!(moved(code), ["Sub 0", "Call 1029", "Jmp 1009"]);
    }

    #[test]
    fn endbr64_stays_first() {
        let code = b"\xf3\x0f\x1e\xfa\x55\x48\x89\xe5\x41\x57\xc3";
        let prologue = take(code, 0).ok();
        let place = prologue
            .as_ref()
            .map(|prologue| (prologue.at, prologue.len));
        assert_eq!(place, Some((Vaddr(0x1004), 6)));
        let jump = prologue.and_then(|prologue| prologue.jump(Vaddr(0x2000)));
        assert_eq!(jump, Some(vec![0xe9, 0xf7, 0x0f, 0, 0, TRAP]));
    }

    #[test]
    fn what_cannot_be_moved_says_why() {
        let reason = |code: &[u8], size| take(code, size).err().unwrap_or_default();
        // call to what follows it, which reads the return address
        assert!(reason(b"\xe8\0\0\0\0\x58", 9).contains("refers to its beginning"));
        assert!(reason(b"\x31\xc0\xc3\x55\x53", 3).contains("shorter than the jump"));
        assert!(reason(b"\x06\x06\x06\x06\x06", 9).contains("cannot be decoded"));
        assert!(reason(b"\xe3\x02\x31\xc0\xc3", 5).contains("128 bytes only"));
        assert!(reason(b"\x0f\x0b\x90\x90\x90", 9).contains("exception"));
        // lea rax, [rip-7]
        let itself = b"\x48\x8d\x05\xf9\xff\xff\xff";
        assert!(reason(itself, 9).contains("refers to its beginning"));
        assert!(take(b"\x31\xc0\xc3\x90\x90", 3).is_ok(), "padding follows");
        assert!(take(b"\x31\xc0\xc3\xcc\xcc", 0).is_ok());
        let far = take(b"\x48\x8b\x05\x10\0\0\0", 0).map(|code| code.continuation(Vaddr(1 << 40)));
        assert!(matches!(far, Ok(None)));
    }
}
