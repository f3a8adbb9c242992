//! What the words are, and what the runtime knows of them if it is there.

use dictionary::Dictionary;

#[test]
fn largest_first() {
    let dictionary = Dictionary::usual();
    assert_eq!(
        dictionary.classes()[0],
        ["enlist", "listen", "silent", "tinsel"]
    );
}

#[test]
fn every_letter_is_a_byte() {
    if let Some(bytes) = Dictionary::usual().bytes() {
        assert_eq!(bytes, 84);
    }
}
