//! CMake rewrites a program after each link, with every generator, and installs what was rewritten.

use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::foreign::{self, AARCH64};
use allocs_tests::prefix::{Prefix, answers, copy_directory, stamp, starts_first};
use allocs_tests::tool::RUNTIME;
use allocs_tests::{Command, Dir, Outcome, needs, tree, trials};
use libtest_mimic::Trial;

use crate::build_systems::{SAMPLE, rebuilds};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["build_systems::cmake":
        ninja,
        makefiles,
        multi_config,
        installs,
        sysroot,
        another_machine,
        names_with_dollars_and_spaces,
        what_cannot_be_rewritten,
        mistakes,
        versions,
    ]
}

/// A project, and where it is built.
struct Project {
    prefix: Prefix,
    source: PathBuf,
    build: PathBuf,
    dir: Dir,
}

impl Project {
    /// The sample.
    fn sample(name: &str) -> Self {
        let project = Self::of(name, "");
        copy_directory(Path::new(SAMPLE), &project.source);
        project
    }

    /// A program of one line, and `text` in its CMakeLists.txt.
    fn of(name: &str, text: &str) -> Self {
        let dir = Dir::new(&format!("cmake-{name}"));
        dir.write("source/main.c", "int main(void) { return 0; }\n");
        let lists =
            "cmake_minimum_required(VERSION 3.25)\nproject(one C)\nadd_executable(one main.c)\n";
        dir.write("source/CMakeLists.txt", format!("{lists}{text}\n"));
        needs("gcc");
        Self {
            prefix: Prefix::new(&dir),
            source: dir.join("source"),
            build: dir.join("a build"),
            dir,
        }
    }

    fn configure(&self, arguments: &[&str]) -> Command {
        needs("ninja");
        let cmake = self.prefix.command(needs("cmake")).args(arguments);
        cmake.arg("-S").arg(&self.source).arg("-B").arg(&self.build)
    }

    fn build(&self) -> Command {
        let cmake = self.prefix.command(needs("cmake"));
        cmake.arg("--build").arg(&self.build)
    }

    /// The program that is installed as a package would, with what `arguments` add.
    fn install(&self, arguments: &[&str]) -> PathBuf {
        let stage = self.dir.join("stage");
        let install = self.prefix.command(needs("cmake")).env("DESTDIR", &stage);
        let install = install.arg("--install").arg(&self.build);
        install.args(["--prefix", "/usr"]).args(arguments).succeed();
        stage.join("usr/bin/concordance")
    }
}

fn works_with(name: &str, generator: &str) {
    let project = Project::sample(name);
    project.configure(&["-G", generator]).succeed();
    project.build().arg("-j2").succeed();
    let program = project.build.join("concordance");
    let runtime = project.prefix.runtime();
    starts_first(&program, &runtime);
    let source = project.source.join("main.c");
    rebuilds([&program, &source, &runtime], &project.prefix, || {
        project.build()
    });

    let built = stamp(&program);
    fs::copy(&runtime, project.dir.join("new")).expect("a copy");
    fs::rename(project.dir.join("new"), &runtime).expect("another runtime");
    let outcome = project.build().succeed();
    assert_ne!(stamp(&program), built, "{outcome}the runtime has changed");
    starts_first(&program, &runtime);
}

fn ninja() {
    works_with("ninja", "Ninja");
}

fn makefiles() {
    needs("make");
    works_with("makefiles", "Unix Makefiles");
}

fn multi_config() {
    let project = Project::sample("multi-config");
    project.configure(&["-G", "Ninja Multi-Config"]).succeed();
    for config in ["Debug", "Release"] {
        let build = project.build().args(["--config", config]);
        build.succeed();
        let program = project.build.join(config).join("concordance");
        starts_first(&program, &project.prefix.runtime());
        let built = stamp(&program);
        build.succeed();
        assert_eq!(stamp(&program), built, "{build}: nothing was to be done");
        let installed = project.install(&["--config", config]);
        starts_first(&installed, &project.prefix.runtime());
    }
}

