//! Sorts the words, so that the program need not. A build script is not rewritten: it is no part of the product.

use std::error::Error;
use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=words");
    let words = fs::read_to_string("words")?;
    let mut words: Vec<&str> = words.split_whitespace().collect();
    words.sort_unstable();
    let out = PathBuf::from(env::var("OUT_DIR")?).join("words");
    Ok(fs::write(out, words.join("\n"))?)
}
