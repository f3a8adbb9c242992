//! Words, and which of them are anagrams of each other.

use std::collections::BTreeMap;

/// All words, by their letters.
#[derive(Debug, Default)]
pub struct Dictionary {
    classes: BTreeMap<String, Vec<String>>,
}

/// The letters of a word in the order of the alphabet: the same for all its anagrams.
///
/// ```
/// assert_eq!(dictionary::letters("listen"), dictionary::letters("silent"));
/// ```
pub fn letters(word: &str) -> String {
    let mut letters: Vec<char> = word.chars().collect();
    letters.sort_unstable();
    letters.into_iter().collect()
}

impl Dictionary {
    /// The words that the build script has sorted.
    pub fn usual() -> Self {
        let mut dictionary = Self::default();
        for word in include_str!(concat!(env!("OUT_DIR"), "/words")).lines() {
            let class = dictionary.classes.entry(letters(word)).or_default();
            class.push(word.to_owned());
        }
        dictionary
    }

    /// Words that are anagrams of each other, the largest class first.
    pub fn classes(&self) -> Vec<&[String]> {
        let mut classes: Vec<&[String]> = self.classes.values().map(Vec::as_slice).collect();
        classes.retain(|class| class.len() > 1);
        classes.sort_by_key(|class| std::cmp::Reverse(class.len()));
        classes
    }

    /// How many bytes the runtime says that the words take, or nothing if it is not in this process.
    pub fn bytes(&self) -> Option<usize> {
        let words = self.classes.values().flatten();
        words.map(|word| allocs::size(word.as_ptr())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::letters;

    #[test]
    fn letters_are_sorted() {
        assert_eq!(letters("heart"), "aehrt");
    }
}
