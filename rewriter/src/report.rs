//! What was done, for people and for scripts.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::headers::DYNAMIC;
use crate::headers::DynamicMove;
use crate::input::Input;
use crate::layout::Layout;
use crate::output::Written;
use crate::parse::Image;
use crate::phase::Phase;
use crate::plan::{InitSymbol, Plan, Preinit};
use crate::room::{Place, Room};
use crate::runtime::Request;

/// The outcome of a rewrite. Its JSON form is what `--json` prints.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    /// The input's path, as given.
    pub input: PathBuf,
    /// The output's path, as given.
    pub output: PathBuf,
    /// The runtime that starts first.
    pub runtime: Runtime,
    /// File sizes in bytes.
    pub size: Size,
    /// Bytes of the input that have another value in the output.
    pub bytes_changed: u64,
    /// How the output was written.
    pub written: Written,
    /// What happened to each table.
    pub tables: Vec<Table>,
    /// Functions of the program's own allocators that lead to the runtime.
    pub diverted: Vec<String>,
    /// What the user should know besides.
    pub notes: Vec<String>,
    /// What stands between the user and a runtime that is first.
    pub warnings: Vec<String>,
}

/// The outcome of an undo. Its JSON form is what `undo --json` prints.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Undone {
    /// The rewritten file's path, as given.
    pub input: PathBuf,
    /// The output's path, as given.
    pub output: PathBuf,
    /// The DT_NEEDED string of the runtime that is no longer there.
    pub needed: String,
    /// File sizes in bytes.
    pub size: Size,
    /// How the output was written.
    pub written: Written,
    /// What the user should know besides.
    pub notes: Vec<String>,
}

impl Undone {
    /// The line that is printed by default.
    pub fn summary(&self) -> String {
        let Size { before, after } = self.size;
        let size = match before - after.min(before) {
            0 => "same size".to_owned(),
            shrunk => format!("{shrunk} bytes shorter"),
        };
        format!(
            "{}: no longer starts {} ({size})",
            self.output.display(),
            self.needed
        )
    }
}

/// The runtime that a rewritten program starts with.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Runtime {
    /// Its DT_NEEDED string.
    pub needed: String,
    /// Its init symbol.
    pub init: String,
    /// When that is called.
    pub phase: Phase,
    /// The runtime file beside the output, where it is the project's own.
    pub written: Option<PathBuf>,
}

/// File sizes in bytes.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Size {
    /// Of the input.
    pub before: u64,
    /// Of the output.
    pub after: u64,
}

/// What happened to one table.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Table {
    /// The section's usual name, or what the table is called in the gABI.
    pub table: &'static str,
    /// Which way it was changed.
    pub action: Action,
    /// The particulars.
    pub detail: String,
}

/// Which way a table was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// What the C runtime's start files left unused serves again.
    Recycled,
    /// Changed where it is.
    InPlace,
    /// Copied to the end of the file, with room for more.
    Moved,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Recycled => "recycled",
            Self::InPlace => "in place",
            Self::Moved => "moved",
        }
    }
}

impl Report {
    /// The line that is printed by default.
    pub fn summary(&self) -> String {
        let Size { before, after } = self.size;
        let growth = match after.saturating_sub(before) {
            0 => "same size".to_owned(),
            grown => format!("{grown} bytes longer"),
        };
        format!(
            "{}: starts {} first ({growth}, {} bytes changed)",
            self.output.display(),
            self.runtime.needed,
            self.bytes_changed
        )
    }

    /// One line for each table, for `-v`.
    pub fn details(&self) -> String {
        let lines = self.tables.iter().map(|table| {
            let action = table.action.as_str();
            format!("  {:<16} {action:<9} {}\n", table.table, table.detail)
        });
        lines.collect()
    }
}

