//! The runtime depends on nothing, so that it can be first everywhere; and exports nothing but the
//! hooks and its init functions, so that no name of it can get between a program and its libraries.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use allocs_tests::elf::Elf;
use allocs_tests::tool::{self, INIT, RUNTIME};
use allocs_tests::{Command, needs, trials};
use libtest_mimic::Trial;
use object::elf;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol, SymbolFlags};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["runtime_exports":
        exports,
        depends_on_nothing,
        relocates_itself,
        is_protected,
        is_small,
        changes_what_entries_keep,
    ]
}

/// All that it exports, with the symbol's type.
pub(crate) const EXPORTS: &[(&str, elf::SymbolType)] = &[
    (INIT, elf::STT_GNU_IFUNC),
    ("aligned_alloc", elf::STT_FUNC),
    ("alloc_announce", elf::STT_FUNC),
    ("alloc_get_allocator", elf::STT_FUNC),
    ("alloc_get_base", elf::STT_FUNC),
    ("alloc_get_info", elf::STT_FUNC),
    ("alloc_get_limit", elf::STT_FUNC),
    ("alloc_get_place", elf::STT_FUNC),
    ("alloc_get_site", elf::STT_FUNC),
    ("alloc_get_size", elf::STT_FUNC),
    ("alloc_get_stack", elf::STT_FUNC),
    ("alloc_register_allocator", elf::STT_FUNC),
    ("alloc_report", elf::STT_FUNC),
    ("alloc_retract", elf::STT_FUNC),
    ("alloc_walk", elf::STT_FUNC),
    ("allocs_divert__ZdaPv", elf::STT_FUNC),
    ("allocs_divert__ZdaPvRKSt9nothrow_t", elf::STT_FUNC),
    ("allocs_divert__ZdaPvSt11align_val_t", elf::STT_FUNC),
    (
        "allocs_divert__ZdaPvSt11align_val_tRKSt9nothrow_t",
        elf::STT_FUNC,
    ),
    ("allocs_divert__ZdaPvm", elf::STT_FUNC),
    ("allocs_divert__ZdaPvmSt11align_val_t", elf::STT_FUNC),
    ("allocs_divert__ZdlPv", elf::STT_FUNC),
    ("allocs_divert__ZdlPvRKSt9nothrow_t", elf::STT_FUNC),
    ("allocs_divert__ZdlPvSt11align_val_t", elf::STT_FUNC),
    (
        "allocs_divert__ZdlPvSt11align_val_tRKSt9nothrow_t",
        elf::STT_FUNC,
    ),
    ("allocs_divert__ZdlPvm", elf::STT_FUNC),
    ("allocs_divert__ZdlPvmSt11align_val_t", elf::STT_FUNC),
    ("allocs_divert__Znam", elf::STT_FUNC),
    ("allocs_divert__ZnamRKSt9nothrow_t", elf::STT_FUNC),
    ("allocs_divert__ZnamSt11align_val_t", elf::STT_FUNC),
    (
        "allocs_divert__ZnamSt11align_val_tRKSt9nothrow_t",
        elf::STT_FUNC,
    ),
    ("allocs_divert__Znwm", elf::STT_FUNC),
    ("allocs_divert__ZnwmRKSt9nothrow_t", elf::STT_FUNC),
    ("allocs_divert__ZnwmSt11align_val_t", elf::STT_FUNC),
    (
        "allocs_divert__ZnwmSt11align_val_tRKSt9nothrow_t",
        elf::STT_FUNC,
    ),
    ("allocs_divert_aligned_alloc", elf::STT_FUNC),
    ("allocs_divert_calloc", elf::STT_FUNC),
    ("allocs_divert_cfree", elf::STT_FUNC),
    ("allocs_divert_free", elf::STT_FUNC),
    ("allocs_divert_free_aligned_sized", elf::STT_FUNC),
    ("allocs_divert_free_sized", elf::STT_FUNC),
    ("allocs_divert_malloc", elf::STT_FUNC),
    ("allocs_divert_malloc_usable_size", elf::STT_FUNC),
    ("allocs_divert_mallocx", elf::STT_FUNC),
    ("allocs_divert_memalign", elf::STT_FUNC),
    ("allocs_divert_posix_memalign", elf::STT_FUNC),
    ("allocs_divert_pvalloc", elf::STT_FUNC),
    ("allocs_divert_rallocx", elf::STT_FUNC),
    ("allocs_divert_realloc", elf::STT_FUNC),
    ("allocs_divert_reallocarray", elf::STT_FUNC),
    ("allocs_divert_valloc", elf::STT_FUNC),
    ("allocs_divert_xallocx", elf::STT_FUNC),
    ("allocs_entry", elf::STT_FUNC),
    ("allocs_init", elf::STT_FUNC),
    ("calloc", elf::STT_FUNC),
    ("cfree", elf::STT_FUNC),
    ("free", elf::STT_FUNC),
    ("free_aligned_sized", elf::STT_FUNC),
    ("free_sized", elf::STT_FUNC),
    ("malloc", elf::STT_FUNC),
    ("malloc_usable_size", elf::STT_FUNC),
    ("memalign", elf::STT_FUNC),
    ("mmap", elf::STT_FUNC),
    ("mmap64", elf::STT_FUNC),
    ("mremap", elf::STT_FUNC),
    ("munmap", elf::STT_FUNC),
    ("posix_memalign", elf::STT_FUNC),
    ("prctl", elf::STT_FUNC),
    ("pvalloc", elf::STT_FUNC),
    ("realloc", elf::STT_FUNC),
    ("reallocarray", elf::STT_FUNC),
    ("syscall", elf::STT_FUNC),
    ("valloc", elf::STT_FUNC),
];

