//! Dynamic string tokens: $ORIGIN, $LIB and $PLATFORM in DT_NEEDED, DT_RPATH and DT_RUNPATH.
//!
//! A token is its name alone, or in braces; a name that goes on with a letter, digit or underscore
//! is another one and stays as it is (gABI, "Substitution Sequences"; glibc elf/dl-load.c, `is_dst`).

/// What the tokens stand for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens<'a> {
    /// The directory of the object that uses the token.
    pub(crate) origin: &'a [u8],
    pub(crate) lib: &'a [u8],
    pub(crate) platform: &'a [u8],
}

impl Tokens<'_> {
    /// `text` with every token replaced.
    pub(crate) fn expand(&self, text: &[u8]) -> Vec<u8> {
        let values = [
            (b"ORIGIN".as_slice(), self.origin),
            (b"PLATFORM", self.platform),
            (b"LIB", self.lib),
        ];
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = memchr::memchr(b'$', rest) {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            let token = values
                .iter()
                .find_map(|(name, value)| Some((token(rest, name)?, value)));
            match token {
                Some((len, value)) => {
                    out.extend_from_slice(value);
                    rest = &rest[len..];
                }
                None => out.push(b'$'),
            }
        }
        out.extend_from_slice(rest);
        out
    }
}

/// Length of the token `name` at the start of `text` (behind its `$`), if it is there.
fn token(text: &[u8], name: &[u8]) -> Option<usize> {
    if let Some(inside) = text.strip_prefix(b"{") {
        return inside
            .strip_prefix(name)?
            .starts_with(b"}")
            .then_some(name.len() + 2);
    }
    let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let after = text.strip_prefix(name)?.first();
    (!after.is_some_and(goes_on)).then_some(name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_tokens() {
        let tokens = Tokens {
            origin: b"/o",
            lib: b"lib64",
            platform: b"x86_64",
        };
        let cases: [(&[u8], &[u8]); 7] = [
            (b"$ORIGIN/../$LIB", b"/o/../lib64"),
            (b"${ORIGIN}x${PLATFORM}", b"/oxx86_64"),
            (b"$ORIGINS/$LIB_", b"$ORIGINS/$LIB_"),
            (b"${ORIGIN", b"${ORIGIN"),
            (b"$", b"$"),
            (b"$$LIB", b"$lib64"),
            (b"plain", b"plain"),
        ];
        for (text, expanded) in cases {
            assert_eq!(tokens.expand(text), expanded);
        }
    }
}
