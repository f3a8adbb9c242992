//! What every test here needs: a directory that survives a failure, a command whose failure tells
//! everything, the rewriter built once, samples built by real compilers, and ELF facts read without
//! any of the rewriter's own code.
//!
//! | module | what |
//! | --- | --- |
//! | [`mod@trial`] | tests by name; a panic is a failure with its place |
//! | [`dir`] | temporary directories |
//! | [`command`] | run with a time limit, compare, report |
//! | [`mod@needs`] | programs that must be installed, and the packages that have them |
//! | [`behaviour`] | whether a program does what it did before |
//! | [`both_ways`] | a program rewritten with and without growing |
//! | [`tool`] | `allocs-rewrite`: where it is, its JSON |
//! | [`prefix`] | the project, installed |
//! | [`mirror`] | a tree where system programs can be replaced |
//! | [`sample`] | `samples/`: directives, compilers, variants |
//! | [`elf`] | segments, dynamic entries, preinit entries of a file |
//! | [`structure`] | what must be true of every rewritten file |
//! | [`looked_at`] | a program for debuggers and the like, before and after |
//! | [`graph`] | generated programs with many libraries |
//! | [`report`] | what ALLOCS_REPORT wrote |
//! | [`census`] | reports made by hand, about real programs |
//! | [`loader`] | what LD_DEBUG wrote |
//! | [`complaints`] | what readelf and elflint say |
//! | [`tree`] | root trees with other versions of glibc |
//! | [`foreign`] | other machines |
//! | [`machine`] | a machine where packages can be installed |
//! | [`mod@snapshot`] | all that a tree of files has |
//! | [`others`] | other rewriters |
//! | [`xfs`] | a file system that shares blocks |
//! | [`explain`] | what `allocs-rewrite explain` says |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says that something is wrong by panicking"
)]

pub mod behaviour;
pub mod both_ways;
pub mod census;
pub mod command;
pub mod complaints;
pub mod dir;
pub mod elf;
pub mod explain;
pub mod foreign;
pub mod graph;
pub mod loader;
pub mod looked_at;
pub mod machine;
pub mod mirror;
pub mod needs;
pub mod others;
pub mod prefix;
pub mod report;
pub mod sample;
pub mod snapshot;
pub mod structure;
pub mod tool;
pub mod tree;
pub mod trial;
pub mod xfs;

pub use command::{Command, Outcome};
pub use dir::Dir;
pub use needs::needs;
pub use tool::Rewrite;
pub use trial::trial;
