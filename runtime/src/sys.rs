//! The system underneath: calls of it without libc, so without `errno`.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::slice;

pub(crate) mod path;
pub(crate) mod signal;
mod stat;
pub(crate) mod thread;

use crate::machine::system;
use crate::memory::Mapped;
use crate::sandbox;
use crate::sync::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use stat::{REGULAR, Stat};

#[cfg(not(test))]
pub(crate) use crate::machine::registers::{own_base, own_dynamic};
pub(crate) use crate::machine::registers::{stack_pointer, thread_pointer};

/// Paths are relative to the working directory.
const AT_FDCWD: usize = 0_usize.wrapping_sub(100);

const EINTR: isize = 4;
const EAGAIN: isize = 11;
const EFAULT: isize = 14;
const ETIMEDOUT: isize = 110;

/// One system call with up to five arguments: what it returns, negative for an error.
///
/// # Safety
/// As the system call with that number.
unsafe fn syscall(number: usize, arguments: [usize; 5]) -> isize {
    let [first, second, third, fourth, fifth] = arguments;
    // SAFETY: the caller answers for what the call does.
    unsafe { system::call(number, [first, second, third, fourth, fifth, 0]) }
}

/// The address of `size` bytes of zeros that are the runtime's own. Nothing is resident until it is
/// written to. `None` if the kernel gives none.
pub(crate) fn map_zeros(size: usize) -> Option<usize> {
    const PROT_READ_WRITE: usize = 3;
    const MAP_PRIVATE_ANONYMOUS_NORESERVE: usize = 0x4022;
    let how = MAP_PRIVATE_ANONYMOUS_NORESERVE;
    let no_file = usize::MAX;
    // SAFETY: the kernel chooses a place where nothing is.
    let result = unsafe { system::call(system::MMAP, [0, size, PROT_READ_WRITE, how, no_file, 0]) };
    usize::try_from(result).ok()
}

/// Gives memory of [`map_zeros`] back.
///
/// # Safety
/// Nothing may refer to it any more.
pub(crate) unsafe fn unmap(address: usize, size: usize) {
    // SAFETY: the caller answers for the range.
    unsafe { syscall(system::MUNMAP, [address, size, 0, 0, 0]) };
}

/// Lets other threads run, whatever their priority, for 50 microseconds.
pub(crate) fn sleep_briefly() {
    let time = [0_usize, 50_000];
    let at = (&raw const time).expose_provenance();
    // SAFETY: the kernel reads the two words.
    unsafe { syscall(system::NANOSLEEP, [at, 0, 0, 0, 0]) };
}

/// Whether the four bytes at `address`, a multiple of four, can be read. Never faults and changes nothing: a
/// futex wait with a timeout of zero reads them on our behalf. It was chosen over others because
/// every sandbox that lets a threaded program live lets it pass, and valgrind knows it.
pub(crate) fn is_readable(address: usize) -> bool {
    const FUTEX_WAIT_PRIVATE: usize = 128;
    let no_time = [0_usize; 2];
    let timeout = (&raw const no_time).expose_provenance();
    // SAFETY: the kernel reads at `address` with its own guard against faults; nobody is woken.
    let result = unsafe { syscall(system::FUTEX, [address, FUTEX_WAIT_PRIVATE, 1, timeout, 0]) };
    result == -EAGAIN || result == -ETIMEDOUT
}

/// What the kernel read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Copied {
    /// As much as was asked for.
    All,
    /// Not all of it is mapped, or it must not be read.
    Faulted,
    /// The kernel does not do that here.
    Refused,
}

/// Reads `size` bytes of the process's own memory at `from`. Never faults: the kernel does it, and says if there
/// is nothing. So it may be asked about memory that another thread is just unmapping.
///
/// # Safety
/// The memory at `to` is overwritten.
pub(crate) unsafe fn copy_own_memory(from: usize, to: usize, size: usize) -> Copied {
    // Sandboxes of browsers have each refusal handled by the program, which writes a message.
    static IS_REFUSED: AtomicU8 = AtomicU8::new(0);
    if IS_REFUSED.load(Relaxed) != 0 || sandbox::is_entered() {
        return Copied::Refused;
    }
    let [from, to] = [[from, size], [to, size]];
    let [from, to] = [&from, &to].map(|vector| vector.as_ptr().expose_provenance());
    // SAFETY: the kernel writes there alone.
    let result =
        unsafe { system::call(system::PROCESS_VM_READV, [process_id(), to, 1, from, 1, 0]) };
    match usize::try_from(result) {
        Ok(read) if read == size => Copied::All,
        Ok(_) => Copied::Faulted,
        Err(_) if result == -EFAULT => Copied::Faulted,
        Err(_) => {
            IS_REFUSED.store(1, Relaxed);
            Copied::Refused
        }
    }
}

