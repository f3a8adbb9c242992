//! Commands with a time limit, whose failure tells everything that is needed to repeat them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process_group, pidfd_open, setrlimit, setsid,
};

/// Long enough for anything here that does not hang, on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The environment is the same for every command, wherever the tests run: short, in no language,
/// and without any LD_ variable or ALLOCS_ variable of the caller.
const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "PATH",
        "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    ),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
    ("HOME", "/nonexistent"),
];

/// A command to run: in a session of its own, without a terminal, with a time limit.
#[derive(Debug, Clone)]
pub struct Command {
    program: OsString,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    dir: Option<PathBuf>,
    stdin: Vec<u8>,
    limit: Duration,
    resource_limits: Vec<(Resource, u64)>,
}

impl Command {
    /// Runs `program`, a path or a name to look up in PATH.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let env = ENVIRONMENT
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect();
        Self {
            program: program.as_ref().to_owned(),
            arg0: None,
            args: Vec::new(),
            env,
            dir: None,
            stdin: Vec::new(),
            limit: LIMIT,
            resource_limits: vec![(Resource::Core, 0)],
        }
    }

    /// `line` split at blanks: program and arguments.
    pub fn line(line: &str) -> Self {
        let mut words = line.split_whitespace();
        Self::new(words.next().expect("a program")).args(words)
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Another argv\[0\] than the program's path.
    pub fn arg0(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.arg0 = Some(arg.as_ref().to_owned());
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// The working directory; it is listed when the command fails.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// What it reads; without this, nothing.
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = bytes.as_ref().to_vec();
        self
    }

    /// Another time limit than two minutes.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Limits the size of the files that it writes, its output among them.
    pub fn file_size_limit(mut self, bytes: u64) -> Self {
        self.resource_limits.push((Resource::Fsize, bytes));
        self
    }

    /// Limits its memory, in bytes of address space.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.resource_limits.push((Resource::As, bytes));
        self
    }

    /// Limits its time on a processor: unlike [`limit`](Self::limit), the same on a busy machine.
    pub fn processor_limit(mut self, seconds: u64) -> Self {
        self.resource_limits.push((Resource::Cpu, seconds));
        self
    }

    /// Lets it leave a core dump, which no command here does otherwise. The hard limit has to allow that.
    pub fn core_dumps(mut self) -> Self {
        self.resource_limits
            .retain(|(resource, _)| *resource != Resource::Core);
        self.resource_limits.push((Resource::Core, u64::MAX)); // RLIM_INFINITY
        self
    }

    /// Runs it to its end or to the time limit; whatever it left running in its session's process
    /// group is ended.
    pub fn run(&self) -> Outcome {
        let output = || tempfile::tempfile().expect("a temporary file");
        let (mut stdout, mut stderr) = (output(), output());
        let mut command = std::process::Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(&self.env)
            .stdin(self.stdin_file())
            // Files and not pipes: a program that leaves a daemon behind cannot hold up the test.
            .stdout(stdout.try_clone().expect("a second handle"))
            .stderr(stderr.try_clone().expect("a second handle"));
        if let Some(arg0) = &self.arg0 {
            command.arg0(arg0);
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let limits = self.resource_limits.clone();
        let prepare = move || {
            setsid()?;
            for &(resource, value) in &limits {
                let limit = Rlimit {
                    current: Some(value),
                    maximum: Some(value),
                };
                setrlimit(resource, limit)?;
            }
            Ok(())
        };
        // SAFETY: the closure makes raw system calls only, which is allowed between fork and exec.
        unsafe { command.pre_exec(prepare) };
        let mut child = spawn(&mut command).unwrap_or_else(|e| panic!("cannot start {self}: {e}"));

        let pid = Pid::from_child(&child);
        let ended = {
            let fd = pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd");
            let limit = Timespec {
                tv_sec: i64::try_from(self.limit.as_secs()).expect("a short limit"),
                tv_nsec: self.limit.subsec_nanos().into(),
            };
            let fds = &mut [PollFd::new(&fd, PollFlags::IN)];
            poll(fds, Some(&limit)).expect("poll") == 1
        };
        // The child is not reaped yet, so the group's id cannot be another's; a child that is the
        // last of its group is no error.
        let _ = kill_process_group(pid, Signal::KILL);
        let status = child.wait().expect("the child's status");
        Outcome {
            command: self.clone(),
            status: ended.then_some(status),
            stdout: contents(&mut stdout),
            stderr: contents(&mut stderr),
        }
    }

    /// Runs it; it must end with status 0.
    pub fn succeed(&self) -> Outcome {
        let outcome = self.run();
        assert!(outcome.code() == Some(0), "{outcome}should have succeeded");
        outcome
    }

    fn stdin_file(&self) -> Stdio {
        if self.stdin.is_empty() {
            return Stdio::null();
        }
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&self.stdin).expect("stdin written");
        file.rewind().expect("stdin rewound");
        Stdio::from(file)
    }
}

