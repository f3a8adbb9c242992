//! Names as the source has them. A symbol can stand for a name that is longer than memory; such a one
//! stays as it is.

use std::fmt::{self, Write};

use cpp_demangle::{BorrowedSymbol, DemangleOptions};

/// Longest name in bytes.
const LONGEST: usize = 16 << 10;

/// The name that `symbol` stands for: without parameters, return type and hash, which file and line
/// make unnecessary.
pub(crate) fn demangle(symbol: &str) -> String {
    if let Ok(name) = rustc_demangle::try_demangle(symbol) {
        let mut out = Bounded::default();
        if write!(out, "{name:#}").is_ok() {
            return out.name;
        }
    } else if let Ok((name, suffix)) = BorrowedSymbol::with_tail(symbol.as_bytes())
        && (suffix.is_empty() || suffix.starts_with(b"."))
    {
        // Behind a dot is what the compiler made of the function: .cold, .part.0
        let mut out = Bounded::default();
        let options = DemangleOptions::new().no_params().no_return_type();
        if name.structured_demangle(&mut out, &options).is_ok() {
            return out.name;
        }
    }
    symbol.chars().take(LONGEST).collect()
}

#[derive(Default)]
struct Bounded {
    name: String,
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.name.len() + part.len() > LONGEST {
            return Err(fmt::Error);
        }
        self.name.push_str(part);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::demangle;

    #[test]
    fn names_of_three_languages() {
        assert_eq!(demangle("main"), "main");
        assert_eq!(demangle("_ZN4Tree4growEi"), "Tree::grow");
        assert_eq!(demangle("_ZN4Tree4growEi.cold"), "Tree::grow");
        assert_eq!(demangle("_Z4makeIiEPT_i"), "make<int>");
        assert_eq!(
            demangle("_ZN5alloc5alloc15exchange_malloc17h0123456789abcdefE"),
            "alloc::alloc::exchange_malloc"
        );
        assert_eq!(demangle("_RNvCs1234_7mycrate3foo"), "mycrate::foo");
    }

    #[test]
    fn a_name_that_doubles_with_each_substitution_stays() {
        let mut symbol = "_Z1fI".to_owned();
        symbol += "St4pairI1aS0_E";
        for index in 1..30 {
            let last = char::from_digit(index, 36).unwrap_or('0');
            let last = last.to_ascii_uppercase();
            symbol += &format!("St4pairIS{last}_S{last}_E");
        }
        symbol += "EvT_";
        assert!(demangle(&symbol).len() <= super::LONGEST);
    }
}
