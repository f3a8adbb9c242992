//! What the programs do: they keep some of what they allocate, and print a sum; with arguments they hold the index
//! against a list of their own.

mod shadow;

use std::collections::BTreeMap;

/// What the arguments say: nothing, or how many threads, how many operations, and the seed of random numbers.
pub fn run(allocator: &str) {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .map(|argument| argument.parse().expect("a number"))
        .collect();
    match numbers[..] {
        [] => work(),
        [threads, operations, seed] => shadow::run(allocator, threads, operations, seed as u64),
        _ => std::process::exit(2),
    }
}

/// Allocates, in several threads, in all the ways that Rust has.
fn work() {
    let threads = (0..4).map(|thread| std::thread::spawn(move || chunks(thread)));
    let threads: Vec<_> = threads.collect();
    let sums = threads.into_iter().map(|thread| thread.join().unwrap_or(0));
    println!("{}", sums.sum::<usize>());
}

fn chunks(thread: usize) -> usize {
    #[repr(align(256))]
    struct Aligned([u8; 300]);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut names = BTreeMap::new();
    for number in 0..2000 {
        kept.push(vec![0; (number * 37 + thread) % 5000 + 1]);
        let mut grown = Vec::with_capacity(1);
        grown.extend((0..number % 300).map(|byte| byte as u8));
        kept.push(grown);
        names.insert(number, format!("{number} of {thread}"));
        let aligned = Box::new(Aligned([number as u8; 300]));
        kept[number].push(aligned.0[17]);
        if number % 3 == 0 {
            kept.swap_remove(number / 2);
            names.remove(&(number / 3));
        }
    }
    kept.iter().map(Vec::len).sum::<usize>() + names.values().map(String::len).sum::<usize>()
}