/// The command as a line for a shell.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dir) = &self.dir {
            write!(f, "cd {} && ", dir.display())?;
        }
        write!(f, "env -i")?;
        for (name, value) in &self.env {
            write!(f, " {}={}", name.display(), quoted(value))?;
        }
        write!(f, " {}", quoted(&self.program))?;
        for arg in &self.args {
            write!(f, " {}", quoted(arg))?;
        }
        Ok(())
    }
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.,=+:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A program that a test has just written may be busy: another test's child that is between fork
/// and exec holds every descriptor of this process, the one for writing as well.
fn spawn(command: &mut std::process::Command) -> io::Result<Child> {
    for _ in 0..100 {
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
    command.spawn()
}

fn contents(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().expect("output rewound");
    file.read_to_end(&mut bytes).expect("output read");
    bytes
}

/// How a command ended and what it printed. Shown, it is everything that helps to repeat it.
#[derive(Debug, Clone)]
pub struct Outcome {
    command: Command,
    /// Its exit status, or nothing when the time limit ended it.
    pub status: Option<ExitStatus>,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// The exit status, if it exited by itself and by no signal.
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    /// stdout as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stderr as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// How it ended, in words.
    pub fn ending(&self) -> String {
        match self.status {
            None => "ended by the time limit".to_owned(),
            Some(status) => match status.signal() {
                Some(signal) => format!("ended by signal {signal}"),
                None => format!("exit status {}", status.code().unwrap_or(-1)),
            },
        }
    }

    /// Status, stdout and stderr are the same in both.
    pub fn same_as(&self, other: &Self) -> bool {
        self.status == other.status && self.stdout == other.stdout && self.stderr == other.stderr
    }

    /// The rewritten program, `self`, must have done what the original did.
    pub fn assert_same_as(&self, original: &Self) {
        assert!(
            self.same_as(original),
            "the rewritten program behaves differently\n== original\n{original}== rewritten\n{self}"
        );
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "command: {}\nending: {}", self.command, self.ending())?;
        if let Some(dir) = self.command.dir.as_ref().filter(|dir| dir.is_dir()) {
            writeln!(f, "directory {}:", dir.display())?;
            for path in crate::dir::listing(dir).keys().take(50) {
                writeln!(f, "  {}", path.strip_prefix(dir).unwrap_or(path).display())?;
            }
        }
        writeln!(f, "stdout:\n{}", shortened(&self.stdout()))?;
        writeln!(f, "stderr:\n{}", shortened(&self.stderr()))
    }
}

/// The beginning and the end of a long text.
fn shortened(text: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= 2 * LINES {
        return text.to_owned();
    }
    let left_out = format!("... {} lines left out ...", lines.len() - 2 * LINES);
    let mut short = lines[..LINES].to_vec();
    short.push(&left_out);
    short.extend(&lines[lines.len() - LINES..]);
    short.join("\n")
}
