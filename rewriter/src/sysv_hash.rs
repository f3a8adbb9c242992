//! DT_HASH kept true when a symbol changes its name or one is added.
//!
//! The table lists every dynamic symbol, undefined ones too, in the chain of its name's hash
//! (gABI, "Hash Table"). DT_GNU_HASH lists only defined symbols and needs no change.

use crate::elf::Format;

/// The table's words: nbucket, nchain, buckets, chains.
#[derive(Clone, Debug)]
pub(crate) struct SysvHash {
    buckets: Vec<u32>,
    chains: Vec<u32>,
}

impl SysvHash {
    /// `None` if the counts do not fit the bytes or there is no bucket.
    pub(crate) fn decode(bytes: &[u8], format: Format) -> Option<Self> {
        let words = format.hash_words(bytes).into_iter().map(u32::try_from);
        let words: Vec<u32> = words.collect::<Result<_, _>>().ok()?;
        let buckets = usize::try_from(*words.first()?).ok().filter(|&n| n > 0)?;
        let chains = usize::try_from(*words.get(1)?).ok()?;
        let split = 2_usize.checked_add(buckets)?;
        Some(Self {
            buckets: words.get(2..split)?.to_vec(),
            chains: words.get(split..split.checked_add(chains)?)?.to_vec(),
        })
    }

    pub(crate) fn encode(&self, format: Format) -> Vec<u8> {
        let counts = [self.buckets.len(), self.chains.len()];
        let counts = counts.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let words = counts.iter().chain(&self.buckets).chain(&self.chains);
        words.flat_map(|word| format.hash_entry(*word)).collect()
    }

    /// Takes symbol `index` out of the chain that it is in.
    pub(crate) fn remove(&mut self, index: u32) {
        let next = self.next(index);
        let links = self.buckets.iter_mut().chain(&mut self.chains);
        for link in links {
            if *link == index {
                *link = next;
            }
        }
    }

    /// Puts symbol `index` at `position` of the chain for `name`, or at its end if it is shorter; a
    /// new symbol makes the table grow.
    pub(crate) fn insert(&mut self, index: u32, name: &str, position: u64) {
        let Ok(place) = usize::try_from(index) else {
            return;
        };
        if place >= self.chains.len() {
            self.chains.resize(place + 1, 0);
        }
        let bucket = self.bucket(name);
        let before = (self.chain(bucket).zip(1..))
            .take_while(|&(_, behind)| behind <= position)
            .last();
        let link = match before.and_then(|(before, _)| usize::try_from(before).ok()) {
            Some(before) => self.chains.get_mut(before),
            None => self.buckets.get_mut(bucket),
        };
        let next = link.map_or(0, |link| std::mem::replace(link, index));
        self.chains[place] = next;
    }

    /// Position of symbol `index` in the chain for `name`.
    pub(crate) fn position(&self, index: u32, name: &str) -> Option<u64> {
        let chain = self.chain(self.bucket(name));
        chain
            .zip(0..)
            .find_map(|(other, position)| (other == index).then_some(position))
    }

    fn bucket(&self, name: &str) -> usize {
        let buckets = u32::try_from(self.buckets.len()).unwrap_or(u32::MAX);
        usize::try_from(object::elf::hash(name.as_bytes()) % buckets).unwrap_or(0)
    }

    /// The symbols in the chain of a bucket. One that goes round in circles ends all the same.
    fn chain(&self, bucket: usize) -> impl Iterator<Item = u32> + '_ {
        let first = self.buckets.get(bucket).copied();
        let chain = std::iter::successors(first, |&index| Some(self.next(index)));
        chain
            .take_while(|&index| index != 0)
            .take(self.chains.len())
    }

    fn next(&self, index: u32) -> u32 {
        let place = usize::try_from(index).ok();
        place
            .and_then(|place| self.chains.get(place))
            .copied()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(hash: &SysvHash, name: &str, names: &[&str]) -> Option<u32> {
        let bucket = object::elf::hash(name.as_bytes()) as usize % hash.buckets.len();
        let mut index = hash.buckets[bucket];
        while index != 0 {
            if names[index as usize] == name {
                return Some(index);
            }
            index = hash.chains[index as usize];
        }
        None
    }

    #[test]
    fn renamed_and_added_symbols_are_found() {
        let mut hash = SysvHash {
            buckets: vec![0; 2],
            chains: vec![0; 5],
        };
        let names = ["", "alpha", "beta", "gamma", "delta"];
        for (index, name) in names.iter().enumerate().skip(1) {
            hash.insert(index as u32, name, 0);
        }
        let before = hash.encode(Format::X86_64);
        for index in 1..5 {
            let name = names[index as usize];
            let position = hash.position(index, name).unwrap_or(99);
            hash.remove(index);
            assert_eq!(hash.position(index, name), None);
            hash.insert(index, name, position);
            assert_eq!(hash.encode(Format::X86_64), before, "{name}");
        }
        hash.remove(3);
        hash.insert(3, "allocs_preinit", 0);
        hash.insert(5, "fifth", 0);
        let names = ["", "alpha", "beta", "allocs_preinit", "delta", "fifth"];
        for (index, name) in names.iter().enumerate().skip(1) {
            assert_eq!(find(&hash, name, &names), Some(index as u32), "{name}");
        }
        assert_eq!(find(&hash, "gamma", &names), None);
        let decoded = SysvHash::decode(&hash.encode(Format::X86_64), Format::X86_64)
            .map(|hash| hash.encode(Format::X86_64));
        assert_eq!(decoded, Some(hash.encode(Format::X86_64)));
    }
}
