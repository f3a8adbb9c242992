//! Allocators in the executable itself, whose functions no other library's definition can come before:
//! which there are, and how they are led to the runtime.
//!
//! Each function's first instructions make way for a jump to its *entry*, in a new executable segment,
//! which goes on to the runtime's `allocs_divert_…` through a slot that the loader fills. They live on in
//! its *continuation*, which is the function for all purposes. The entry tells the runtime where the
//! allocator's table is: the distances to its continuations, and its name.
//!
//! | part of the segment | size | of each |
//! | --- | --- | --- |
//! | entries | 16 | function |
//! | continuations | 64 | function |
//! | tables | 38 words and the name | allocator; one more for each function that does what another does |
//! | the options that were given | | |
//!
//! `names` knows what functions are called, `symbols` and `targets` find them and what leads into them, which
//! `instructions` makes sure of; `code` moves instructions; `layout::diverted` puts it all into the file.

mod choose;
pub(crate) mod code;
mod explained;
mod imported;
mod instructions;
mod memory;
pub(crate) mod names;
mod survey;
mod symbols;
mod targets;

use iced_x86::code_asm::CodeAssembler;
use iced_x86::{
    BlockEncoderOptions, Code, Decoder, DecoderOptions, IcedError, Instruction, MemoryOperand,
    Register,
};

pub(crate) use self::choose::choose;
use self::code::{CONTINUATION, Prologue, TRAP};
pub(crate) use self::explained::explained;
pub use self::explained::{OwnAllocator, OwnFunction};
pub(crate) use self::memory::remember;
use self::names::{Kind, NAMES};
pub use self::survey::Origin;
pub(crate) use self::survey::{Allocator, survey};
use crate::Options;
use crate::elf::{Vaddr, align_up};
use crate::error::{ErrorKind, Result};
use crate::source::Source;
use crate::unwind::{Place, Unwinding};

/// How the runtime's functions begin that entries lead to.
pub(crate) const PREFIX: &str = "allocs_divert_";
/// Room for an entry, in bytes.
pub(crate) const ENTRY: u64 = 32;
/// Words of a table in front of the allocator's name.
const WORDS: u64 = 1 + NAMES.len() as u64;

/// A function that is led to the runtime.
#[derive(Clone, Debug)]
pub(crate) struct Diverted {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) prologue: Prologue,
    /// Its continuation is in its table.
    pub(crate) called: bool,
    /// Which of the tables.
    table: usize,
}

/// Where a word of a table leads.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// The continuation of the function with this number.
    Continuation(usize),
    /// A function as it is, which the runtime calls for its own purposes only.
    Function(Vaddr),
}

/// A table.
#[derive(Clone, Debug)]
struct Table {
    /// The allocator's first.
    first: usize,
    targets: [Option<Target>; NAMES.len()],
    name: String,
}

impl Table {
    fn size(&self) -> u64 {
        let size = 8 * WORDS + self.name.len() as u64 + 1;
        align_up(size, 8).unwrap_or(size)
    }
}

/// All that is led to the runtime: nothing, in most programs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Diversion {
    pub(crate) functions: Vec<Diverted>,
    tables: Vec<Table>,
    /// What is behind the tables.
    memory: Vec<u8>,
    /// How to unwind out of entries and continuations; `None` if there is no way.
    pub(crate) unwinding: Option<Unwinding>,
}

