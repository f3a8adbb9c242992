//! What the kernel said about the program: the auxiliary vector and, in front of it, the environment.
//!
//! It is read where it lies, on the main thread's initial stack. When the program was started as
//! `ld.so ./prog`, the kernel described ld.so, and glibc corrects that in place before it loads
//! anything (elf/rtld.c, `dl_main`, "Adjust the on-stack auxiliary vector"); the copies that the
//! kernel gives out (PR_GET_AUXV) stay wrong.
//!
//! Nobody says where that place is to code that runs this early: the loader's own record of it is
//! private. But init and any hook before it run on the main thread's stack, underneath it, so the
//! vector is found by going up from the stack pointer.

use core::iter;

use crate::memory::Mapped;
use crate::sync::{AtomicUsize, Ordering::Relaxed};
use crate::{pages, sys};

const AT_NULL: usize = 0;
const AT_PHDR: usize = 3;
const AT_PHENT: usize = 4;
const AT_PHNUM: usize = 5;
const AT_PAGESZ: usize = 6;
const AT_BASE: usize = 7;
const AT_HWCAP: usize = 16;
const AT_SECURE: usize = 23;
const AT_HWCAP2: usize = 26;
const AT_EXECFN: usize = 31;

const WORD: usize = size_of::<usize>();
const ENTRY: usize = 2 * WORD;
/// Size of a program header.
const PHENT: usize = 56;
/// More entries than any kernel writes.
const ENTRIES: usize = 64;
/// Argument and environment strings with their pointers take 6 MiB of the stack at most (Linux,
/// fs/exec.c, `bprm_stack_limits`); the rest is for the loader's frames.
const SCANNED: usize = 8 << 20;

/// The auxiliary vector's entries that matter here.
#[derive(Clone, Copy, Default)]
pub(crate) struct Auxv {
    /// Program headers of the executable and their number.
    pub(crate) phdr: usize,
    pub(crate) phnum: usize,
    /// Size of a page; 0 if nobody says.
    pub(crate) page: usize,
    /// Where the loader lies; 0 if it was started itself.
    pub(crate) loader: usize,
    /// The path that the program was executed by, a string; relative to the directory at that time.
    pub(crate) path: usize,
    /// What the processor has.
    #[allow(
        dead_code,
        reason = "AArch64 tells resolvers of IFUNCs, x86-64 does not"
    )]
    pub(crate) hwcap: usize,
    #[allow(dead_code, reason = "as above")]
    pub(crate) hwcap2: usize,
    /// The program has more rights than whoever started it.
    pub(crate) secure: bool,
}

impl Auxv {
    fn of(entries: impl Iterator<Item = (usize, usize)>) -> Self {
        entries
            .take(ENTRIES)
            .take_while(|(kind, _)| *kind != AT_NULL)
            .fold(Self::default(), |seen, (kind, value)| match kind {
                AT_PHDR => Self {
                    phdr: value,
                    ..seen
                },
                AT_PHNUM => Self {
                    phnum: value,
                    ..seen
                },
                AT_PAGESZ => Self {
                    page: value,
                    ..seen
                },
                AT_BASE => Self {
                    loader: value,
                    ..seen
                },
                AT_EXECFN => Self {
                    path: value,
                    ..seen
                },
                AT_HWCAP => Self {
                    hwcap: value,
                    ..seen
                },
                AT_HWCAP2 => Self {
                    hwcap2: value,
                    ..seen
                },
                AT_SECURE => Self {
                    secure: value != 0,
                    ..seen
                },
                _ => seen,
            })
    }

    /// That of the process.
    pub(crate) fn find() -> Option<Self> {
        InitialStack::find()
            .map(|stack| stack.auxv())
            .or_else(Self::of_kernel)
    }

    /// As the kernel gives it out to whoever asks. For calls that come from another stack than the
    /// main thread's.
    fn of_kernel() -> Option<Self> {
        let mut words = sys::kernel_auxv()?.iter().map(|word| word.load(Relaxed));
        Some(Self::of(iter::from_fn(|| {
            Some((words.next()?, words.next()?))
        })))
    }
}

/// Where the auxiliary vector begins; 0 until that is known.
#[unsafe(link_section = ".data")]
static VECTOR: AtomicUsize = AtomicUsize::new(0);

/// The part of the initial stack that ends with the auxiliary vector.
pub(crate) struct InitialStack {
    /// Where the vector begins, right behind the environment.
    auxv: Mapped,
}

impl InitialStack {
    /// Goes up from the stack pointer, the first time. `None` on any other stack than the main thread's.
    pub(crate) fn find() -> Option<Self> {
        let known = VECTOR.load(Relaxed);
        if known != 0 {
            // SAFETY: this is where it was found. The main thread's stack stays.
            let auxv = unsafe { Mapped::new(known) };
            return Some(Self { auxv });
        }
        let from = sys::stack_pointer() & !(WORD - 1);
        // What is below the vector are the loader's frames, in part never written to.
        let found = sys::unreported(|| Self::find_above(from))?;
        VECTOR.store(found.auxv.address(), Relaxed);
        Some(found)
    }

