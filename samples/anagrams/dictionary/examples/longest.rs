//! Prints a longest word that has anagrams.

fn main() {
    let dictionary = dictionary::Dictionary::usual();
    let words = dictionary.classes().into_iter().flatten();
    println!(
        "{}",
        words.max_by_key(|word| word.len()).map_or("", |word| word)
    );
}
