//! A shadow log: chunks by all functions of the global allocator, in several threads that use each other's, and a list of
//! them that the index is held against: at any time for a thread's own, and for all of them while none works.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::ops::ControlFlow;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Barrier, Mutex};

/// Chunks of a thread's own, those that threads exchange, and what a thread has freed last.
const OWN: usize = 1000;
const SHARED: usize = 2000;
const FREED: usize = 64;
const ROUNDS: usize = 8;

/// Questions whose answer was right.
static ANSWERS: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
struct Chunk {
    base: usize,
    layout: Layout,
    pattern: u8,
}

/// What a thread has; in a lock, so that another can compare all of it.
struct Own {
    chunks: Vec<Option<Chunk>>,
    freed: Vec<usize>,
}

struct Log {
    shared: Vec<Mutex<Option<Chunk>>>,
    own: Vec<Mutex<Own>>,
    barrier: Barrier,
    allocator: &'static str,
}

/// Ends the program if it is wrong. (A panic would let the other threads wait.)
fn expect(right: bool, what: impl FnOnce() -> String) {
    if !right {
        eprintln!("{}", what());
        std::process::exit(99);
    }
}

fn next_random(state: &mut u64) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d) as usize
}

fn pointer(address: usize) -> *mut u8 {
    ptr::with_exposed_provenance_mut(address)
}

impl Chunk {
    fn make(random: &mut u64) -> Self {
        let number = next_random(random);
        let size = (number >> 32) % (1 << (number % 18)) + 1;
        let align = 1 << (number >> 8) % if number >> 16 & 7 == 0 { 13 } else { 5 };
        let layout = Layout::from_size_align(size, align).expect("a layout");
        let zeros = number >> 20 & 3 == 0;
        // SAFETY: the size is not 0.
        let base = unsafe {
            if zeros {
                alloc_zeroed(layout)
            } else {
                alloc(layout)
            }
        };
        expect(!base.is_null(), || format!("no memory for {layout:?}"));
        let chunk = Self {
            base: base.expose_provenance(),
            layout,
            pattern: 0,
        };
        expect(chunk.base % align == 0, || {
            format!("{base:p} is not aligned to {align}")
        });
        if zeros {
            chunk.check(size);
        }
        chunk.filled(number as u8)
    }

    /// The bytes that are written and looked at.
    fn bytes(&self) -> impl Iterator<Item = *mut u8> {
        let last = self.layout.size() - 1;
        [0, last / 2, last]
            .into_iter()
            .map(|at| pointer(self.base + at))
    }

    fn filled(mut self, pattern: u8) -> Self {
        self.pattern = pattern;
        // SAFETY: inside of the chunk, which is this thread's.
        self.bytes().for_each(|byte| unsafe { byte.write(pattern) });
        self
    }

    /// The bytes before `end` are what was written.
    fn check(&self, end: usize) {
        for byte in self.bytes().filter(|byte| byte.addr() < self.base + end) {
            // SAFETY: as above.
            let found = unsafe { byte.read() };
            expect(found == self.pattern, || {
                format!("{byte:p} was overwritten")
            });
        }
    }

    fn resized(self, random: &mut u64) -> Self {
        self.check(self.layout.size());
        let number = next_random(random);
        let size = (number >> 32) % (1 << (number % 18)) + 1;
        // SAFETY: a chunk of this layout.
        let base = unsafe { realloc(pointer(self.base), self.layout, size) };
        expect(!base.is_null(), || format!("no memory for {size} bytes"));
        let kept = self.layout.size().min(size);
        let kept = Self {
            base: base.expose_provenance(),
            ..self
        }
        .check_kept(kept);
        let layout = Layout::from_size_align(size, self.layout.align()).expect("a layout");
        Self { layout, ..kept }.filled(number as u8)
    }

    fn check_kept(self, size: usize) -> Self {
        self.check(size);
        self
    }

    fn free(self) {
        self.check(self.layout.size());
        // SAFETY: a chunk of this layout, which nobody has any more.
        unsafe { dealloc(pointer(self.base), self.layout) };
    }

    /// Allocators give less aligned chunks for few bytes; those are not known.
    fn may_be_unknown(&self) -> bool {
        self.base % 16 != 0
    }

    /// An address inside of it leads to it.
    fn ask(&self, random: &mut u64) {
        if !allocs::is_available() || self.may_be_unknown() {
            return;
        }
        let inside = pointer(self.base + next_random(random) % self.layout.size());
        let base = allocs::base(inside).map(|base| base.as_ptr().addr());
        let size = allocs::size(inside);
        let right = (base, size) == (Some(self.base), Some(self.layout.size()));
        expect(right, || {
            format!(
                "{inside:p} of {:#x}, {:?}: {base:x?}, {size:?}",
                self.base, self.layout
            )
        });
        ANSWERS.fetch_add(1, Relaxed);
    }
}

