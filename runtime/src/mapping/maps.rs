//! /proc/self/maps, read as a stream: the kernel's list of what is mapped, by address.

use core::mem::MaybeUninit;
use core::ops::ControlFlow;

use crate::sys::{File, signal};

/// As many bytes are read at a time: little, for it may be on a signal handler's stack.
const AT_A_TIME: usize = 512;
/// As much of a name as tells those apart that matter.
const NAME: usize = 8;

/// One line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Region {
    pub(crate) begin: usize,
    pub(crate) end: usize,
    /// PROT_READ, PROT_WRITE, PROT_EXEC.
    pub(crate) protection: u32,
    pub(crate) name: Name,
}

/// What the name says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Name {
    /// None, or one that the program gave it.
    Anonymous,
    File,
    MainStack,
    Kernel,
}

/// The region that contains `address`. `Err` if the kernel does not say, `Ok(None)` if there is none.
pub(crate) fn region_of(address: usize) -> Result<Option<Region>, ()> {
    signal::uninterrupted(|| search(address))
}

fn search(address: usize) -> Result<Option<Region>, ()> {
    // The process's own entry is empty once the main thread has ended.
    let file = File::open(c"/proc/thread-self/maps").or_else(|| File::open(c"/proc/self/maps"));
    let file = file.ok_or(())?;
    let mut line = Line::default();
    let mut buffer = MaybeUninit::<[u8; AT_A_TIME]>::uninit();
    let mut is_empty = true;
    let found = loop {
        let text = file.read(&mut buffer);
        if text.is_empty() {
            break None;
        }
        is_empty = false;
        if let ControlFlow::Break(found) = line.search(text, address) {
            break found;
        }
    };
    file.close();
    if is_empty { Err(()) } else { Ok(found) }
}

/// The line that is being read.
#[derive(Clone, Copy, Default)]
struct Line {
    /// How many fields are behind.
    field: usize,
    begin: usize,
    end: usize,
    protection: u32,
    name: [u8; NAME],
    name_size: usize,
}

impl Line {
    /// Goes on with `text`, which may begin and end anywhere, up to the region that contains `address` or lies
    /// behind it.
    fn search(&mut self, text: &[u8], address: usize) -> ControlFlow<Option<Region>> {
        for byte in text {
            let Some(region) = self.take(*byte).filter(|region| address < region.end) else {
                continue;
            };
            return ControlFlow::Break(Some(region).filter(|region| region.begin <= address));
        }
        ControlFlow::Continue(())
    }

    /// Goes on with one byte. The line's region, if it ends here.
    fn take(&mut self, byte: u8) -> Option<Region> {
        match (self.field, byte) {
            (_, b'\n') => {
                let region = self.region();
                *self = Self::default();
                return Some(region);
            }
            // Begin, end, rights, offset, device, inode, name: the name may have blanks in front and inside.
            (0, b'-') | (1..=5, b' ') => self.field = self.field.wrapping_add(1),
            (0, _) => self.begin = self.begin << 4 | digit(byte),
            (1, _) => self.end = self.end << 4 | digit(byte),
            (2, b'r') => self.protection |= 1,
            (2, b'w') => self.protection |= 2,
            (2, b'x') => self.protection |= 4,
            (6, b' ') if self.name_size == 0 => {}
            (6, _) => {
                if let Some(place) = self.name.get_mut(self.name_size) {
                    *place = byte;
                    self.name_size = self.name_size.wrapping_add(1);
                }
            }
            _ => {}
        }
        None
    }

    fn region(&self) -> Region {
        let name = self.name.get(..self.name_size).unwrap_or_default();
        Region {
            begin: self.begin,
            end: self.end,
            protection: self.protection,
            name: match name {
                b"[stack]" => Name::MainStack,
                // [vdso], [vvar], [vvar_vclock], [vsyscall].
                [b'[', b'v', ..] => Name::Kernel,
                [b'/', ..] => Name::File,
                _ => Name::Anonymous,
            },
        }
    }
}

fn digit(byte: u8) -> usize {
    char::from(byte).to_digit(16).unwrap_or_default() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &[u8] = b"\
55d04ddc1000-55d04ddc2000 r--p 00000000 fe:01 1234                       /tmp/a file (deleted)\n\
55d04ddc2000-55d04ddc3000 r-xp 00001000 fe:01 1234                       /tmp/a file (deleted)\n\
7f0000000000-7f0000021000 rw-p 00000000 00:00 0 \n\
7f0000021000-7f0004000000 ---p 00000000 00:00 0 \n\
7f0004000000-7f0004001000 rw-s 00000000 00:01 99                         /dev/zero (deleted)\n\
7ffc6a470000-7ffc6a491000 rw-p 00000000 00:00 0                          [stack]\n\
7ffc6a5f0000-7ffc6a5f4000 r--p 00000000 00:00 0                          [vvar]\n\
7ffc6a5f4000-7ffc6a5f6000 r-xp 00000000 00:00 0                          [vdso]\n\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

    fn search(step: usize, address: usize) -> Option<Region> {
        let mut line = Line::default();
        let found = MAPS
            .chunks(step)
            .find_map(|text| line.search(text, address).break_value());
        found.flatten()
    }

    #[test]
    fn regions_wherever_the_text_is_cut() {
        for step in [1, 7, 80, MAPS.len()] {
            let region = |address| {
                let region = search(step, address)?;
                assert!((region.begin..region.end).contains(&address));
                Some((region.begin, region.protection, region.name))
            };
            assert_eq!(region(0), None);
            assert_eq!(region(0x55d0_4ddc_0fff), None);
            let text = Some((0x55d0_4ddc_2000, 5, Name::File));
            assert_eq!(region(0x55d0_4ddc_2000), text);
            assert_eq!(region(0x55d0_4ddc_2fff), text);
            assert_eq!(region(0x55d0_4ddc_3000), None);
            let heap = Some((0x7f00_0000_0000, 3, Name::Anonymous));
            assert_eq!(region(0x7f00_0000_0000), heap);
            let guard = Some((0x7f00_0002_1000, 0, Name::Anonymous));
            assert_eq!(region(0x7f00_0002_1000), guard);
            let stack = Some((0x7ffc_6a47_0000, 3, Name::MainStack));
            assert_eq!(region(0x7ffc_6a48_0000), stack);
            let vdso = Some((0x7ffc_6a5f_4000, 5, Name::Kernel));
            assert_eq!(region(0x7ffc_6a5f_5fff), vdso);
            let vsyscall = Some((0xffff_ffff_ff60_0000, 4, Name::Kernel));
            assert_eq!(region(0xffff_ffff_ff60_0000), vsyscall);
            assert_eq!(region(usize::MAX), None);
        }
    }
}
