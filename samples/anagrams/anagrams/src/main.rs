//! Prints classes of anagrams, and what they cost: the runtime knows.

use dictionary::Dictionary;

fn main() {
    let dictionary = Dictionary::usual();
    for class in dictionary.classes() {
        println!("{}", class.join(" "));
    }
    match dictionary.bytes() {
        Some(bytes) => println!("{bytes} bytes of words"),
        None => println!("nobody knows what they cost"),
    }
}
