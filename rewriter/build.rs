//! Builds the runtime and hands its file to the crate, which embeds it.
//!
//! The runtime has a build script, a profile and link arguments of its own, so it is cargo that
//! builds it: always optimised, whatever this crate is built for, and in a target directory of its
//! own, because the outer cargo holds the lock of the usual one.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../runtime");
    let target = PathBuf::from(env::var("OUT_DIR")?).join("runtime");
    for input in ["Cargo.toml", "build.rs", "src", "../Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", runtime.join(input).display());
    }
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo
        .args(["build", "--release", "--lib", "--manifest-path"])
        .arg(runtime.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    // What is meant for this crate's own build (a lint driver, coverage, a cross target) is not
    // meant for the runtime.
    for variable in [
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "CARGO_BUILD_TARGET",
    ] {
        cargo.env_remove(variable);
    }
    if !cargo.status()?.success() {
        return Err("the runtime did not build; its errors are above".into());
    }
    let library = target.join("release/liballocs_rt.so");
    println!("cargo::rustc-env=ALLOCS_RUNTIME={}", library.display());
    Ok(())
}