impl Log {
    fn operate(&self, own: &mut Own, random: &mut u64) {
        let number = next_random(random);
        let slot = &mut own.chunks[number % OWN];
        if number >> 32 & 1 == 0 {
            let shared = &self.shared[(number >> 10) % SHARED];
            std::mem::swap(slot, &mut shared.lock().expect("no panic"));
        }
        *slot = match (slot.take(), number >> 33 & 7) {
            (None, _) => Some(Chunk::make(random)),
            (Some(chunk), 0 | 1) => Some(chunk.resized(random)),
            (Some(chunk), 2) => {
                chunk.ask(random);
                Some(chunk)
            }
            (Some(chunk), _) => {
                chunk.free();
                own.freed[number % FREED] = chunk.base;
                None
            }
        };
    }

    /// Holds the index against the list while no other thread works.
    fn compare(&self) {
        if !allocs::is_available() {
            return;
        }
        let mut live = Vec::new();
        let mut freed = Vec::new();
        for own in &self.own {
            let own = own.lock().expect("no panic");
            live.extend(own.chunks.iter().flatten().copied());
            freed.extend(own.freed.iter().copied().filter(|base| *base != 0));
        }
        live.extend(
            self.shared
                .iter()
                .filter_map(|chunk| *chunk.lock().expect("no panic")),
        );
        live.sort_by_key(|chunk| chunk.base);
        let find = |base: usize| live.binary_search_by_key(&base, |chunk| chunk.base).ok();
        let mut seen = vec![0_u8; live.len()];
        let mut strangers = 0;
        let walked = allocs::walk(.., |allocation| {
            match find(allocation.base().addr()) {
                Some(index) => {
                    seen[index] += 1;
                    let size = live[index].layout.size();
                    let name = allocation.allocator().name().to_str();
                    let right = allocation.size() == size && name == Ok(self.allocator);
                    expect(right, || format!("{allocation:?} of {size} bytes"));
                }
                None => strangers += 1,
            }
            ControlFlow::<()>::Continue(())
        });
        expect(walked.is_ok(), || "no walk".to_owned());
        expect(strangers < 200, || {
            format!("{strangers} chunks that are not the program's")
        });
        for (chunk, seen) in live.iter().zip(seen) {
            let right = seen == 1 || (seen == 0 && chunk.may_be_unknown());
            expect(right, || {
                format!("{:#x} was reported {seen} times", chunk.base)
            });
            chunk.ask(&mut (chunk.base as u64));
        }
        // The lists here may be where something was freed.
        let lists = [live.as_ptr().addr(), freed.as_ptr().addr()];
        for base in freed
            .iter()
            .copied()
            .filter(|base| find(*base).is_none() && !lists.contains(base))
        {
            let found = allocs::base(pointer(base)).map(|found| found.as_ptr().addr());
            expect(found != Some(base), || format!("{base:#x} was freed"));
            ANSWERS.fetch_add(1, Relaxed);
        }
    }

    fn thread(&self, number: usize, operations: usize, seed: u64) {
        let mut random = seed * 1_000_003 + number as u64 + 1;
        for _ in 0..ROUNDS {
            {
                let mut own = self.own[number].lock().expect("no panic");
                for _ in 0..operations / ROUNDS {
                    self.operate(&mut own, &mut random);
                }
            }
            if self.barrier.wait().is_leader() {
                self.compare();
            }
            self.barrier.wait();
        }
    }
}

/// Prints "done" if all was right, and writes to the file that the variable ANSWERS names how much that was.
pub fn run(allocator: &str, threads: usize, operations: usize, seed: u64) {
    let own = || Own {
        chunks: vec![None; OWN],
        freed: vec![0; FREED],
    };
    let log: &Log = Box::leak(Box::new(Log {
        shared: (0..SHARED).map(|_| Mutex::new(None)).collect(),
        own: (0..threads).map(|_| Mutex::new(own())).collect(),
        barrier: Barrier::new(threads),
        allocator: allocator.to_owned().leak(),
    }));
    std::thread::scope(|scope| {
        for number in 0..threads {
            scope.spawn(move || log.thread(number, operations / threads, seed));
        }
    });
    println!("done");
    if let Some(file) = std::env::var_os("ANSWERS") {
        let answers = format!("{}\n", ANSWERS.load(Relaxed));
        std::fs::write(file, answers).expect("the number of answers");
    }
}
