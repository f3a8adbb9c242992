//! Says how `liballocs_rt.so` is linked. Every argument stands for a promise of the runtime: nothing
//! is needed by it, nothing is left undefined, and it starts before everything else.

use std::env;

/// Linker arguments, in order, each with its reason.
const LINK_ARGUMENTS: [&str; 10] = [
    // No start files and no libraries: no DT_NEEDED, no constructor of somebody else.
    "-nostartfiles",
    "-nostdlib",
    // An undefined symbol would be a dependency in disguise.
    "-Wl,-z,defs",
    // The name that rewritten executables ask for.
    "-Wl,-soname,liballocs_rt.so.1",
    // DF_1_INITFIRST: its constructor comes before all others (glibc, elf/dl-init.c, _dl_init).
    "-Wl,-z,initfirst",
    // Its hooks are bound into other objects for good: dlclose must not unmap it.
    "-Wl,-z,nodelete",
    "-Wl,-z,now",
    "-Wl,-z,relro",
    "-Wl,-z,noexecstack",
    "-Wl,--hash-style=gnu",
];

/// What is called at the start and at the end (src/machine/x86_64/stubs.rs, `called_by_loader`).
const X86_64: [&str; 2] = [
    "-Wl,-init=allocs_constructor",
    "-Wl,-fini=allocs_destructor",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is_x86_64 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|machine| machine == "x86_64");
    let of_machine = X86_64.iter().filter(|_| is_x86_64);
    for argument in LINK_ARGUMENTS.iter().chain(of_machine) {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
}
