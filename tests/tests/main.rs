//! Every promise to users, one module each, on real programs under the real loader.
//!
//! `tests/run` installs what this needs and runs it. A part: `cargo test -p allocs-tests -- layouts::`.
//! A failing test prints the command, what it printed and its directory, which is kept.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says that something is wrong by panicking"
)]

mod allocators;
mod bad_input;
mod bad_output;
mod bad_runtime;
mod book;
mod bounds;
mod build_systems;
mod build_systems_bazel;
mod build_systems_cargo;
mod build_systems_cmake;
mod changes;
mod combinations;
mod copy;
mod debugging;
mod diverted;
mod explain;
mod explain_bad;
mod explain_systems;
mod facades;
mod faults;
mod hooks;
mod hostile;
mod hostile_dynamic;
mod hostile_unwinding;
mod in_place;
mod index;
mod json;
mod languages;
mod layouts;
mod loader_model;
mod machines;
mod machines_explained;
mod machines_runtime;
mod machines_runtime_reports;
mod manuals;
mod musl;
mod object_file;
mod odd_layouts;
mod order;
mod own_allocators;
mod own_allocators_real;
mod own_allocators_refused;
mod own_operators;
mod packages;
mod phases;
mod picture;
mod pkg_config;
mod questions;
mod readme;
mod report;
mod report_bad;
mod report_lines;
mod report_pages;
mod reports;
mod rivals;
mod runtime_exports;
mod rust_crate;
mod samples;
mod snapshots;
mod stress;
mod system;
mod tools;
mod trees;
mod trees_again;
mod trees_in_place;
mod trees_killed;
mod trees_refused;
mod undo;
mod unwinding;
mod work;
mod x32;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    allocs_tests::trial::remember_places();
    // The long ones first, so that no core is idle at the end. The first of `packages` makes what the others wait for.
    let mut packages = packages::trials();
    let other_packages = packages.split_off(1);
    let trials = [
        packages,
        stress::trials(),
        own_allocators::trials(),
        own_allocators_real::trials(),
        own_allocators_refused::trials(),
        own_operators::trials(),
        index::trials(),
        json::trials(),
        trees_killed::trials(),
        questions::trials(),
        rust_crate::trials(),
        work::trials(),
        x32::trials(),
        hostile::trials(),
        hostile_dynamic::trials(),
        hostile_unwinding::trials(),
        machines_runtime::trials(),
        machines_runtime_reports::trials(),
        machines::trials(),
        machines_explained::trials(),
        samples::trials(),
        order::trials(),
        layouts::trials(),
        languages::trials(),
        odd_layouts::trials(),
        musl::trials(),
        phases::trials(),
        rivals::trials(),
        explain::trials(),
        explain_bad::trials(),
        explain_systems::trials(),
        allocators::trials(),
        bad_input::trials(),
        bad_output::trials(),
        bad_runtime::trials(),
        bounds::trials(),
        build_systems::trials(),
        build_systems_bazel::trials(),
        build_systems_cargo::trials(),
        build_systems_cmake::trials(),
        facades::trials(),
        copy::trials(),
        debugging::trials(),
        diverted::trials(),
        tools::trials(),
        hooks::trials(),
        reports::trials(),
        snapshots::trials(),
        runtime_exports::trials(),
        readme::trials(),
        book::trials(),
        picture::trials(),
        pkg_config::trials(),
        object_file::trials(),
        manuals::trials(),
        report::trials(),
        report_lines::trials(),
        report_pages::trials(),
        report_bad::trials(),
        combinations::trials(),
        undo::trials(),
        unwinding::trials(),
        trees::trials(),
        trees_again::trials(),
        trees_in_place::trials(),
        trees_refused::trials(),
        in_place::trials(),
        changes::trials(),
        faults::trials(),
        system::trials(),
        loader_model::trials(),
        other_packages,
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    system::print_tally();
    conclusion.exit_code()
}
