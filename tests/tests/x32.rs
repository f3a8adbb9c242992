//! A program for x32: rewritten here, and run by a kernel that has that ABI, which Debian's has with `syscall.x32=y`,
//! in an emulator.

use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::{Command, Dir, Rewrite, complaints, needs, tree, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["x32": runs_as_before]
}

/// Runs both programs, and says what they say; descriptor 3 is for the runtime.
const INIT: &str = r#"
    #include <stdio.h>
    #include <sys/mount.h>
    #include <sys/reboot.h>
    #include <sys/wait.h>
    #include <unistd.h>
    int main(void) {
        mount("proc", "/proc", "proc", 0, "");
        const char *programs[] = {"/original", "/rewritten"};
        for (int i = 0; i < 2; i++) {
            printf("run %s\n", programs[i]);
            fflush(stdout);
            if (fork() == 0) {
                dup2(1, 3);
                execl(programs[i], "program", "word", NULL);
                perror("exec");
                _exit(127);
            }
            int status;
            wait(&status);
            printf("status %x\n", status);
        }
        puts("run end");
        fflush(stdout);
        reboot(RB_POWER_OFF);
    }"#;

fn runs_as_before() {
    let dir = Dir::new("x32");
    let root = dir.join("root");
    for part in ["proc", "libx32"] {
        fs::create_dir_all(root.join(part)).expect("a directory");
    }
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let compile = |source: PathBuf, out: &str, flags: &[&str]| {
        let compiler = Command::new(needs("x86_64-linux-gnux32-gcc")).dir(&root);
        let compiler = compiler.args(["-O1", "-o", out]).arg(source);
        compiler.args(flags).succeed();
    };
    let library = ["-shared", "-fPIC", "-Wl,-z,initfirst"];
    compile(
        programs.join("liballocs_other.c"),
        "liballocs_other.so",
        &library,
    );
    compile(
        programs.join("libmachine.c"),
        "libmachine.so",
        &library[..2],
    );
    let flags = ["-fPIE", "-pie", "./libmachine.so", "-Wl,-rpath,$ORIGIN"];
    compile(programs.join("machine.c"), "original", &flags);
    for file in ["libx32/ld-linux-x32.so.2", "libc.so.6"] {
        let name = Path::new(file).file_name().expect("a name");
        let from = Path::new("/usr/x86_64-linux-gnux32/lib").join(name);
        fs::copy(from, root.join(file)).expect("x32's libc");
    }
    let init = dir.write("init.c", INIT);
    Command::new(needs("gcc"))
        .args(["-static", "-o"])
        .arg(root.join("init"))
        .arg(init)
        .succeed();
    let original = root.join("original");
    let rewritten = Rewrite::new(&original, root.join("rewritten"))
        .args_line("--runtime $ORIGIN/liballocs_other.so --init allocs_preinit")
        .succeed();
    complaints::assert_none_new(&original, &rewritten.path);
    assert!(
        rewritten.undo() == fs::read(&original).expect("the original"),
        "undo"
    );

    let said = boot(&dir, &root);
    let part = |from: &str, to: &str| -> String {
        let start = said
            .find(from)
            .unwrap_or_else(|| panic!("no {from}: {said}"));
        let rest = &said[start + from.len()..];
        let end = rest.find(to).unwrap_or_else(|| panic!("no {to}: {said}"));
        rest[..end].to_owned()
    };
    let before = part("run /original\n", "run /rewritten\n");
    let after = part("run /rewritten\n", "run end\n");
    assert!(before.starts_with("constructor 5 13 11 word\n"), "{said}");
    assert!(before.ends_with("status 2a00\n"), "{said}");
    assert_eq!(
        after.replace("early 0\ncalled 1\nphase 1\n", ""),
        before,
        "{said}"
    );
    assert_ne!(after, before, "the runtime came first");
}

/// What the emulated machine says that starts `init` below `root`.
fn boot(dir: &Dir, root: &Path) -> String {
    let archive = dir.join("initramfs");
    let pack = format!(
        "find . | '{}' -o -H newc -O '{}'",
        needs("cpio").display(),
        archive.display()
    );
    Command::new("/bin/sh")
        .args(["-c", &pack])
        .dir(root)
        .succeed();
    let machine = "-m 256 -nodefaults -nographic -no-reboot -serial stdio";
    let outcome = Command::new(needs("qemu-system-x86_64"))
        .args(machine.split_whitespace())
        .arg("-kernel")
        .arg(tree::kernel())
        .arg("-initrd")
        .arg(archive)
        .arg("-append")
        .arg("console=ttyS0 quiet panic=-1 syscall.x32=y rdinit=/init")
        .succeed();
    outcome.stdout().replace('\r', "")
}
