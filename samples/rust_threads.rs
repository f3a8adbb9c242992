// Plain Rust as rustc builds it: std, threads, channels, a HashMap, a caught panic. rustc links
// with lld, whose executables leave no spare entries in `.dynamic`.
//
//# flags: -O

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc;
use std::thread;

fn collatz(mut n: u64, known: &mut HashMap<u64, u32>) -> u32 {
    let start = n;
    let mut steps = 0;
    while n != 1 {
        if let Some(rest) = known.get(&n) {
            steps += rest;
            break;
        }
        n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    known.insert(start, steps);
    steps
}

fn main() {
    let (send, receive) = mpsc::channel::<(usize, Vec<u32>)>();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let send = send.clone();
            thread::Builder::new()
                .name(format!("worker {worker}"))
                .spawn(move || {
                    let mut known = HashMap::new();
                    let steps = (1..20_000).map(|n| collatz(n, &mut known)).collect();
                    send.send((worker, steps)).expect("main receives");
                })
                .expect("a thread starts")
        })
        .collect();
    drop(send);

    let results: BTreeMap<usize, Vec<u32>> = receive.iter().collect();
    for worker in workers {
        worker.join().expect("no worker panics");
    }
    for (worker, steps) in &results {
        let longest = steps.iter().max().expect("not empty");
        println!("worker {worker}: {} numbers, longest {longest}", steps.len());
    }

    std::panic::set_hook(Box::new(|info| eprintln!("hook: {}", info.payload().is::<&str>())));
    let caught = std::panic::catch_unwind(|| panic!("on purpose"));
    println!("caught: {}", caught.is_err());

    let mut text = String::new();
    for n in 0..10_000 {
        text.push_str(&n.to_string());
    }
    println!("{} bytes of text", text.len());
    std::process::exit(7);
}
