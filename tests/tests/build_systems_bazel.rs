//! Bazel runs the rewrite as an action that reads its inputs and nothing else, in a sandbox, from a repository of
//! its own.
//!
//! The build is offline: the rules that Bazel fetches from elsewhere are Debian's, but for those of C, which Debian
//! has in a version that its Bazel cannot load; those are Bazel's own under another name.

use std::path::{Path, PathBuf};

use allocs_tests::prefix::{Prefix, TEXT, answers, copy_directory, starts_first};
use allocs_tests::tool::RUNTIME;
use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;

use crate::build_systems::{SAMPLE, rebuilds};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["build_systems::bazel": builds, reads_its_inputs_only, version]
}

/// A copy of the sample, as Bazel's workspace.
struct Workspace {
    prefix: Prefix,
    path: PathBuf,
    dir: Dir,
}

impl Workspace {
    fn new() -> Self {
        let dir = Dir::new("bazel");
        let path = dir.make("workspace");
        copy_directory(Path::new(SAMPLE), &path);
        let build = std::fs::read_to_string(path.join("BUILD.bazel")).expect("BUILD.bazel");
        // Two in a package share the link to the runtime.
        let second = "allocs_rewrite(name = \"second\", program = \":program\")\n";
        dir.write("workspace/BUILD.bazel", build + second);
        dir.write("rules_cc/WORKSPACE", "");
        dir.write("rules_cc/cc/BUILD", "");
        let rules = [
            "cc_binary",
            "cc_library",
            "cc_toolchain",
            "cc_toolchain_suite",
        ];
        let rules = rules.map(|rule| format!("{rule} = native.{rule}\n"));
        dir.write("rules_cc/cc/defs.bzl", rules.concat());
        needs("gcc");
        Self {
            prefix: Prefix::new(&dir),
            path,
            dir,
        }
    }

    fn bazel(&self, verb: &str) -> Command {
        let bazel = self.prefix.command(needs("bazel")).dir(&self.path);
        let root = format!("--output_user_root={}", self.dir.join("output").display());
        let mut bazel = bazel.args([&root, "--max_idle_secs=15", verb]);
        if verb == "shutdown" {
            return bazel;
        }
        for (repository, path) in [
            (
                "allocs_rewrite",
                self.prefix.join("share/allocs-rewrite/bazel"),
            ),
            ("rules_cc", self.dir.join("rules_cc")),
            ("rules_java", debian("rules/java")),
            ("rules_proto", debian("rules/proto")),
            ("platforms", debian("platforms")),
        ] {
            let path = path.display();
            bazel = bazel.arg(format!("--override_repository={repository}={path}"));
        }
        bazel
    }

    fn build(&self) -> Command {
        self.bazel("build").arg("//...")
    }

    /// The path of a result, without links.
    fn result(&self, name: &str) -> PathBuf {
        let path = self.path.join("bazel-bin").join(name);
        path.canonicalize().expect("a result")
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // The server: it would end by itself, too.
        self.bazel("shutdown").run();
    }
}

fn debian(repository: &str) -> PathBuf {
    let workspace = format!("/usr/share/bazel/{repository}/WORKSPACE");
    needs(&workspace).with_file_name("")
}

fn builds() {
    let workspace = Workspace::new();
    workspace.build().succeed();
    let program = workspace.result("concordance");
    let runtime = program.with_file_name(RUNTIME);
    starts_first(&program, &runtime);
    starts_first(&workspace.result("second"), &runtime);
    let run = workspace.bazel("run").arg("//:concordance").stdin(TEXT);
    answers(&run);

    let source = workspace.path.join("main.c");
    rebuilds([&program, &source, &runtime], &workspace.prefix, || {
        workspace.build()
    });

    let cache = format!("--disk_cache={}", workspace.dir.join("cache").display());
    workspace.bazel("clean").succeed();
    workspace.build().arg(&cache).succeed();
    workspace.bazel("clean").succeed();
    let outcome = workspace.build().arg(&cache).succeed();
    let text = outcome.stderr();
    let summary = text.lines().find(|line| line.contains(" processes: "));
    let cached =
        summary.is_some_and(|line| line.contains("cache hit") && !line.contains("sandbox"));
    assert!(cached, "{outcome}");
    starts_first(&program, &runtime);

    // What decides whether a remote worker has to do it, or a cache has it.
    let action = workspace.bazel("aquery");
    let action = action
        .arg("mnemonic(AllocsRewrite, //:concordance)")
        .succeed();
    let text = action.stdout();
    let line = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("{action}no {name}"))
            .to_owned()
    };
    let bin = "bazel-out/k8-fastbuild/bin";
    assert_eq!(
        line("Inputs: "),
        format!("[{bin}/{RUNTIME}, {bin}/program, external/allocs_rewrite/allocs-rewrite]")
    );
    assert_eq!(line("Outputs: "), format!("[{bin}/concordance]"));
    assert!(!text.contains("Environment"), "{action}");
}

/// The command line of the action, in no environment: all that it opens are its inputs, and what the loader needs.
fn reads_its_inputs_only() {
    let dir = Dir::new("hermetic");
    let prefix = Prefix::new(&dir);
    let log = dir.join("log");
    let out = dir.make("execroot/bin");
    std::fs::copy(prefix.runtime(), out.join(RUNTIME)).expect("an input");
    std::fs::copy("/bin/true", out.join("program")).expect("an input");
    let tool = prefix.join("bin/allocs-rewrite");
    let execroot = dir.join("execroot").display().to_string();
    let strace = Command::new(needs("strace")).dir(&execroot);
    strace
        .args(["-f", "-z", "-e", "trace=file", "-o"])
        .arg(&log)
        .args(["env", "-i"])
        .arg(&tool)
        .args([
            "--quiet",
            "--runtime",
            "$ORIGIN/liballocs_rt.so.1",
            "bin/program",
        ])
        .args(["-o", "bin/result"])
        .succeed();
    let log = std::fs::read_to_string(log).expect("the log");
    let own = log.split_once(&format!("execve(\"{}\"", tool.display()));
    let (_, own) = own.unwrap_or_else(|| panic!("it is not started\n{log}"));
    for line in own.lines().skip(1) {
        let Some(path) = line.split('"').nth(1) else {
            continue; // a signal, or the end
        };
        // Where the loader and Rust's standard library look for what they need of the machine.
        let machine = [
            "/lib/",
            "/usr/lib/",
            "/etc/ld.so.",
            "/proc/self/",
            "/sys/fs/cgroup",
        ];
        let path = path.strip_prefix(&*execroot).unwrap_or(path);
        let path = path.trim_start_matches('/');
        let expected = path.is_empty()
            || path.starts_with("bin/")
            || machine.iter().any(|place| path.starts_with(&place[1..]));
        assert!(expected, "{path}\n{own}");
    }
}

fn version() {
    let module = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../rewriter/bazel/MODULE.bazel"
    );
    let module = std::fs::read_to_string(module).expect("MODULE.bazel");
    let line = format!("version = \"{}\",", env!("CARGO_PKG_VERSION"));
    assert!(module.contains(&line), "{module}");
}
