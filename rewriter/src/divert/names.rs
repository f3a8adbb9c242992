//! The functions of an allocator: what the runtime has an entry for, and under which names allocators
//! define them.

/// One of [`NAMES`]: a function that the runtime has an entry for, by its place in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Kind(pub(crate) usize);

/// In the order of the runtime's tables (runtime/src/divert.rs): libc's, the operators of C++, and what
/// jemalloc calls its own: `mallocx` takes the size first, `rallocx` chunk and size, `xallocx` resizes
/// in place.
pub(crate) const NAMES: [&str; 37] = [
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "free",
    "cfree",
    "memalign",
    "posix_memalign",
    "aligned_alloc",
    "valloc",
    "pvalloc",
    "malloc_usable_size",
    "free_sized",
    "free_aligned_sized",
    "_Znwm",
    "_Znam",
    "_ZnwmRKSt9nothrow_t",
    "_ZnamRKSt9nothrow_t",
    "_ZnwmSt11align_val_t",
    "_ZnamSt11align_val_t",
    "_ZnwmSt11align_val_tRKSt9nothrow_t",
    "_ZnamSt11align_val_tRKSt9nothrow_t",
    "_ZdlPv",
    "_ZdaPv",
    "_ZdlPvm",
    "_ZdaPvm",
    "_ZdlPvRKSt9nothrow_t",
    "_ZdaPvRKSt9nothrow_t",
    "_ZdlPvSt11align_val_t",
    "_ZdaPvSt11align_val_t",
    "_ZdlPvmSt11align_val_t",
    "_ZdaPvmSt11align_val_t",
    "_ZdlPvSt11align_val_tRKSt9nothrow_t",
    "_ZdaPvSt11align_val_tRKSt9nothrow_t",
    "mallocx",
    "rallocx",
    "xallocx",
];

/// A function's name, which of [`NAMES`] it does the work of, and whether it can be called like that.
type Likeness = (&'static str, &'static str, bool);

/// jemalloc's other functions.
const JEMALLOC: [Likeness; 3] = [
    ("dallocx", "free", true),
    ("sdallocx", "free_sized", true),
    ("sallocx", "malloc_usable_size", true),
];

/// What mimalloc and tcmalloc call theirs, behind `mi_` and `tc_`.
const PREFIXED: [Likeness; 24] = [
    ("usable_size", "malloc_usable_size", true),
    ("malloc_size", "malloc_usable_size", true),
    ("malloc_small", "mallocx", true),
    ("malloc_aligned", "mallocx", true),
    ("zalloc", "mallocx", true),
    ("zalloc_small", "mallocx", true),
    ("zalloc_aligned", "mallocx", true),
    ("rezalloc", "rallocx", true),
    ("rezalloc_aligned", "rallocx", true),
    ("realloc_aligned", "rallocx", true),
    ("reallocf", "rallocx", true),
    ("reallocn", "reallocarray", true),
    ("free_aligned", "free", false),
    ("free_size", "free_sized", true),
    ("free_size_aligned", "free_aligned_sized", false),
    ("new", "_Znwm", true),
    ("newarray", "_Znam", true),
    ("new_nothrow", "_ZnwmRKSt9nothrow_t", true),
    ("newarray_nothrow", "_ZnamRKSt9nothrow_t", true),
    ("new_aligned", "_ZnwmSt11align_val_t", true),
    ("delete", "_ZdlPv", true),
    ("deletearray", "_ZdaPv", true),
    ("delete_sized", "_ZdlPvm", true),
    ("deletearray_sized", "_ZdaPvm", true),
];

impl Kind {
    pub(crate) const MALLOC: Self = Self(0);
    pub(crate) const FREE: Self = Self(4);
    pub(crate) const USABLE_SIZE: Self = Self(11);
    pub(crate) const NEW: Self = Self(14);
    pub(crate) const DELETE: Self = Self(22);
    pub(crate) const MALLOCX: Self = Self(34);

    /// The function that the runtime calls `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        NAMES.iter().position(|&other| other == name).map(Self)
    }

    /// As the runtime calls it.
    pub(crate) fn name(self) -> &'static str {
        NAMES.get(self.0).copied().unwrap_or_default()
    }

    /// The runtime's entry for it.
    pub(crate) fn symbol(self) -> String {
        format!("{}{}", super::PREFIX, self.name())
    }

    /// One of C++'s operators new and delete.
    pub(crate) fn is_operator(self) -> bool {
        self.name().starts_with("_Z")
    }

    /// One of C++'s operators new.
    pub(crate) fn is_operator_new(self) -> bool {
        self.name().starts_with("_Zn")
    }

    /// The runtime calls the first of its kind for all of them.
    pub(crate) fn is_shared(self) -> bool {
        [Self::FREE, Self::USABLE_SIZE].contains(&self) || self.trusts_size()
    }

    /// It gives back, and is told the size: an allocator that trusts that must not be told the size of
    /// a chunk which the runtime made larger.
    pub(crate) fn trusts_size(self) -> bool {
        let sized = ["free_sized", "free_aligned_sized"];
        sized.contains(&self.name())
            || self.name().starts_with("_ZdlPvm")
            || self.name().starts_with("_ZdaPvm")
    }
}

