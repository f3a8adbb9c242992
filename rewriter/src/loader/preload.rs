//! What is loaded ahead of an executable's own libraries.

use std::path::Path;

use super::ldso::Flavour;
use super::system::System;
use crate::error::Result;

/// The names, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preloads {
    /// LD_PRELOAD.
    pub(crate) environment: Vec<Vec<u8>>,
    /// /etc/ld.so.preload.
    pub(crate) file: Vec<Vec<u8>>,
}

impl Preloads {
    /// Takes `environment`, the value of LD_PRELOAD, and for glibc /etc/ld.so.preload apart (glibc
    /// elf/rtld.c, `handle_preload_list`, `dl_main`; musl ldso/dynlink.c, `load_preload`). With more
    /// rights at stake (`secure`) LD_PRELOAD does not count; glibc makes an exception for setuid
    /// libraries in default directories, which nobody has.
    pub(crate) fn read(
        system: &System,
        flavour: &Flavour,
        secure: bool,
        environment: &[u8],
    ) -> Result<Self> {
        const LARGEST: u64 = 1 << 20;
        let (separators, file): (&[u8], _) = match flavour {
            Flavour::Glibc(_) => {
                let file = system.read(Path::new("/etc/ld.so.preload"), LARGEST)?;
                (b" :", file)
            }
            Flavour::Musl => (b" :\t\n\x0b\x0c\r", None),
        };
        let environment = if secure { &[] } else { environment };
        let lines = file.as_deref().unwrap_or(&[]).split(|&byte| byte == b'\n');
        let uncommented = lines.map(|line| line.split(|&byte| byte == b'#').next().unwrap_or(line));
        Ok(Self {
            environment: words(environment, separators),
            file: uncommented.flat_map(|line| words(line, b": \t")).collect(),
        })
    }
}

fn words(text: &[u8], separators: &[u8]) -> Vec<Vec<u8>> {
    let words = text.split(|byte| separators.contains(byte));
    let words = words.filter(|word| !word.is_empty());
    words.map(<[u8]>::to_vec).collect()
}