impl Diversion {
    /// Leads to the runtime what can be moved in `allocators`, and can be told to it: it has entries for
    /// what `knows` says.
    pub(crate) fn make(
        source: &Source,
        allocators: &[Allocator],
        knows: impl Fn(Kind) -> bool,
        options: &Options,
    ) -> Result<Self> {
        let mut diversion = Self {
            memory: memory::encode(options),
            ..Self::default()
        };
        let mut stay: Vec<String> = Vec::new();
        let mut fatal = false;
        for allocator in allocators {
            let told = allocator.own().any(|one| one.kind.trusts_size());
            for function in allocator.own() {
                if let Some(reason) = function.stays(&knows) {
                    // Operators are asked for at least as much as fills a mark.
                    let made = told && function.kind.is_operator_new();
                    fatal |= function.kind.trusts_size() || made;
                    stay.push(format!("{} ({reason})", function.name()));
                }
            }
            diversion.add(allocator, &knows);
        }
        match stay.is_empty() || (options.partial && !fatal) {
            true => Ok(diversion),
            false => Err(source.error(ErrorKind::CannotDivert {
                functions: stay.join(", "),
                advice: match fatal {
                    true => {
                        "what is told the size of a chunk has to be among them; use another build"
                    }
                    false => "pass --partial to go on without them",
                },
            })),
        }
    }

    fn add(&mut self, allocator: &Allocator, knows: impl Fn(Kind) -> bool) {
        let first = self.tables.len();
        let mut table = Table {
            first,
            targets: [None; NAMES.len()],
            name: allocator.name.clone(),
        };
        let mut others = Vec::new();
        for function in allocator.own() {
            let kind = function.kind;
            let prologue = match &function.prologue {
                Ok(prologue) if knows(kind) => prologue.clone(),
                _ => {
                    let helper = [Kind::FREE, Kind::USABLE_SIZE].contains(&kind);
                    if helper && function.alike && table.targets[kind.0].is_none() {
                        table.targets[kind.0] = Some(Target::Function(function.start));
                    }
                    continue;
                }
            };
            let number = self.functions.len();
            let taken = matches!(table.targets[kind.0], Some(Target::Continuation(_)));
            let called = function.alike && !(taken && kind.is_shared());
            let index = match (called, taken) {
                (false, _) => first,
                (true, false) => {
                    table.targets[kind.0] = Some(Target::Continuation(number));
                    first
                }
                (true, true) => {
                    others.push((kind, number));
                    first + others.len()
                }
            };
            self.functions.push(Diverted {
                name: function.name().to_owned(),
                kind,
                prologue,
                called,
                table: index,
            });
        }
        let further = others.into_iter().map(|(kind, number)| {
            let mut further = table.clone();
            further.targets[kind.0] = Some(Target::Continuation(number));
            further
        });
        let further: Vec<Table> = further.collect();
        self.tables.push(table);
        self.tables.extend(further);
    }

    /// The functions' names.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.functions.iter().map(|function| function.name.clone());
        names.collect()
    }

    /// The functions of the runtime that are needed, each of which has a slot.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = self.functions.iter().map(|one| one.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Bytes of the slots.
    pub(crate) fn slots_size(&self) -> u64 {
        8 * self.kinds().len() as u64
    }

    /// Bytes of the new segment.
    pub(crate) fn size(&self) -> u64 {
        self.table_at(Vaddr(0), self.tables.len()).0 + self.memory.len() as u64
    }

    /// Where the function's entry is in a segment at `base`.
    pub(crate) fn entry_at(&self, base: Vaddr, function: usize) -> Vaddr {
        Vaddr(base.0 + ENTRY * function as u64)
    }

    fn continuation_at(&self, base: Vaddr, function: usize) -> Vaddr {
        let entries = ENTRY * self.functions.len() as u64;
        Vaddr(base.0 + entries + CONTINUATION * function as u64)
    }

    fn table_at(&self, base: Vaddr, table: usize) -> Vaddr {
        let first = self.continuation_at(base, self.functions.len());
        let before = self.tables.iter().take(table).map(Table::size);
        Vaddr(first.0 + before.sum::<u64>())
    }

    /// Where the function's continuation is in a segment at `base`, or, without a number, where the entries are.
    pub(crate) fn place(&self, base: Vaddr, function: Option<usize>) -> Option<Place> {
        let Some(number) = function else {
            return Some(Place {
                start: base,
                size: ENTRY * self.functions.len() as u64,
                instructions: vec![0],
            });
        };
        let start = self.continuation_at(base, number);
        let prologue = &self.functions.get(number)?.prologue;
        Some(Place {
            start,
            size: CONTINUATION,
            instructions: prologue.places_in_continuation(start)?,
        })
    }

    /// The new segment for the address `base`, with the slots at `slots`. `None` if something is out of
    /// reach.
    pub(crate) fn assemble(&self, base: Vaddr, slots: Vaddr) -> Option<Vec<u8>> {
        let kinds = self.kinds();
        let mut code = Vec::new();
        for (number, function) in self.functions.iter().enumerate() {
            let slot = kinds.binary_search(&function.kind).ok()?;
            let slot = Vaddr(slots.0 + 8 * slot as u64);
            let table = self.table_at(base, function.table);
            code.extend(entry(self.entry_at(base, number), table, slot)?);
        }
        for (number, function) in self.functions.iter().enumerate() {
            code.extend(
                function
                    .prologue
                    .continuation(self.continuation_at(base, number))?,
            );
        }
        for (number, table) in self.tables.iter().enumerate() {
            let here = self.table_at(base, number);
            let away = |to: Vaddr| to.0.wrapping_sub(here.0).to_le_bytes();
            let start = code.len();
            code.extend(away(self.table_at(base, table.first)));
            for target in table.targets {
                code.extend(match target {
                    None => [0; 8],
                    Some(Target::Continuation(number)) => away(self.continuation_at(base, number)),
                    Some(Target::Function(address)) => away(address),
                });
            }
            code.extend(table.name.as_bytes());
            code.resize(start + usize::try_from(table.size()).ok()?, 0);
        }
        code.extend(&self.memory);
        Some(code)
    }
}

