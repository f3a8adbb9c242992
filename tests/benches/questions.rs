//! What the questions of `allocs.h` cost, in a program with one thread that was rewritten.
//!
//!     cargo bench -p allocs-tests --bench questions

use std::path::Path;
use std::time::Duration;

use allocs_tests::{Command, Dir, Rewrite, needs};

fn main() {
    let dir = Dir::new("bench-questions");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = dir.join("cost");
    Command::new(needs("gcc"))
        .args(["-O2", "-fno-builtin", "-I"])
        .arg(root.join("../runtime/include"))
        .arg("-o")
        .args([&program, &root.join("programs/cost.c")])
        .succeed();
    let result = Rewrite::new(&program, dir.make("rewritten").join("cost")).succeed();
    let limit = Duration::from_secs(600);
    print!("{}", result.command().limit(limit).succeed().stdout());
}
