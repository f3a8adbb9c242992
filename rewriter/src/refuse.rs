//! Programs that a rewrite would break, or that have been rewritten already.

use object::elf::{DF_1_INITFIRST, DT_FLAGS_1, R_X86_64_64};

use crate::elf::{Entry, FileOffset, Rela, Symbol, Vaddr};
use crate::error::{ErrorKind, Result};
use crate::parse::Image;
use crate::recycle::Findings;
use crate::runtime::Request;
use crate::source::Source;

/// Fails with the reason if the program must stay as it is.
pub(crate) fn check(
    source: &Source,
    image: &Image,
    findings: &Findings,
    request: Request<'_>,
) -> Result<()> {
    let needed = image.needed(source)?;
    second_rewrite(source, image, findings, &needed, request)?;
    shared_sanitizer(source, &needed, request)
}

/// A rewritten executable's first preinit entry is filled from outside, and DF_1_INITFIRST is set;
/// of the two, shared sanitizer runtimes have the first, and no linker sets the second by itself. One
/// for musl has a trampoline at its entry point.
fn second_rewrite(
    source: &Source,
    image: &Image,
    findings: &Findings,
    needed: &[Vec<u8>],
    request: Request<'_>,
) -> Result<()> {
    let flags = image.dynamic.get(DT_FLAGS_1).unwrap_or(0);
    let first = match (image.preinit, image.trampoline) {
        (Some(array), _) => {
            let mut relocations = findings.preinit.iter().map(|(_, rela)| *rela);
            relocations.find(|rela| fills(rela, array.vaddr))
        }
        (None, Some(trampoline)) => filling(source, image, trampoline.slot)?,
        (None, None) => None,
    };
    let Some(rela) = first.filter(|_| flags & DF_1_INITFIRST.0 != 0) else {
        return Ok(());
    };
    let at = image.symtab.at.0 + Symbol::SIZE * u64::from(rela.symbol);
    let symbols: Vec<Symbol> = source.table(FileOffset(at), 1, "the dynamic symbol table")?;
    let Some(symbol) = symbols.first().filter(|symbol| symbol.is_undefined()) else {
        return Ok(());
    };
    let init = image.string(source, u64::from(symbol.name))?;
    let runtime = needed.first().map(Vec::as_slice).unwrap_or_default();
    let same = init == request.init.as_bytes() && runtime == request.needed.as_bytes();
    Err(source.error(ErrorKind::AlreadyRewritten {
        needed: String::from_utf8_lossy(runtime).into_owned(),
        init: String::from_utf8_lossy(&init).into_owned(),
        advice: match same {
            true => "; nothing is left to do",
            false => "; rewrite the original file to use another runtime",
        },
    }))
}

fn fills(rela: &Rela, slot: Vaddr) -> bool {
    rela.place == slot && rela.kind == R_X86_64_64
}

/// The relocation that fills `slot`.
fn filling(source: &Source, image: &Image, slot: Vaddr) -> Result<Option<Rela>> {
    let mut found = None;
    if let Some(table) = image.rela {
        let count = table.size / Rela::SIZE;
        source.for_each(table.at, count, "the relocation table", |_, rela: Rela| {
            found = found.or(Some(rela).filter(|rela| fills(rela, slot)));
            Ok(())
        })?;
    }
    Ok(found)
}

/// AddressSanitizer's shared runtime stops the program unless it is the first library itself
/// (compiler-rt lib/asan/asan_linux.cpp, `AsanCheckDynamicRTPrereqs`).
fn shared_sanitizer(source: &Source, needed: &[Vec<u8>], request: Request<'_>) -> Result<()> {
    let insists = |name: &&Vec<u8>| {
        let names = ["libasan.so", "libclang_rt.asan"];
        names.iter().any(|start| name.starts_with(start.as_bytes()))
            && *name != request.needed.as_bytes()
    };
    match needed.iter().find(insists) {
        None => Ok(()),
        Some(name) => Err(source.error(ErrorKind::SharedSanitizer {
            needed: String::from_utf8_lossy(name).into_owned(),
        })),
    }
}
