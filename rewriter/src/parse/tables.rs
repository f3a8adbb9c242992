//! The tables that .dynamic names: where each is, and how long.

use object::elf::{
    DT_GNU_HASH, DT_HASH, DT_MIPS_SYMTABNO, DT_PLTREL, DT_REL, DT_RELA, DT_SYMTAB, DynamicTag,
};

use super::{Dynamic, Table, locate};
use crate::elf::{
    Addends, Entry, FileOffset, GnuHash, PAGE, Rela, Section, Segment, Symbol, Vaddr,
};
use crate::error::{ErrorKind, Result};
use crate::source::Source;

/// Finds the tables that .dynamic names.
pub(crate) struct Tables<'a> {
    pub(crate) source: &'a Source,
    pub(crate) segments: &'a [Segment],
    pub(crate) dynamic: &'a Dynamic,
}

impl Tables<'_> {
    fn table(&self, address: Vaddr, size: u64, what: &'static str) -> Result<Table> {
        let at = locate(self.segments, address, size).ok_or_else(|| {
            self.source
                .malformed(format!("{what} lies in no PT_LOAD segment"))
        })?;
        Ok(Table {
            vaddr: address,
            at,
            size,
        })
    }

    /// Refuses relocations that are not of the kind that the machine's ABI has: glibc does not apply them.
    pub(crate) fn refuse_other_relocations(&self) -> Result<()> {
        let (other, what, advice) = match self.source.format().relocations.addends {
            Addends::Explicit => (DT_REL, "without addends (DT_REL)", "-z rela"),
            Addends::Implicit => (DT_RELA, "with addends (DT_RELA)", "-z rel"),
        };
        let plt = self.dynamic.get(DT_PLTREL);
        match self.dynamic.get(other).is_some() || plt == Some(other.0.cast_unsigned()) {
            true => Err(self.source.error(ErrorKind::OtherRelocations {
                what,
                machine: self.source.format().name(),
                advice,
            })),
            false => Ok(()),
        }
    }

    /// The table at the address in `tag`, whose size in bytes is in `size_tag`.
    pub(crate) fn sized(
        &self,
        tag: DynamicTag,
        size_tag: DynamicTag,
        what: &'static str,
    ) -> Result<Option<Table>> {
        let Some(address) = self.dynamic.get(tag) else {
            return Ok(None);
        };
        let size = self.dynamic.get(size_tag).unwrap_or(0);
        self.table(Vaddr(address), size, what).map(Some)
    }

    /// The table at the address in `tag`, with `count` entries of `entry_size` bytes.
    pub(crate) fn counted(
        &self,
        tag: DynamicTag,
        count: u64,
        entry_size: u64,
        what: &'static str,
    ) -> Result<Option<Table>> {
        let Some(address) = self.dynamic.get(tag) else {
            return Ok(None);
        };
        let size = count.checked_mul(entry_size).ok_or_else(|| {
            self.source
                .malformed(format!("{what} has an impossible size"))
        })?;
        self.table(Vaddr(address), size, what).map(Some)
    }

    /// DT_HASH: nbucket, nchain, buckets, chains (gABI, "Hash Table").
    pub(crate) fn sysv_hash(&self) -> Result<Option<Table>> {
        const WHAT: &str = "the DT_HASH table";
        let Some(address) = self.dynamic.get(DT_HASH).map(Vaddr) else {
            return Ok(None);
        };
        let word = self.source.format().hash_word();
        let head = self.table(address, 2 * word, WHAT)?;
        let head = self
            .source
            .format()
            .hash_words(&self.source.bytes(head.at, 2 * word, WHAT)?);
        let size = (2_u64.saturating_add(head[0]).saturating_add(head[1])).saturating_mul(word);
        self.table(address, size, WHAT).map(Some)
    }

    fn gnu_hash_head(&self, Table { at, .. }: Table) -> Result<GnuHash> {
        let head = (self.source).bytes(at, GnuHash::HEAD, "the DT_GNU_HASH table")?;
        let head = GnuHash::new(&head, self.source.format());
        head.ok_or_else(|| {
            self.source
                .malformed("the DT_GNU_HASH table cannot be read")
        })
    }

    /// DT_GNU_HASH, to the end of the last chain.
    pub(crate) fn gnu_hash(&self) -> Result<Option<Table>> {
        const WHAT: &str = "the DT_GNU_HASH table";
        let Some(address) = self.dynamic.get(DT_GNU_HASH).map(Vaddr) else {
            return Ok(None);
        };
        let format = self.source.format();
        let head = self.gnu_hash_head(self.table(address, GnuHash::HEAD, WHAT)?)?;
        let before_chains = head.chains_at();
        let first_symbol = u64::from(head.first());
        let fixed = self.table(address, before_chains, WHAT)?;
        let buckets_at = FileOffset(fixed.at.0 + head.buckets_at());
        let mut last = 0;
        self.source
            .for_each_window(buckets_at, head.buckets_size(), WHAT, |_, window| {
                last = format
                    .words(window)
                    .into_iter()
                    .fold(last, |last, word| last.max(u64::from(word)));
                Ok(())
            })?;
        let Some(mut index) = last.checked_sub(first_symbol).filter(|_| last > 0) else {
            return Ok(Some(fixed));
        };
        loop {
            // The rest of the segment, a page at a time: the chain must end in it.
            let chain = self.table(Vaddr(address.0 + before_chains + 4 * index), 4, WHAT)?;
            let rest = self.source.len() - chain.at.0;
            let page = format.words(&self.source.bytes(chain.at, rest.min(PAGE), WHAT)?);
            let steps = page.len() as u64;
            if let Some(end) = page.iter().position(|word| word & 1 == 1) {
                let size = before_chains + 4 * (index + end as u64 + 1);
                return self.table(address, size, WHAT).map(Some);
            }
            index += steps;
        }
    }

    /// No tag gives the number of dynamic symbols, but on MIPS, for those of the linker's: it is what the hash
    /// tables, the section headers and the relocations know of, whichever is most. None of them need know
    /// the last one.
    pub(crate) fn symbol_count(
        &self,
        sysv_hash: Option<Table>,
        gnu_hash: Option<Table>,
        [rela, jmprel]: [Option<Table>; 2],
        sections: &[Section],
    ) -> Result<u64> {
        let format = self.source.format();
        let mut count = match format.is_got_ordered() {
            true => self.dynamic.get(DT_MIPS_SYMTABNO).unwrap_or(1),
            false => 1,
        };
        if let Some(hash) = sysv_hash {
            let size = 2 * format.hash_word();
            let head = self.source.bytes(hash.at, size, "DT_HASH")?;
            count = count.max(format.hash_words(&head)[1]);
        }
        if let Some(hash) = gnu_hash {
            let head = self.gnu_hash_head(hash)?;
            let chains = (hash.size - head.chains_at()) / 4;
            if chains > 0 {
                count = count.max(u64::from(head.first()) + chains);
            }
        }
        let symtab = self.dynamic.get(DT_SYMTAB).map(Vaddr);
        let of_section = sections.iter().find(|section| {
            section.kind == object::elf::SHT_DYNSYM && Some(section.vaddr) == symtab
        });
        if let Some(section) = of_section {
            count = count.max(section.size / Symbol::size(format));
        }
        let relative = self.dynamic.relative_count(format, rela);
        for (table, skip) in [(rela, relative), (jmprel, 0)] {
            let Some(table) = table else { continue };
            self.source.for_each(
                FileOffset(table.at.0 + Rela::size(format) * skip),
                table.size / Rela::size(format) - skip,
                "a relocation table",
                |_, rela: Rela| {
                    count = count.max(u64::from(rela.symbol) + 1);
                    Ok(())
                },
            )?;
        }
        Ok(count)
    }
}

/// Some linkers let DT_RELASZ include the PLT relocations that follow; the loader takes them off
/// (glibc elf/dynamic-link.h, `_ELF_DYNAMIC_DO_RELOC`).
pub(crate) fn without_plt(rela: Table, jmprel: Option<Table>) -> Table {
    let Some(plt) = jmprel else { return rela };
    let ends_together = rela.vaddr.0.checked_add(rela.size) == plt.vaddr.0.checked_add(plt.size);
    match plt.vaddr.since(rela.vaddr) {
        Some(size) if ends_together && plt.size > 0 => Table { size, ..rela },
        _ => rela,
    }
}
