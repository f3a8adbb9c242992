//! When the runtime's init is called, and by which symbol.
//!
//! | phase | who calls | the init symbol is | loader |
//! | --- | --- | --- | --- |
//! | relocation | the loader, while it relocates the program | an IFUNC | glibc |
//! | preinit | the loader, as the first entry of DT_PREINIT_ARRAY | a function | glibc |
//! | entry | the program's entry point, which is a trampoline | a function | musl |

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::elf::Format;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::Kind;
use crate::source::Source;

/// When the runtime's init is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// While the program is relocated: ahead of every constructor. The init symbol is an IFUNC.
    Relocation,
    /// As the first preinit entry: ahead of every constructor but those of a library that has
    /// DF_1_INITFIRST, if that is mapped last of all that have it.
    Preinit,
    /// At the entry point, under musl: ahead of every constructor.
    Entry,
}

impl Phase {
    /// All of them, the earliest first.
    pub(crate) const ALL: [Self; 3] = [Self::Relocation, Self::Preinit, Self::Entry];

    /// The own runtime's init symbol for this phase.
    pub fn init_symbol(self) -> &'static str {
        match self {
            Self::Relocation => "allocs_preinit",
            Self::Preinit => "allocs_init",
            Self::Entry => "allocs_entry",
        }
    }

    /// True if a symbol is the own runtime's init for any phase.
    pub(crate) fn is_own_init(symbol: &str) -> bool {
        Self::ALL.iter().any(|phase| phase.init_symbol() == symbol)
    }

    /// As it is typed and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relocation => "relocation",
            Self::Preinit => "preinit",
            Self::Entry => "entry",
        }
    }
}

/// The phase that is asked for, or with `None` the earliest that the program's loader and the kind of
/// the init symbol allow. `kind` is unknown where the runtime's file is not at hand.
pub(crate) fn choose(
    source: &Source,
    musl: bool,
    asked: Option<Phase>,
    kind: Option<Kind>,
) -> Result<Phase> {
    let refuse = |phase: Phase, reason, advice| {
        let phase = phase.as_str();
        Err(source.error(ErrorKind::Phase {
            phase,
            reason,
            advice,
        }))
    };
    match (musl, asked) {
        (true, _) if source.format() != Format::X86_64 => refuse(
            asked.unwrap_or(Phase::Entry),
            "its loader is musl's, and the trampoline that calls the runtime there is for x86-64",
            "build it for glibc",
        ),
        (true, None | Some(Phase::Entry)) => Ok(Phase::Entry),
        (true, Some(phase)) => refuse(
            phase,
            "its loader is musl's, which knows no IFUNCs and ignores DT_PREINIT_ARRAY",
            "use --phase entry",
        ),
        (false, Some(Phase::Entry)) => refuse(
            Phase::Entry,
            "glibc runs the constructors of libraries before the program's entry point",
            "use --phase relocation or preinit",
        ),
        (false, Some(Phase::Relocation)) if !source.format().has_ifuncs() => refuse(
            Phase::Relocation,
            "glibc has no IFUNCs on MIPS",
            "use --phase preinit",
        ),
        (false, Some(phase)) => Ok(phase),
        (false, None) if !source.format().has_ifuncs() => Ok(Phase::Preinit),
        (false, None) => Ok(earliest(kind)),
    }
}

/// The earliest phase under glibc for an init symbol of that kind.
pub(crate) fn earliest(kind: Option<Kind>) -> Phase {
    match kind {
        Some(Kind::Function) => Phase::Preinit,
        Some(Kind::Ifunc) | None => Phase::Relocation,
    }
}

/// Refuses an init symbol that cannot be called in that phase.
pub(crate) fn check(phase: Phase, kind: Option<Kind>, runtime: &Path, init: &str) -> Result<()> {
    let what = match (phase, kind) {
        (Phase::Relocation, Some(Kind::Function)) => "is an ordinary function, not an IFUNC",
        (Phase::Preinit | Phase::Entry, Some(Kind::Ifunc)) => {
            "is an IFUNC, whose resolver runs while the program is relocated"
        }
        _ => return Ok(()),
    };
    Err(Error::new(
        runtime,
        ErrorKind::InitKind {
            symbol: init.to_owned(),
            what,
            phase: phase.as_str(),
        },
    ))
}
