//! Where no output can be written, the rewrite is refused: exit status 1, one message that names the place, nothing written.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use allocs_tests::{Command, Dir, Rewrite, trials};
use libtest_mimic::Trial;

use crate::bad_input::{as_nobody, out, program};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["bad_output":
        directory_missing,
        directory_not_writable,
        no_file,
        program_by_another_name,
    ]
}

fn directory_missing() {
    let dir = Dir::new("out-missing");
    let target = dir.join("no/such/directory/out");
    let prog = program(&dir);
    Rewrite::new(prog, &target).refuse(&dir.path(), &dir.join("no/such"), &["No such file"]);
}

fn directory_not_writable() {
    let dir = Dir::new("out-not-writable");
    let prog = program(&dir);
    let target = out(&dir);
    fs::set_permissions(dir.join("out"), Permissions::from_mode(0o555)).expect("mode 0555");
    let command = as_nobody(&dir, &prog, &target);
    Rewrite::new(&prog, &target).map(|_| command).refuse(
        &dir.path(),
        &dir.join("out"),
        &["Permission denied"],
    );
}

fn no_file() {
    let dir = Dir::new("out-is-no-file");
    let prog = program(&dir);
    let directory = dir.make("a-directory");
    Rewrite::new(&prog, &directory).refuse(&dir.path(), &directory, &["director"]);

    let null = Path::new("/dev/null");
    Rewrite::new(&prog, null).refuse(&dir.path(), null, &["device"]);
    let meta = fs::metadata(null).expect("/dev/null");
    assert!(!meta.is_file(), "/dev/null was replaced");

    let fifo = dir.join("a-fifo");
    Command::line("mkfifo").arg(&fifo).succeed();
    let outcome = Rewrite::new(&prog, &fifo).refuse(&dir.path(), &fifo, &[]);
    assert!(
        outcome.stderr().to_lowercase().contains("fifo"),
        "{outcome}"
    );

    // Dangling: writing through it would make a file where nobody looks for it.
    let link = dir.join("a-link");
    symlink(dir.join("nowhere"), &link).expect("a link");
    let outcome = Rewrite::new(&prog, &link).run();
    let is_link = fs::symlink_metadata(&link).expect("the link").is_symlink();
    assert!(
        outcome.code() == Some(1) || !is_link || dir.join("nowhere").exists(),
        "{outcome}success, and nothing was written"
    );
}

fn program_by_another_name() {
    let dir = Dir::new("same-file");
    let prog = program(&dir);
    let link = dir.join("symbolic");
    symlink(&prog, &link).expect("a symbolic link");
    let hard = dir.join("hard");
    fs::hard_link(&prog, &hard).expect("a hard link");
    for other in [&link, &hard] {
        Rewrite::new(&prog, other).refuse(&dir.path(), other, &["another name"]);
        Rewrite::new(other, &prog).refuse(&dir.path(), &prog, &["another name"]);
    }
}
