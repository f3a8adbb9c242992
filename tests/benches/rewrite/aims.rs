//! What was aimed at, and what came out.

/// The aims that were measured, in order.
#[derive(Default)]
pub(crate) struct Aims(Vec<Aim>);

struct Aim {
    what: String,
    measured: f64,
    limit: String,
    met: bool,
}

impl Aims {
    pub(crate) fn at_most(&mut self, what: String, measured: f64, limit: f64) {
        self.0.push(Aim {
            what,
            measured,
            limit: format!("at most {limit}"),
            met: measured <= limit,
        });
    }

    pub(crate) fn at_least(&mut self, what: String, measured: f64, limit: f64) {
        self.0.push(Aim {
            what,
            measured,
            limit: format!("at least {limit}"),
            met: measured >= limit,
        });
    }

    pub(crate) fn print(&self) {
        println!("\n| what | measured | aim | |\n| --- | --- | --- | --- |");
        for aim in &self.0 {
            let verdict = if aim.met { "met" } else { "missed" };
            println!(
                "| {} | {:.2} | {} | {verdict} |",
                aim.what, aim.measured, aim.limit
            );
        }
    }
}