/// CMake edits the run path of the file that it installs, or takes it out: in one that kept its size as in
/// one whose names have moved.
fn installs() {
    let project = Project::sample("installs");
    let long = project
        .dir
        .make("a/path/that/is/longer/than/any/string/that/can/be/recycled");
    let long = long.join(RUNTIME);
    fs::copy(project.prefix.runtime(), &long).expect("a copy");
    for runtime in [project.prefix.runtime(), long] {
        let named = format!("-DAllocsRewrite_RUNTIME={}", runtime.display());
        project.configure(&["-GNinja", &named, "--fresh"]).succeed();
        project.build().succeed();
        for arguments in [&["-v"], &["--strip"]] {
            let installed = project.install(arguments);
            starts_first(&installed, &runtime);
            assert_eq!(run_path(&installed).as_deref(), Some("$ORIGIN/../lib"));
        }
        project
            .configure(&["-DCMAKE_SKIP_INSTALL_RPATH=ON"])
            .succeed();
        let installed = project.install(&[]);
        assert_eq!(run_path(&installed), None);
        let library_path = project.dir.join("stage/usr/lib");
        let command = Command::new(installed).env("LD_LIBRARY_PATH", library_path);
        answers(&command.stdin(allocs_tests::prefix::TEXT));
    }
}

/// Library search path of the file, if there is one that is not empty.
fn run_path(file: &Path) -> Option<String> {
    let dynamic = Command::new(needs("readelf"))
        .arg("-dW")
        .arg(file)
        .succeed();
    let text = dynamic.stdout();
    let (_, path) = text.split_once("runpath: [")?;
    path.split_once(']').map(|(path, _)| path.to_owned())
}

/// A program for another system names the runtime by its soname, which that system's package has.
fn sysroot() {
    let bullseye = tree::all()[0].needed();
    let project = Project::sample("sysroot");
    // Packages come from the sysroot, as in most toolchain files. This one has a tool for the machine that builds.
    let text = format!(
        "set(CMAKE_SYSTEM_NAME Linux)
        set(CMAKE_SYSROOT {})
        set(CMAKE_C_COMPILER {})
        set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)",
        bullseye.root.display(),
        needs("clang").display()
    );
    let toolchain = project.dir.write("toolchain.cmake", text);
    let toolchain = format!("-DCMAKE_TOOLCHAIN_FILE={}", toolchain.display());
    let package = project.prefix.join("lib/cmake/AllocsRewrite");
    let package = format!("-DAllocsRewrite_DIR={}", package.display());
    project
        .configure(&["-GNinja", &toolchain, &package])
        .succeed();
    project.build().succeed();
    let program = project.install(&[]);
    let lib = project.dir.join("stage/usr/lib");
    fs::copy(project.prefix.runtime(), lib.join(RUNTIME)).expect("the target's runtime");
    let script = format!(
        "{} < {}",
        program.display(),
        project.source.join("main.c").display()
    );
    let variables = [("LD_LIBRARY_PATH", lib.display().to_string())];
    let outcome = bullseye.run(&variables, Path::new("/bin/sh"), &["-c", &script]);
    assert!(
        outcome.stdout().contains(" chunks of entry_new"),
        "{outcome}"
    );
}

/// The same for another machine, with Debian's cross compiler: the program there starts that machine's runtime.
fn another_machine() {
    let project = Project::sample("another-machine");
    let text = format!(
        "set(CMAKE_SYSTEM_NAME Linux)
        set(CMAKE_SYSTEM_PROCESSOR aarch64)
        set(CMAKE_C_COMPILER {})",
        needs("aarch64-linux-gnu-gcc").display()
    );
    let toolchain = project.dir.write("toolchain.cmake", text);
    let toolchain = format!("-DCMAKE_TOOLCHAIN_FILE={}", toolchain.display());
    project.configure(&["-GNinja", &toolchain]).succeed();
    project.build().succeed();
    let program = project.install(&[]);
    let lib = project.dir.join("stage/usr/lib");
    fs::copy(foreign::installed_runtime(), lib.join(RUNTIME)).expect("the target's runtime");
    let variables = [("LD_LIBRARY_PATH", lib.display().to_string())];
    let command = AARCH64.run_with(&variables, &AARCH64.libraries(), &program);
    answers(&command.stdin(allocs_tests::prefix::TEXT));
}

