//! gzip without a compressor: the file format of RFC 1952 around stored blocks of RFC 1951.

use crate::sync::{AtomicU8, Ordering::Relaxed};

/// Identification, method deflate, no flags, no time, no level, from Unix.
pub(crate) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

/// A stored block's type in a byte, its length, and the same inverted.
pub(crate) const BLOCK_HEADER: usize = 5;

/// What comes at the end: an empty last block, CRC and length.
const TRAILER: usize = 13;

/// What is known of the blocks so far.
pub(crate) struct Gzip {
    crc: u32,
    length: u32,
}

impl Gzip {
    pub(crate) const fn new() -> Self {
        Self { crc: !0, length: 0 }
    }

    /// Fills in the header at the beginning of a block, which has less than 64 KiB of content.
    pub(crate) fn end_block(&mut self, block: &[AtomicU8]) {
        let content = block.get(BLOCK_HEADER..).unwrap_or_default();
        let length = u16::try_from(content.len()).unwrap_or_default();
        let ([a, b], [c, d]) = (length.to_le_bytes(), (!length).to_le_bytes());
        for (place, byte) in block.iter().zip([0, a, b, c, d]) {
            place.store(byte, Relaxed);
        }
        for byte in content {
            let index = (self.crc as u8 ^ byte.load(Relaxed)) as usize;
            self.crc = self.crc >> 8 ^ TABLE.get(index).copied().unwrap_or_default();
        }
        self.length = self.length.wrapping_add(u32::from(length));
    }

    /// The last bytes of the file.
    pub(crate) const fn end(self) -> [u8; TRAILER] {
        let [a, b, c, d] = (!self.crc).to_le_bytes();
        let [e, f, g, h] = self.length.to_le_bytes();
        [1, 0, 0, 0xff, 0xff, a, b, c, d, e, f, g, h]
    }
}

/// The remainders of all bytes by the polynomial of RFC 1952.
static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut rest = index as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = rest >> 1 ^ if rest & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        table[index] = rest;
        index += 1;
    }
    table
};

#[cfg(test)]
#[allow(
    clippy::expect_used,
    reason = "a test says that something is wrong by panicking"
)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use crate::report::tests::written;

    /// By gzip itself, which holds CRC and length against the content.
    fn decompressed(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = Command::new("gzip")
            .arg("-dc")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gzip");
        let mut stdin = gzip.stdin.take().expect("its standard input");
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes));
        let output = gzip.wait_with_output().expect("its output");
        assert!(output.status.success(), "{output:?}");
        writer.join().expect("a thread").expect("written");
        output.stdout
    }

    #[test]
    fn gzip_reads_it() {
        for content in [b"".to_vec(), b"short".to_vec(), b"0123456789 ".repeat(9999)] {
            let bytes = written(true, |output| {
                output.put(&content);
            });
            assert!(decompressed(&bytes) == content, "{} bytes", content.len());
        }
    }
}
