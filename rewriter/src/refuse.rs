//! Programs that a rewrite would break, or that have been rewritten already.

use crate::error::{ErrorKind, Result};
use crate::parse::Image;
use crate::recycle::Findings;
use crate::rewritten::{self, Rewritten};
use crate::source::Source;

/// Fails with the reason if the program must stay as it is: a runtime with this DT_NEEDED string and init symbol
/// cannot be added.
pub(crate) fn check(
    source: &Source,
    image: &Image,
    findings: &Findings,
    runtime: (&str, &str),
) -> Result<()> {
    second_rewrite(source, image, findings, runtime)?;
    shared_sanitizer(source, &image.needed(source)?, runtime.0)
}

fn second_rewrite(
    source: &Source,
    image: &Image,
    findings: &Findings,
    runtime: (&str, &str),
) -> Result<()> {
    let found = rewritten::recognise(source, image, Some(&findings.preinit))?;
    let Some(Rewritten {
        needed,
        init,
        linked,
        ..
    }) = found
    else {
        return Ok(());
    };
    if linked {
        return Err(source.error(ErrorKind::LinkedWithRuntime { needed, init }));
    }
    let same = (needed.as_str(), init.as_str()) == runtime;
    Err(source.error(ErrorKind::AlreadyRewritten {
        needed,
        init,
        advice: match same {
            true => "; nothing is left to do",
            false => "; `allocs-rewrite refresh` gives it another runtime",
        },
    }))
}

/// AddressSanitizer's shared runtime stops the program unless it is the first library itself
/// (compiler-rt lib/asan/asan_linux.cpp, `AsanCheckDynamicRTPrereqs`).
fn shared_sanitizer(source: &Source, needed: &[Vec<u8>], runtime: &str) -> Result<()> {
    let insists = |name: &&Vec<u8>| {
        let names = ["libasan.so", "libclang_rt.asan"];
        names.iter().any(|start| name.starts_with(start.as_bytes())) && *name != runtime.as_bytes()
    };
    match needed.iter().find(insists) {
        None => Ok(()),
        Some(name) => Err(source.error(ErrorKind::SharedSanitizer {
            needed: String::from_utf8_lossy(name).into_owned(),
        })),
    }
}
