//! All that a tree has, read without any of the rewriter's own code, to compare it with another one.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsString};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, llistxattr};

/// An entry, with what `cp -a` would keep of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Kind and permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Of a device.
    pub device: u64,
    /// In bytes; of a directory, 0.
    pub size: u64,
    /// A hash of the bytes, or of a link's target.
    pub content: u64,
    /// ACLs are some of them.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first name of the same file.
    pub first: PathBuf,
}

/// Everything below `top`, and `top` itself as the empty path.
pub fn snapshot(top: &Path) -> BTreeMap<PathBuf, Node> {
    let mut paths = vec![PathBuf::new()];
    let mut next = 0;
    while next < paths.len() {
        let path = top.join(&paths[next]);
        if path.is_dir() && !path.is_symlink() {
            let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let names = entries.map(|entry| entry.expect("an entry").file_name());
            let names: Vec<PathBuf> = names.map(|name| paths[next].join(name)).collect();
            paths.extend(names);
        }
        next += 1;
    }
    paths.sort();
    let mut inodes = BTreeMap::new();
    let mut all = BTreeMap::new();
    for path in paths {
        let metadata = fs::symlink_metadata(top.join(&path)).expect("metadata");
        let inode = (metadata.dev(), metadata.ino());
        let first = inodes.entry(inode).or_insert_with(|| path.clone()).clone();
        all.insert(path.clone(), Node::new(&top.join(&path), &metadata, first));
    }
    all
}

impl Node {
    fn new(path: &Path, metadata: &fs::Metadata, first: PathBuf) -> Self {
        let mut content = DefaultHasher::new();
        if metadata.is_symlink() {
            fs::read_link(path).expect("a link").hash(&mut content);
        } else if metadata.is_file() {
            fs::read(path).expect("a file").hash(&mut content);
        }
        Self {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            device: metadata.rdev(),
            size: if metadata.is_dir() { 0 } else { metadata.len() },
            content: content.finish(),
            xattrs: xattrs(path),
            first,
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0_u8; 4096];
    let len = llistxattr(path, &mut names[..]).expect("extended attributes");
    let names = names[..len].split_inclusive(|&byte| byte == 0);
    let value = |name: &[u8]| {
        let mut value = vec![0_u8; 4096];
        let c_name = CStr::from_bytes_with_nul(name).expect("a name");
        let len = lgetxattr(path, c_name, &mut value[..]).expect("an extended attribute");
        value.truncate(len);
        (OsString::from_vec(c_name.to_bytes().to_vec()), value)
    };
    names.map(value).collect()
}

/// Fails with the first entry in which the trees differ.
pub fn assert_same(expected: &BTreeMap<PathBuf, Node>, found: &BTreeMap<PathBuf, Node>) {
    for (path, node) in expected {
        let other = found.get(path);
        assert!(
            other == Some(node),
            "{}: expected {node:#?}, found {other:#?}",
            path.display()
        );
    }
    let more = found.keys().find(|path| !expected.contains_key(*path));
    assert!(more.is_none(), "{more:?} is too much");
}