/// Has valgrind report nothing that `work` does. This is its client request CHANGE_ERR_DISABLEMENT;
/// anywhere else the instructions do nothing.
pub(crate) fn unreported<T>(work: impl FnOnce() -> T) -> T {
    change_valgrind_disablement(1);
    let result = work();
    change_valgrind_disablement(usize::MAX);
    result
}

fn change_valgrind_disablement(by: usize) {
    const CHANGE_ERR_DISABLEMENT: usize = 0x1801;
    ask_valgrind(CHANGE_ERR_DISABLEMENT, by);
}

/// Whether valgrind runs the program.
pub(crate) fn runs_under_valgrind() -> bool {
    const RUNNING_ON_VALGRIND: usize = 0x1001;
    ask_valgrind(RUNNING_ON_VALGRIND, 0) != 0
}

fn ask_valgrind(request: usize, argument: usize) -> usize {
    system::ask_valgrind(&[request, argument, 0, 0, 0, 0])
}

/// The auxiliary vector as the kernel remembers it, as far as it fits: from PR_GET_AUXV, or before
/// Linux 6.4 from a file. Whoever asks gets the same words, so that they may share a place.
pub(crate) fn kernel_auxv() -> Option<&'static [AtomicUsize]> {
    const PR_GET_AUXV: usize = 0x4155_5856;
    static WORDS: [AtomicUsize; 128] = [const { AtomicUsize::new(0) }; 128];
    let at = WORDS.as_ptr().expose_provenance();
    let size = size_of_val(&WORDS);
    // SAFETY: the kernel writes at most as many bytes as it is told to, into words that may change.
    let mut result = unsafe { syscall(system::PRCTL, [PR_GET_AUXV, at, size, 0, 0]) };
    if result <= 0 {
        let file = File::open(c"/proc/self/auxv")?;
        // SAFETY: as above.
        result = unsafe { syscall(system::READ, [file.0, at, size, 0, 0]) };
        file.close();
    }
    (result > 0).then_some(&WORDS)
}

/// The process's id.
pub(crate) fn process_id() -> usize {
    // SAFETY: has no arguments and cannot fail.
    unsafe { syscall(system::GETPID, [0; 5]) }.unsigned_abs()
}

/// The calling thread's id: no other thread in the same namespace has it.
pub(crate) fn thread_id() -> usize {
    // SAFETY: has no arguments and cannot fail.
    unsafe { syscall(system::GETTID, [0; 5]) }.unsigned_abs()
}

/// The time in nanoseconds since 1970; 0 if it cannot be had.
pub(crate) fn time() -> usize {
    const CLOCK_REALTIME: usize = 0;
    let mut time = [0_usize; 2];
    let at = (&raw mut time).expose_provenance();
    // SAFETY: the kernel writes seconds and nanoseconds.
    unsafe { syscall(system::CLOCK_GETTIME, [CLOCK_REALTIME, at, 0, 0, 0]) };
    let [seconds, nanoseconds] = time;
    seconds
        .wrapping_mul(1_000_000_000)
        .wrapping_add(nanoseconds)
}

/// Where the symbolic link at `path` leads to, as far as it fits into `text`.
pub(crate) fn read_link(path: &CStr, text: &[AtomicU8]) {
    let path = path.as_ptr().expose_provenance();
    let to = text.as_ptr().expose_provenance();
    // SAFETY: the path has an end, and the kernel writes at most as many bytes as it is told to, into bytes that
    // may change.
    unsafe { syscall(system::READLINKAT, [AT_FDCWD, path, to, text.len(), 0]) };
}

/// A file descriptor.
pub(crate) struct File(usize);

impl File {
    /// Standard error.
    pub(crate) const STDERR: Self = Self(2);

    /// The descriptor with that number.
    pub(crate) const fn from_number(number: usize) -> Self {
        Self(number)
    }

    /// Its number.
    pub(crate) const fn number(&self) -> usize {
        self.0
    }

    /// Opens the file at `path` for reading.
    pub(crate) fn open(path: &CStr) -> Option<Self> {
        // SAFETY: a C string has an end.
        unsafe { Self::open_at(path.as_ptr().expose_provenance(), 0) }
    }

    /// The same with a string that the loader or the kernel keeps. Waits for nobody if that is a FIFO, and gets
    /// no terminal.
    pub(crate) fn open_string(path: Mapped) -> Option<Self> {
        const O_NOCTTY: usize = 0o400;
        const O_NONBLOCK: usize = 0o4000;
        // SAFETY: such a string has an end, and the kernel reads it with its own guard against faults.
        unsafe { Self::open_at(path.address(), O_NOCTTY | O_NONBLOCK) }
    }

    /// # Safety
    /// `path` must be the address of a string that a NUL ends.
    unsafe fn open_at(path: usize, flags: usize) -> Option<Self> {
        const O_CLOEXEC: usize = 0o2_000_000;
        let arguments = [AT_FDCWD, path, flags | O_CLOEXEC, 0o666, 0];
        // SAFETY: the caller answers for the path.
        let result = unsafe { syscall(system::OPENAT, arguments) };
        usize::try_from(result).ok().map(Self)
    }