/// The tables of a finished rewrite.
pub(crate) fn tables(
    image: &Image,
    plan: &Plan,
    layout: &Layout,
    request: Request<'_>,
) -> Vec<Table> {
    let mut tables = Vec::new();
    let mut say = |table, action, detail| {
        tables.push(Table {
            table,
            action,
            detail,
        });
    };
    let recycled = !plan.names.overwritten.is_empty();
    let strings = match (recycled, plan.names.appended_size()) {
        (true, _) => (
            Action::Recycled,
            "over names that resolve nowhere".to_owned(),
        ),
        (false, grown) => (Action::Moved, format!("{grown} bytes longer")),
    };
    say(
        ".dynstr",
        strings.0,
        format!("{} and {}, {}", request.needed, request.init, strings.1),
    );
    let relocations = image.format.relocations.addends.tags().section;
    match &plan.init_symbol {
        InitSymbol::Recycled { dead, relocation } => {
            let name = dead.name;
            say(
                ".dynsym",
                Action::Recycled,
                format!("symbol {} was {name}", dead.index),
            );
            say(
                relocations,
                Action::Recycled,
                format!("relocation {relocation} filled {name}'s GOT slot, which keeps its 0"),
            );
        }
        InitSymbol::Appended => {
            let more = match request.diversion.kinds().len() {
                0 => String::new(),
                slots => format!(", and {slots} for the program's own allocator"),
            };
            say(".dynsym", Action::Moved, format!("one symbol longer{more}"));
            let detail = format!("one relocation longer{more}");
            say(relocations, Action::Moved, detail);
        }
    }
    let old = image
        .preinit
        .map_or(0, |array| array.size / image.format.word());
    let preinit = match plan.preinit {
        Preinit::Terminator => (
            Action::InPlace,
            "in the value of .dynamic's last DT_NULL".to_owned(),
        ),
        Preinit::Extended => (Action::InPlace, format!("in front of the {old} that stay")),
        Preinit::Moved(_) => (Action::Moved, format!("with the other {old} behind it")),
    };
    match layout.code {
        None => {
            let detail = format!("new first entry at {}, {}", layout.slot, preinit.1);
            say(".preinit_array", preinit.0, detail);
        }
        Some(code) => {
            let slot = layout.slot;
            let detail = format!("trampoline at {code} calls what relocation puts at {slot}");
            say("entry point", Action::Moved, detail);
        }
    }

    let spare = image
        .dynamic
        .capacity()
        .saturating_sub(image.dynamic.entries.len() + 1);
    let added = plan.dynamic.entries.len() - image.dynamic.entries.len();
    let detail = format!("{added} entries added, {spare} were spare");
    let action = match plan.dynamic.moves {
        DynamicMove::Stays => Action::InPlace,
        DynamicMove::Room | DynamicMove::ReadOnly => Action::Moved,
    };
    say(".dynamic", action, detail);

    let diverted = request.diversion.names();
    if !diverted.is_empty() {
        let names = diverted.join(", ");
        let detail = format!("these begin with a jump that leads to the runtime: {names}");
        say(".text", Action::InPlace, detail);
    }

    let unwinding = request.diversion.unwinding.as_ref();
    for grown in unwinding.iter().flat_map(|unwinding| unwinding.grown()) {
        let detail = format!(
            "{} bytes longer, for the instructions that make way",
            grown.extra
        );
        say(grown.name, Action::Moved, detail);
    }

    for table in &plan.headers.moves {
        let made_way = table.extra == 0 && table.name != DYNAMIC;
        if made_way {
            let detail = "made way for a program header".to_owned();
            say(table.name, Action::Moved, detail);
        }
    }
    tables
}

/// What the user should know about where the result went.
pub(crate) fn place_notes(input: &Input, replaced: Option<&str>) -> Vec<String> {
    let mut notes = Vec::new();
    if input.recovered {
        notes.push("what a run that was cut off had begun was taken back first".to_owned());
    }
    if let Some(reason) = replaced {
        notes.push(format!("the file was replaced as a whole, since {reason}"));
    }
    notes
}

/// What the user should know about a finished rewrite.
pub(crate) fn notes(image: &Image, plan: &Plan, layout: &Layout) -> Vec<String> {
    let mut notes = Vec::new();
    if plan.dynamic.moves != DynamicMove::Stays {
        notes.push(
            "a program that reads its own _DYNAMIC finds the old one, which no longer holds \
             (debuggers and dl_iterate_phdr use PT_DYNAMIC and see the new one)"
                .to_owned(),
        );
    }
    if let Some(moved) = layout.appended_data_moved {
        notes.push(format!(
            "the data behind the ELF part is still the last in the file, {moved} bytes further on: \
             a program that finds it by its offset from the start needs --runtime with a name of \
             at most 25 bytes"
        ));
    }
    if plan.headers.table_moves {
        notes.push(
            "the program header table is at the end of the file, since nothing could make way for a \
             longer one"
                .to_owned(),
        );
    }
    if !layout.leads_back {
        notes.push(
            "undo will not be possible: what it takes would move the data behind the ELF part"
                .to_owned(),
        );
    }
    let apart = |room: &Room| room.place == Place::Apart;
    if image.relro().is_some() && plan.room.as_ref().is_some_and(apart) {
        notes.push(
            "the preinit array stays writable: there is no room for it in the RELRO pages"
                .to_owned(),
        );
    }
    if image.relro().is_none() {
        notes.push("the program has no RELRO, so the new preinit entry stays writable".to_owned());
    }
    notes
}