fn exports() {
    exports_of(tool::runtime(), EXPORTS.iter().copied());
}

/// The runtime in `file` exports what is expected, and nothing else.
pub(crate) fn exports_of(
    file: &Path,
    expected: impl Iterator<Item = (&'static str, elf::SymbolType)>,
) {
    let bytes = fs::read(file).expect("the runtime");
    let file: ElfFile64<'_> = ElfFile64::parse(&*bytes).expect("the runtime as ELF");
    let mut defined = BTreeMap::new();
    // Some linkers leave symbols of sections there, which are local.
    for symbol in file.dynamic_symbols().filter(|symbol| !symbol.is_local()) {
        let name = symbol.name().expect("a name");
        assert!(!symbol.is_undefined(), "{name} is not defined");
        let SymbolFlags::Elf { st_info, .. } = symbol.flags() else {
            panic!("{name} has no ELF type");
        };
        defined.insert(name, st_info.0 & 0xf);
    }
    let expected: BTreeMap<_, _> = expected.map(|(name, kind)| (name, kind.0)).collect();
    assert_eq!(defined, expected);
}

fn depends_on_nothing() {
    let runtime = Elf::read(tool::runtime());
    assert_eq!(runtime.needed(), Vec::<String>::new());
    assert_eq!(runtime.soname().as_deref(), Some(RUNTIME));
    assert_eq!(runtime.entry(elf::DT_INIT_ARRAY), None);
    assert_eq!(runtime.segment(elf::PT_TLS.0), None, "thread-local storage");
    let initfirst = elf::DF_1_INITFIRST.0;
    assert_eq!(runtime.flags_1() & initfirst, initfirst, "DF_1_INITFIRST");
    assert_eq!(
        runtime.entry(elf::DT_VERNEED),
        None,
        "needs versions of a library"
    );
}

/// A hook may be entered before the loader has relocated the runtime, which then does that itself.
fn relocates_itself() {
    let runtime = Elf::read(tool::runtime());
    for relocation in runtime.relocations() {
        let kind = u64::from(elf::R_X86_64_RELATIVE.0);
        assert_eq!(u64::from(relocation.kind), kind, "{relocation:?}");
    }
    assert_eq!(runtime.entry(elf::DT_RELR), None);
    assert_eq!(runtime.entry(elf::DT_TEXTREL), None);
}

fn is_protected() {
    let runtime = Elf::read(tool::runtime());
    for segment in &runtime.segments {
        let both = elf::PF_W.0 | elf::PF_X.0;
        assert_ne!(
            segment.flags & both,
            both,
            "{segment:x?} is writable and executable"
        );
    }
    assert!(runtime.relro().is_some(), "no RELRO");
    assert!(
        runtime.segment(elf::PT_GNU_STACK.0).is_some(),
        "an executable stack"
    );
}

/// It is mapped into every process: what a debug build without its debug information takes.
fn is_small() {
    let runtime = Elf::read(tool::runtime());
    let loaded = runtime
        .segments
        .iter()
        .filter(|segment| segment.kind == elf::PT_LOAD.0);
    let size: u64 = loaded
        .map(|segment| segment.file.end - segment.file.start)
        .sum();
    assert!(size < 384 << 10, "{size} bytes");
}

/// Entries of diverted functions keep the general registers and the first 16 bytes of xmm0 to xmm15, which is all
/// that the runtime's code changes.
fn changes_what_entries_keep() {
    let text = Command::new(needs("objdump"))
        .args(["-d", "--no-show-raw-insn"])
        .arg(tool::runtime())
        .succeed()
        .stdout();
    assert!(text.contains("%xmm15"), "no instruction is shown");
    let others = [
        "%ymm", "%zmm", "%k", "%st", "%mm", "%xmm16", "emms", "xrstor",
    ];
    let changing = |line: &&str| others.iter().any(|register| line.contains(register));
    let changing: Vec<&str> = text.lines().filter(changing).collect();
    assert!(changing.is_empty(), "{changing:#?}");
}