    /// Another descriptor of the same open file, out of the way of those that the program uses.
    pub(crate) fn duplicate(&self) -> Option<Self> {
        const F_DUPFD_CLOEXEC: usize = 1030;
        const LOWEST: usize = 512;
        // SAFETY: makes a descriptor.
        let result = unsafe { syscall(system::FCNTL, [self.0, F_DUPFD_CLOEXEC, LOWEST, 0, 0]) };
        usize::try_from(result).ok().map(Self)
    }

    /// The file's contents in memory and their size, for reading. It is to be given back by [`unmap`].
    pub(crate) fn map(&self) -> Option<(Mapped, usize)> {
        const PROT_READ: usize = 1;
        const MAP_PRIVATE: usize = 2;
        let size = self.regular_size()?;
        let arguments = [0, size, PROT_READ, MAP_PRIVATE, self.0, 0];
        // SAFETY: the kernel chooses a place where nothing is.
        let result = unsafe { system::call(system::MMAP, arguments) };
        let address = usize::try_from(result).ok()?;
        // SAFETY: the kernel has put the file there.
        Some((unsafe { Mapped::new(address) }, size))
    }

    /// Device and inode of the open file.
    pub(crate) fn identity(&self) -> Option<(usize, usize)> {
        Some(self.stat()?.identity())
    }

    /// Its size, if it is a regular file.
    pub(crate) fn regular_size(&self) -> Option<usize> {
        let stat = self.stat()?;
        (stat.kind() == REGULAR).then_some(stat.size())
    }

    fn stat(&self) -> Option<Stat> {
        // SAFETY: the kernel fills the structure in.
        Stat::get(|at| unsafe { syscall(system::FSTAT, [self.0, at, 0, 0, 0]) }).ok()
    }

    /// Reads `size` bytes from `offset` on, and says whether there were so many.
    ///
    /// # Safety
    /// The memory at `to` is overwritten.
    pub(crate) unsafe fn read_at(&self, offset: usize, to: usize, size: usize) -> bool {
        let mut done = 0_usize;
        while done < size {
            let (at, left) = (to.wrapping_add(done), size.wrapping_sub(done));
            let from = offset.wrapping_add(done);
            // SAFETY: the kernel writes there alone.
            let result = unsafe { syscall(system::PREAD64, [self.0, at, left, from, 0]) };
            match usize::try_from(result) {
                Ok(read) if read > 0 => done = done.wrapping_add(read),
                Err(_) if result == -EINTR => {}
                _ => return false,
            }
        }
        true
    }

    /// Reads what comes next into `buffer`: nothing at the end, and after an error.
    pub(crate) fn read<'a, const MOST: usize>(
        &self,
        buffer: &'a mut MaybeUninit<[u8; MOST]>,
    ) -> &'a [u8] {
        let at: *mut u8 = buffer.as_mut_ptr().cast();
        let arguments = [self.0, at.expose_provenance(), MOST, 0, 0];
        loop {
            // SAFETY: the kernel writes into `buffer`.
            let result = unsafe { syscall(system::READ, arguments) };
            if result != -EINTR {
                let read = usize::try_from(result).unwrap_or(0);
                // SAFETY: so many bytes have been written.
                return unsafe { slice::from_raw_parts(at, read) };
            }
        }
    }

    /// Writes all of `bytes`. Whether it could: not if the file takes no more, or none for a while.
    pub(crate) fn write(&self, bytes: &[AtomicU8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = rest.as_ptr().expose_provenance();
            // SAFETY: the kernel reads `rest` and nothing else.
            let result = unsafe { syscall(system::WRITE, [self.0, at, rest.len(), 0, 0]) };
            match usize::try_from(result) {
                Ok(0) => return false,
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(_) if result == -EINTR => {}
                Err(_) if result == -EAGAIN && self.takes_more() => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Waits until a descriptor that does not block takes more, at most a second.
    fn takes_more(&self) -> bool {
        const POLLOUT: usize = 4;
        // `struct pollfd`: fd and, in the upper half, the events to wait for.
        let mut descriptor = self.0 & 0xffff_ffff | POLLOUT << 32;
        let at = (&raw mut descriptor).expose_provenance();
        // Seconds and nanoseconds. Linux counts them down.
        let mut second = [1_usize, 0];
        let timeout = (&raw mut second).expose_provenance();
        // SAFETY: the kernel reads both structures and writes what it found into them.
        let result = unsafe { syscall(system::PPOLL, [at, 1, timeout, 0, 0]) };
        result == 1 || result == -EINTR
    }

    /// Closes it.
    pub(crate) fn close(self) {
        // SAFETY: whoever calls this opened the descriptor, and `self` is its only owner.
        unsafe { syscall(system::CLOSE, [self.0, 0, 0, 0, 0]) };
    }
}

/// Unit tests are not a shared object in a link map.
#[cfg(test)]
pub(crate) fn own_dynamic() -> usize {
    0
}
