//! Everything that is asked about one executable.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use allocs_tests::behaviour::Behaviour;
use allocs_tests::others::Other;
use allocs_tests::report::Report;
use allocs_tests::tool::{self, RUNTIME, Rewritten};
use allocs_tests::{Dir, Outcome, Rewrite, structure, trial};
use serde_json::{Value, json};

use crate::linker;
use crate::place::{Place, SHARED, Start};

/// Ends programs that wait for something; those that are slow get another chance.
const SHORT: Duration = Duration::from_secs(5);
/// Far from what any program takes.
const LONG: Duration = Duration::from_secs(60);

/// An executable in a place.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) place: &'a Place,
    /// Its path in there.
    pub(crate) program: PathBuf,
    /// Its number among all.
    pub(crate) number: usize,
}

impl Subject<'_> {
    /// A line of the results.
    pub(crate) fn examine(&self, others: &[Other]) -> Value {
        let dir = Dir::new("corpus");
        let mut session = Session::new(self, &dir);
        let original = session.original.clone();
        let mut line = json!({
            "place": self.place.name,
            "program": self.program,
            "linker": linker::of(&original),
            "option": session.option,
            "first": first(&session.known.runs[0]),
            "others": {},
        });
        match rewrite(&original, &dir, tool::is_privileged(&original)) {
            Err(refusal) => line["refused"] = json!(refusal),
            Ok((result, needed)) => {
                line["tables"] = result.json["tables"].clone();
                line["size"] = result.json["size"].clone();
                line["changed"] = result.json["bytes_changed"].clone();
                line["structure"] = json!(structure(&result, &needed));
                line["start"] = json!(session.try_out("allocs-rewrite", &result.path));
                line["phase"] = json!(session.phase());
                if line["start"] != "same" && !needed.starts_with('/') {
                    let by_path = rewrite(&original, &dir, true).map(|(result, _)| result);
                    let verdict = by_path.map(|by_path| session.try_out("by path", &by_path.path));
                    line["start_by_path"] = json!(verdict.unwrap_or_else(|refusal| refusal));
                }
            }
        }
        for other in others
            .iter()
            .filter(|other| self.number.is_multiple_of(other.share))
        {
            let out = dir.make("other").join("program");
            let verdict = match other.rewrite(&original, &out) {
                Err(refusal) => format!("refused: {refusal}"),
                Ok(()) => session.try_out(&other.name, &out),
            };
            line["others"][&other.name] = json!(verdict);
            let _ = fs::remove_file(out); // there is none where it failed
        }
        line["varies"] = json!(session.known.varies());
        line
    }
}

/// How the original ended, and whether it came as far as its own code.
fn first(outcome: &Outcome) -> Value {
    let stderr = outcome.stderr();
    let lacks = stderr.contains("error while loading shared libraries");
    json!({ "ending": outcome.ending(), "lacks_libraries": lacks })
}

/// Rewrites `original`, with the runtime beside it or `by_path`, which privileged programs need. An error
/// is what the tool says.
fn rewrite(original: &Path, dir: &Dir, by_path: bool) -> Result<(Rewritten, String), String> {
    let out = dir
        .make("rewritten")
        .join(original.file_name().expect("a name"));
    let plain = Rewrite::new(original, out);
    let (rewrite, needed) = if by_path {
        let runtime = format!("{SHARED}/{RUNTIME}");
        let rewrite = plain.args_line("--allow-setuid --runtime").arg(&runtime);
        (rewrite, runtime)
    } else {
        (plain, format!("$ORIGIN/{RUNTIME}"))
    };
    let outcome = rewrite.run();
    match outcome.code() {
        Some(0) => Ok((rewrite.result(&outcome), needed)),
        _ => Err(outcome.stderr().trim().to_owned()),
    }
}

/// What the tests' own reader has to say against `result`, and against what `undo` makes of it.
fn structure(result: &Rewritten, needed: &str) -> Option<String> {
    let check = || structure::check(result, needed);
    let panic = catch_unwind(AssertUnwindSafe(check)).err()?;
    Some(trial::message(&*panic).to_owned())
}

/// The starts of one executable and of what was made of it.
struct Session<'a> {
    subject: &'a Subject<'a>,
    original: PathBuf,
    out: PathBuf,
    option: Option<&'static str>,
    limit: Duration,
    known: Behaviour,
}

impl<'a> Session<'a> {
    /// Starts the original with the first option that it takes.
    fn new(subject: &'a Subject<'a>, dir: &Dir) -> Self {
        let mut session = Self {
            subject,
            original: subject.place.path(&subject.program),
            out: dir.make("out"),
            option: None,
            limit: SHORT,
            known: Behaviour::default(),
        };
        for option in [Some("--version"), Some("--help"), None] {
            session.option = option;
            let outcome = session.start(&session.original);
            let taken = outcome.code() == Some(0) || outcome.status.is_none();
            session.known.runs = vec![outcome];
            if taken {
                break;
            }
        }
        session
    }

    fn start(&self, file: &Path) -> Outcome {
        self.subject.place.start(Start {
            program: &self.subject.program,
            file,
            option: self.option,
            limit: self.limit,
            out: &self.out,
        })
    }

    /// Starts `result` in the original's place, and compares.
    fn try_out(&mut self, tool: &str, result: &Path) -> String {
        let _ = fs::remove_file(self.out.join("report.json")); // an earlier start's, if any
        let mut outcome = self.start(result);
        if !self.known.allows(&outcome) {
            // Before this counts as a difference: does the original do that, too, now and then?
            let slow =
                outcome.status.is_none() || self.known.runs.iter().any(|run| run.status.is_none());
            if slow && self.limit == SHORT {
                self.limit = LONG;
                self.known.runs = vec![self.start(&self.original)];
                outcome = self.start(result);
            }
        }
        for _ in 0..2 {
            if self.known.allows(&outcome) {
                return "same".to_owned();
            }
            let again = self.start(&self.original);
            self.known.runs.push(again);
        }
        if self.known.allows(&outcome) {
            return "same".to_owned();
        }
        let differences = self.subject.place.work.join("differences");
        fs::create_dir_all(&differences).expect("a directory");
        let name = format!(
            "{} {} {tool}",
            self.subject.place.name,
            self.subject.program.display()
        );
        let text = format!("== original\n{}== {tool}\n{outcome}", self.known.runs[0]);
        fs::write(differences.join(name.replace('/', "-")), text).expect("written");
        verdict(&outcome)
    }

    /// When the runtime's init was called, according to its report. One that ends by _exit, a signal
    /// or exec leaves none.
    fn phase(&self) -> Option<String> {
        let report = Report::read(&self.out.join("report.json")).ok()?;
        Some(report.phase().to_owned())
    }
}

/// How a start that differs from the original's went.
fn verdict(outcome: &Outcome) -> String {
    let stderr = outcome.stderr();
    let loader = [
        "error while loading shared libraries",
        "symbol lookup error",
        "Inconsistency detected",
    ];
    let complaint = stderr
        .lines()
        .find(|line| loader.iter().any(|words| line.contains(words)));
    // The shell says so of a child that a signal ended.
    let signal = outcome.code().filter(|code| (129..160).contains(code));
    match (complaint, signal) {
        (Some(complaint), _) => format!("loader: {complaint}"),
        (None, Some(code)) => format!("signal {}", code - 128),
        (None, None) => format!("differs: {}", outcome.ending()),
    }
}
