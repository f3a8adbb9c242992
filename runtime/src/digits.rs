//! Numbers as text.

/// A number's digits; the largest has twenty.
pub(crate) struct Digits {
    digits: [u8; 20],
    leading: usize,
}

impl Digits {
    /// In that base, up to 16.
    #[inline(never)]
    pub(crate) fn of(number: usize, base: usize) -> Self {
        let mut digits = [b'0'; 20];
        let mut rest = number;
        let mut leading = digits.len();
        for digit in digits.iter_mut().rev() {
            let value = rest.checked_rem(base).unwrap_or_default();
            *digit = b"0123456789abcdef".get(value).copied().unwrap_or_default();
            leading = leading.wrapping_sub(1);
            rest = rest.checked_div(base).unwrap_or_default();
            if rest == 0 {
                break;
            }
        }
        Self { digits, leading }
    }

    pub(crate) fn get(&self) -> &[u8] {
        self.digits.get(self.leading..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_all_their_digits() {
        for number in [0, 7, 10, 10_002, usize::MAX] {
            assert_eq!(Digits::of(number, 10).get(), number.to_string().as_bytes());
            assert_eq!(
                Digits::of(number, 16).get(),
                format!("{number:x}").as_bytes()
            );
        }
    }
}
