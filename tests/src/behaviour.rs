//! Whether a rewritten program does what the original does, which may vary by itself.

use crate::Outcome;

/// What the original did, each time that it was started.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// At least one, before anything is compared with it.
    pub runs: Vec<Outcome>,
}

impl Behaviour {
    /// Whether the runs differ from each other.
    pub fn varies(&self) -> bool {
        self.runs.iter().any(|run| !run.same_as(&self.runs[0]))
    }

    /// Whether `rewritten` did what some run of the original did, or differs from it only where the
    /// original's runs differ from each other: in numbers (times, ids, addresses), or in all.
    pub fn allows(&self, rewritten: &Outcome) -> bool {
        if self.runs.iter().any(|run| run.same_as(rewritten)) {
            return true;
        }
        let first = blurred(&self.runs[0]);
        let same_status = self.runs.iter().any(|run| run.status == rewritten.status);
        if self.runs.iter().all(|run| blurred(run) == first) {
            self.varies() && same_status && blurred(rewritten) == first
        } else {
            same_status
        }
    }
}

/// Output with every number made one sign.
fn blurred(outcome: &Outcome) -> (String, String) {
    let blur = |text: String| {
        let mut blurred = String::new();
        for c in text.chars() {
            let c = if c.is_ascii_hexdigit() { '#' } else { c };
            if c != '#' || !blurred.ends_with('#') {
                blurred.push(c);
            }
        }
        blurred
    };
    (blur(outcome.stdout()), blur(outcome.stderr()))
}
