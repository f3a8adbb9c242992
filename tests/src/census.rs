//! Reports as the runtime writes them, about real programs, made by hand: a program is built with debug
//! information, the return addresses of its calls are taken from objdump, and it is said to have been
//! loaded somewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::elf::hex;
use crate::{Command, Dir, needs, tool};

/// A program and what tools say of it.
#[derive(Debug, Clone)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    source: String,
}

impl Program {
    /// Builds `source`, a file's text, with `compiler`, whose flags are in a line.
    pub fn build(dir: &Dir, name: &str, source: &str, compiler: &str, flags: &str) -> Self {
        let extension = match compiler {
            "gcc" => "c",
            "g++" => "cpp",
            _ => "rs",
        };
        let file = dir.write(format!("{name}.{extension}"), source);
        let path = dir.join(name);
        let compiler = match compiler {
            "rustc" => PathBuf::from(
                std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
            ),
            other => needs(other),
        };
        Command::new(compiler)
            .args(flags.split_whitespace())
            .arg("-o")
            .arg(&path)
            .arg(&file)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", std::env::var_os("HOME").unwrap_or_default())
            .succeed();
        Self {
            path,
            source: source.to_owned(),
        }
    }
}