/// How the functions of one allocator are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// As in libc, C++, and jemalloc without a prefix.
    Plain,
    /// With something in front: `je_`, `_rjem_`, `mi_`, `tc_`.
    Prefix(String),
    /// Each by a name of its own.
    Single(Vec<(String, Kind)>),
}

/// A name by which an allocator is noticed: the whole, or how it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sign<'a> {
    Is(&'a str),
    Begins(&'a str),
}

impl Scheme {
    /// Which function `name` is, and whether it can be called like that.
    pub(crate) fn kind(&self, name: &[u8]) -> Option<(Kind, bool)> {
        let name = std::str::from_utf8(name).ok()?;
        let known = |list: &[Likeness], name: &str| {
            let &(_, kind, alike) = list.iter().find(|(other, ..)| *other == name)?;
            Some((Kind::named(kind)?, alike))
        };
        let itself = |name: &str| Kind::named(name).map(|kind| (kind, true));
        let plain = |name: &str| itself(name).or_else(|| known(&JEMALLOC, name));
        match self {
            Self::Plain => plain(name),
            Self::Prefix(prefix) => {
                let rest = name.strip_prefix(prefix.as_str())?;
                plain(rest).or_else(|| known(&PREFIXED, rest))
            }
            Self::Single(names) => {
                let found = names.iter().find(|(other, _)| other == name);
                found.map(|&(_, kind)| (kind, true))
            }
        }
    }

    /// Names without which the program has no such allocator: one of them is there.
    pub(crate) fn signs(&self) -> Vec<Sign<'_>> {
        match self {
            Self::Plain => vec![Sign::Is(Kind::MALLOC.name()), Sign::Is(Kind::NEW.name())],
            Self::Prefix(prefix) => vec![Sign::Begins(prefix)],
            Self::Single(names) => names
                .first()
                .map(|(name, _)| Sign::Is(name))
                .into_iter()
                .collect(),
        }
    }

    /// The allocator's name, which the runtime gives in its answers.
    pub(crate) fn allocator(&self) -> String {
        match self {
            Self::Plain => "malloc".to_owned(),
            Self::Prefix(prefix) => match prefix.trim_matches('_') {
                "je" | "rjem" | "jemalloc" => "jemalloc".to_owned(),
                "mi" => "mimalloc".to_owned(),
                "tc" => "tcmalloc".to_owned(),
                other => other.to_owned(),
            },
            Self::Single(names) => {
                let first = names.first();
                first.map_or_else(String::new, |(name, _)| name.clone())
            }
        }
    }
}

/// The schemes that `NAME=FUNCTION` of the command line make: one for each prefix, one for all names
/// that have none. An error is the one that cannot be understood.
pub(crate) fn schemes(given: &[String]) -> Result<Vec<Scheme>, String> {
    let mut schemes: Vec<Scheme> = Vec::new();
    let mut single = Vec::new();
    for text in given {
        let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let parsed = parts.and_then(|(name, function)| Some((name, Kind::named(function)?)));
        let (name, kind) = parsed.ok_or_else(|| text.clone())?;
        let ends = name.match_indices('_').map(|(end, _)| &name[..=end]);
        let mut prefixes = ends.map(|prefix| Scheme::Prefix(prefix.to_owned()));
        let means = |scheme: &Scheme| {
            scheme
                .kind(name.as_bytes())
                .is_some_and(|found| found.0 == kind)
        };
        match prefixes.find(means) {
            Some(scheme) if schemes.contains(&scheme) => {}
            Some(scheme) => schemes.push(scheme),
            None => single.push((name.to_owned(), kind)),
        }
    }
    schemes.extend(Some(Scheme::Single(single)).filter(|single| !single.signs().is_empty()));
    Ok(schemes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stands_for_the_whole_family() {
        let given = [
            "_rjem_malloc=malloc",
            "mi_malloc_aligned=mallocx",
            "mi_free=free",
            "my_get=malloc",
            "my_put=free",
        ];
        let given = given.map(str::to_owned);
        let found = schemes(&given).unwrap_or_default();
        assert_eq!(found[0], Scheme::Prefix("_rjem_".to_owned()));
        let sized = Kind::named("free_sized").map(|kind| (kind, true));
        assert_eq!(found[0].kind(b"_rjem_sdallocx"), sized);
        assert_eq!(found[0].kind(b"_rjem_dallocx"), Some((Kind::FREE, true)));
        assert_eq!(found[0].kind(b"malloc"), None);
        assert_eq!(found[1], Scheme::Prefix("mi_".to_owned()));
        assert_eq!(found[2].kind(b"my_put"), Some((Kind::FREE, true)));
        assert_eq!(found.len(), 3);
        assert_eq!(Scheme::Plain.kind(b"zalloc"), None, "anybody's name");
    }

    #[test]
    fn nonsense_is_named() {
        for text in ["malloc", "=malloc", "x=mallok"] {
            assert_eq!(schemes(&[text.to_owned()]), Err(text.to_owned()));
        }
    }
}
