//! The check of DT_HASH: every symbol is found by its name as before.

use goblin::elf::dynamic::DT_HASH;

use super::view::View;
use super::{Check, Dead};
use crate::error::Result;

/// The bucket whose chain each symbol is in, by symbol; and the number of buckets.
struct Chains {
    buckets: usize,
    bucket_of: Vec<Option<usize>>,
}

impl Check<'_> {
    /// Symbols that kept their name are in the chain that they were in, and the renamed or added
    /// ones in the chain of their name. DT_GNU_HASH, which has no undefined symbols, is unchanged.
    pub(super) fn hash(&self, dead: &[Dead]) -> Result<()> {
        let (before, after) = (self.chains(&self.before)?, self.chains(&self.after)?);
        let (Some(before), Some(after)) = (&before, &after) else {
            let neither = before.is_none() && after.is_none();
            return self.require(neither, "DT_HASH was lost or added");
        };
        self.require(before.buckets == after.buckets, "DT_HASH has other buckets")?;
        let mut has_init = false;
        for (index, bucket) in (0_u64..).zip(&after.bucket_of) {
            let old = usize::try_from(index).ok();
            let old = old.and_then(|index| before.bucket_of.get(index));
            let name = match old {
                Some(old) if !dead.iter().any(|symbol| symbol.index == index) => {
                    self.require(old == bucket, "a symbol left its chain in DT_HASH")?;
                    continue;
                }
                _ => self
                    .after
                    .string(self.after.symbol(index)?.st_name as u64)?,
            };
            has_init |= name == self.request.init.as_bytes();
            let hash = usize::try_from(object::elf::hash(&name)).unwrap_or(0);
            let right = *bucket == hash.checked_rem(after.buckets);
            let kept = old.is_some_and(|old| old == bucket) && name == self.name_before(index)?;
            self.require(right || kept, "a symbol is in the wrong chain of DT_HASH")?;
        }
        self.require(has_init, "DT_HASH does not have the init symbol")
    }

    fn name_before(&self, index: u64) -> Result<Vec<u8>> {
        self.before
            .string(self.before.symbol(index)?.st_name as u64)
    }

    fn chains(&self, view: &View<'_>) -> Result<Option<Chains>> {
        let Some(head) = view.table(DT_HASH, 1)? else {
            return Ok(None);
        };
        let (entry, size) = view.hash_size(head.at)?;
        let at = view.locate(head.vaddr, size)?;
        let words = view.numbers(at, size / entry, entry)?;
        let buckets = usize::try_from(words[0]).unwrap_or(usize::MAX);
        let (buckets, chain) = words[2..].split_at(buckets);
        let mut bucket_of = vec![None; chain.len()];
        for (bucket, &first) in buckets.iter().enumerate() {
            let mut next = usize::try_from(first).unwrap_or(0);
            while let Some(place @ None) = bucket_of.get_mut(next).filter(|_| next != 0) {
                *place = Some(bucket);
                next = usize::try_from(chain[next]).unwrap_or(0);
            }
        }
        Ok(Some(Chains {
            buckets: buckets.len(),
            bucket_of,
        }))
    }
}
