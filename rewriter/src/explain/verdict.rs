//! Whether the runtime is first, and if not, why and what would make it so.

use super::examine::{Init, View};
use super::{Call, Malloc, Phase, Verdict};
use crate::loader::as_text;
use crate::loader::closure::{LOADER, Outcome};

impl View<'_> {
    /// What the user should know besides.
    pub(super) fn notes(
        &self,
        runtime: Option<usize>,
        rivals: &[String],
        malloc: &Malloc,
    ) -> Vec<String> {
        let mut notes = Vec::new();
        let relative = self.closure.objects.iter().skip(LOADER + 1);
        if let Some(found) = { relative }.find(|loaded| !loaded.path.starts_with(b"/")) {
            notes.push(format!(
                "{} was found from this directory; what is found elsewhere may be another file",
                as_text(&found.path)
            ));
        }
        let first = malloc.definitions.first();
        if let (Some(runtime), Some(first)) = (runtime.map(|place| self.path(place)), first)
            && *first != runtime
            && malloc.definitions.contains(&runtime)
            && !malloc.own.iter().any(|own| own.is_diverted())
        {
            notes.push(format!(
                "{first} defines malloc ahead of the runtime, whose hooks those calls do not reach"
            ));
        }
        if runtime.is_none() && !rivals.is_empty() {
            notes.push(format!(
                "asks to be first itself (DF_1_INITFIRST): {}",
                rivals.join(", ")
            ));
        }
        notes
    }

    /// The answer.
    pub(super) fn verdict(&self, init: Option<&Init>, calls: &[Call]) -> Verdict {
        self.cannot_start(init).unwrap_or_else(|| match init {
            None => no(
                "not first: the program has not been rewritten".to_owned(),
                "allocs-rewrite PROG -o OUT",
            ),
            Some(init) => self.who_is_first(init, calls),
        })
    }

    /// A program whose start ends in the loader.
    fn cannot_start(&self, init: Option<&Init>) -> Option<Verdict> {
        if let Some(request) = self.closure.fatal().next()
            && let Outcome::Missing { reason, .. } = &request.outcome
        {
            let (name, asker) = (as_text(&request.name), self.asker(request.asker));
            let needed = format!("{name} (needed by {})", asker.unwrap_or_default());
            return Some(no(
                format!("not first: the program does not start, {needed}: {reason}"),
                "install it, or name its directory with --ld-library-path or its system with --sysroot",
            ));
        }
        let unbound = init.filter(|init| init.definition.is_none())?;
        let symbol = &unbound.symbol;
        Some(no(
            format!("not first: the program does not start, no library defines `{symbol}`"),
            "rewrite the original with --runtime and --init as the runtime has them",
        ))
    }

    fn who_is_first(&self, init: &Init, calls: &[Call]) -> Verdict {
        let runtime = init.definition.map(|found| self.path(found.place));
        let runtime = runtime.unwrap_or_default();
        let mut before = calls.iter().take_while(|call| !call.runtime);
        let symbol = &init.symbol;
        if let Some(ahead) = before.find(|call| call.object != runtime) {
            let rival = &ahead.object;
            return no(
                format!(
                    "not first: {rival} has DF_1_INITFIRST and is mapped last of those that do, so \
                     its constructors run before `{symbol}` of {runtime}"
                ),
                match init.lazy {
                    true => {
                        "link it with -z now, which binds the init function while it is relocated"
                    }
                    false => {
                        "rewrite the original with --phase relocation, which takes an init function \
                         that is an IFUNC; that of the project's own runtime is one"
                    }
                },
            );
        }
        let when = match init.phase {
            Phase::Relocation => "while the program is relocated",
            Phase::Preinit => "as the first preinit entry",
            Phase::Entry => "at the entry point",
        };
        Verdict {
            first: true,
            text: format!("first: `{symbol}` of {runtime} runs {when}, before every constructor"),
            remedy: None,
        }
    }
}

fn no(text: String, remedy: &str) -> Verdict {
    Verdict {
        first: false,
        text,
        remedy: Some(remedy.to_owned()),
    }
}