    #[inline(never)]
    fn find_above(from: usize) -> Option<Self> {
        let mut readable_to = from;
        for at in (0..SCANNED / WORD).map(|word| from.wrapping_add(word * WORD)) {
            // What is looked at may reach into the next page.
            while readable_to < at.wrapping_add(3 * ENTRY) {
                if !sys::is_readable(readable_to) {
                    return None;
                }
                readable_to = (readable_to | (pages::LEAST - 1)).wrapping_add(1);
            }
            // SAFETY: the page was just found readable, and a stack below its top stays mapped.
            let here = unsafe { Mapped::new(at) };
            if is_phdr_entry(here) {
                return Some(Self {
                    auxv: beginning(here),
                });
            }
        }
        None
    }

    /// What the vector says.
    pub(crate) fn auxv(&self) -> Auxv {
        let entries = (0_u32..).map(|index| {
            let entry = self.auxv.nth(index, ENTRY);
            (entry.word(), entry.add(WORD).word())
        });
        Auxv::of(entries)
    }

    /// The value of the environment's variable that `name`, which ends in =, stands for.
    pub(crate) fn variable(&self, name: &[u8]) -> Option<Mapped> {
        // Last first; the first of several is the one that getenv would give.
        let strings = self.environment().filter(|string| string.starts_with(name));
        strings.last().map(|string| string.add(name.len()))
    }

    /// The environment's strings, last first: the pointers between two null words in front of the
    /// vector.
    fn environment(&self) -> impl Iterator<Item = Mapped> {
        let back = 0_usize.wrapping_sub(WORD);
        let mut pointer = self.auxv.add(back);
        iter::from_fn(move || {
            pointer = pointer.add(back);
            // SAFETY: a pointer of the environment that the kernel wrote leads to a string.
            Some(pointer.word())
                .filter(|at| *at != 0)
                .map(|at| unsafe { Mapped::new(at) })
        })
    }
}

/// Where the vector with that entry begins. AT_HWCAP and others come ahead of AT_PHDR (Linux, fs/binfmt_elf.c,
/// `create_elf_tables`).
fn beginning(mut entry: Mapped) -> Mapped {
    for _ in 0..ENTRIES {
        let before = entry.add(0_usize.wrapping_sub(ENTRY));
        // Their types are small; what comes before the vector is a pointer or, if the environment is empty, null.
        if !(1..=ENTRIES).contains(&before.word()) {
            break;
        }
        entry = before;
    }
    entry
}

/// Whether the entries AT_PHDR, AT_PHENT and AT_PHNUM begin here, side by side as the kernel writes
/// them, with values that they can have.
fn is_phdr_entry(here: Mapped) -> bool {
    let word = |index| here.nth(index, WORD).word();
    word(0) == AT_PHDR
        && word(2) == AT_PHENT
        && word(3) == PHENT
        && word(4) == AT_PHNUM
        && (1..=usize::from(u16::MAX)).contains(&word(5))
        && word(1) > pages::LEAST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_up_to_the_null_entry_count() {
        let auxv =
            Auxv::of([(6, 4096), (3, 64), (5, 9), (7, 77), (23, 1), (0, 0), (3, 1)].into_iter());
        assert_eq!(
            (auxv.phdr, auxv.phnum, auxv.loader, auxv.secure),
            (64, 9, 77, true)
        );
    }

    /// An initial stack as Linux 6.12 lays it out on AArch64, and what it says.
    #[test]
    #[allow(
        clippy::expect_used,
        reason = "a test says that something is wrong by panicking"
    )]
    fn a_vector_counts_from_its_beginning() {
        let strings = [c"first=1", c"second=2"].map(|string| string.as_ptr().expose_provenance());
        let pointers = [1, strings[0], 0, strings[0], strings[1], 0];
        let entries = [
            (33, 0x7fff_f7fc_0000), // AT_SYSINFO_EHDR
            (51, 4720),             // AT_MINSIGSTKSZ
            (AT_HWCAP, 0xefff_ffff),
            (AT_PAGESZ, 65536),
            (17, 100), // AT_CLKTCK
            (AT_PHDR, 0x5555_5555_0040),
            (AT_PHENT, PHENT),
            (AT_PHNUM, 9),
            (AT_BASE, 0x7fff_f7fd_0000),
            (AT_SECURE, 0),
            (AT_HWCAP2, 0x7f),
            (AT_EXECFN, strings[0]),
            (AT_NULL, 0),
        ];
        let entries = entries.iter().flat_map(|(kind, value)| [*kind, *value]);
        let mut words: Vec<usize> = pointers.into_iter().chain(entries).collect();
        for environment in [true, false] {
            if !environment {
                words.drain(3..5);
            }
            let from = words.as_ptr().expose_provenance();
            let stack = InitialStack::find_above(from).expect("a vector");
            let auxv = stack.auxv();
            assert_eq!(
                (auxv.hwcap, auxv.hwcap2, auxv.phdr, auxv.phnum, auxv.path),
                (0xefff_ffff, 0x7f, 0x5555_5555_0040, 9, strings[0])
            );
            let second = stack.variable(b"second=");
            assert_eq!(second.is_some_and(|value| value.is(b"2")), environment);
            assert_eq!(stack.environment().count(), if environment { 2 } else { 0 });
        }
    }

    #[test]
    fn a_page_that_is_not_mapped_is_not_readable() {
        let word = [0_u32; 1];
        assert!(sys::is_readable((&raw const word).expose_provenance()));
        assert!(!sys::is_readable(pages::LEAST));
    }
}
