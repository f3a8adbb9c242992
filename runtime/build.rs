//! Says how `liballocs_rt.so` is linked. Every argument stands for a promise of the runtime: nothing
//! is needed by it, nothing is left undefined, and it starts before everything else.

/// Linker arguments, in order, each with its reason.
const LINK_ARGUMENTS: [&str; 12] = [
    // No start files and no libraries: no DT_NEEDED, no constructor of somebody else.
    "-nostartfiles",
    "-nostdlib",
    // An undefined symbol would be a dependency in disguise.
    "-Wl,-z,defs",
    // The name that rewritten executables ask for.
    "-Wl,-soname,liballocs_rt.so.1",
    // DF_1_INITFIRST: its constructor comes before all others (glibc, elf/dl-init.c, _dl_init).
    "-Wl,-z,initfirst",
    // DT_INIT and DT_FINI hold offsets; DT_INIT_ARRAY would hold addresses, that is, relocations.
    "-Wl,-init=allocs_constructor",
    "-Wl,-fini=allocs_destructor",
    // Its hooks are bound into other objects for good: dlclose must not unmap it.
    "-Wl,-z,nodelete",
    "-Wl,-z,now",
    "-Wl,-z,relro",
    "-Wl,-z,noexecstack",
    "-Wl,--hash-style=gnu",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for argument in LINK_ARGUMENTS {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
}