/// True if `code`, at the address `at`, is an entry.
fn is_entry(code: &[u8], at: Vaddr) -> bool {
    let mut decoder = Decoder::with_ip(64, code, at.0, DecoderOptions::NONE);
    let (keep, lea, jump) = (decoder.decode(), decoder.decode(), decoder.decode());
    keeps_r11(&keep)
        && lea.code() == Code::Lea_r64_m
        && lea.op0_register() == Register::R11
        && lea.is_ip_rel_memory_operand()
        && jump.code() == Code::Jmp_rm64
        && jump.is_ip_rel_memory_operand()
}

/// `mov [rsp - 8], r11`: a caller that knows what the function does to registers may need it (GCC's -fipa-ra).
pub(crate) fn keeps_r11(instruction: &Instruction) -> bool {
    instruction.code() == Code::Mov_rm64_r64
        && instruction.op1_register() == Register::R11
        && instruction.memory_base() == Register::RSP
        && instruction.memory_index() == Register::None
        && instruction.memory_displacement64() == KEPT.cast_unsigned()
}

/// Where r11 is kept, from the stack pointer.
const KEPT: i64 = -8;

/// `mov [rsp - 8], r11; lea r11, [rip + table]; jmp [rip + slot]`, in [`ENTRY`] bytes.
fn entry(at: Vaddr, table: Vaddr, slot: Vaddr) -> Option<Vec<u8>> {
    let encode = || -> std::result::Result<Vec<u8>, IcedError> {
        let operand = |to: Vaddr| MemoryOperand::with_base_displ(Register::RIP, to.0.cast_signed());
        let mut code = CodeAssembler::new(64)?;
        let table = operand(table);
        let kept = MemoryOperand::with_base_displ(Register::RSP, KEPT);
        code.add_instruction(Instruction::with2(Code::Mov_rm64_r64, kept, Register::R11)?)?;
        code.add_instruction(Instruction::with2(Code::Lea_r64_m, Register::R11, table)?)?;
        code.add_instruction(Instruction::with1(Code::Jmp_rm64, operand(slot))?)?;
        let options = BlockEncoderOptions::DONT_FIX_BRANCHES;
        Ok(code.assemble_options(at.0, options)?.inner.code_buffer)
    };
    let mut code = encode().ok()?;
    code.resize(usize::try_from(ENTRY).ok()?, TRAP);
    Some(code)
}