/// `$ORIGIN` gets through CMake, each generator and the shell.
fn names_with_dollars_and_spaces() {
    for generator in ["Ninja", "Unix Makefiles"] {
        let text = "find_package(AllocsRewrite REQUIRED)
            set_target_properties(one PROPERTIES OUTPUT_NAME \"one $ program\")
            allocs_rewrite(one RUNTIME [[$ORIGIN/a b/liballocs_rt.so.1]])";
        let project = Project::of("dollars", text);
        let beside = project.build.join("a b");
        fs::create_dir_all(&beside).expect("a directory");
        fs::copy(project.prefix.runtime(), beside.join(RUNTIME)).expect("a copy");
        project.configure(&["-G", generator]).succeed();
        project.build().succeed();
        let program = project.build.join("one $ program");
        let report = Command::new(program).env("ALLOCS_REPORT", "-").succeed();
        assert!(report.stderr().contains("started: relocation"), "{report}");
    }
}

/// The build fails, and does so again: no program is left that looks as if it were done.
fn what_cannot_be_rewritten() {
    for generator in ["Ninja", "Unix Makefiles"] {
        let text = "find_package(AllocsRewrite REQUIRED)
            target_link_options(one PRIVATE -static)
            allocs_rewrite(one)";
        let project = Project::of("static", text);
        project.configure(&["-G", generator]).succeed();
        for _ in 0..2 {
            let outcome = project.build().run();
            assert_ne!(outcome.code(), Some(0), "{outcome}");
            let text = outcome.stdout() + &outcome.stderr();
            assert!(text.contains("statically linked"), "{outcome}");
        }
    }
}

fn mistakes() {
    for (call, message) in [
        ("allocs_rewrite(two)", "there is no target two"),
        (
            "allocs_rewrite(lib)",
            "lib is no executable but a SHARED_LIBRARY",
        ),
        ("allocs_rewrite(one NAME x)", "does not take: NAME;x"),
        ("allocs_rewrite(one RUNTIME)", "does not take: RUNTIME"),
    ] {
        let text =
            format!("add_library(lib SHARED main.c)\nfind_package(AllocsRewrite REQUIRED)\n{call}");
        refused(&Project::of("mistakes", &text), &[], message);
    }
    let project = Project::of("mistakes", "find_package(AllocsRewrite REQUIRED)");
    let missing = ["-DAllocsRewrite_EXECUTABLE=/nonexistent/tool"];
    refused(&project, &missing, "there is no /nonexistent/tool");
}

fn refused(project: &Project, arguments: &[&str], message: &str) {
    let outcome = project.configure(arguments).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(words(&outcome).contains(message), "{outcome}{message}");
}

/// What CMake breaks into lines.
fn words(outcome: &Outcome) -> String {
    let stderr = outcome.stderr();
    stderr.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn versions() {
    let version = env!("CARGO_PKG_VERSION");
    let text = format!(
        "find_package(AllocsRewrite {version} EXACT REQUIRED)
         find_package(AllocsRewrite 0.1 REQUIRED)
         find_package(AllocsRewrite REQUIRED)"
    );
    Project::of("versions", &text).configure(&[]).succeed();
    for other in ["0.0.9", "0.2", "1"] {
        let text = format!("find_package(AllocsRewrite {other} REQUIRED)");
        refused(&Project::of("versions", &text), &[], "version: 0.1.0");
    }
}
