//! A table's file, as an object (compressed blocks) or a mirror (raw ones), read whole.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use crate::error::{Corruption, StorageError};
use crate::inspect::read;
use crate::key::{self, DELETE, PUT, kind_of, sequence_of};
use crate::sstable::block::{self, Block, Handle};
use crate::sstable::footer::{Properties, named_id};
use crate::sstable::layout::Layout;
use crate::sstable::transcode::raw;
use crate::sstable::{TableId, TableRef, filter};

/// What a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The key has the value.
    Put,
    /// The key is gone.
    Delete,
    /// Something that this build does not know.
    Unknown(u8),
}

/// A version of a key in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableEntry {
    /// The key.
    pub key: Vec<u8>,
    /// When it was written.
    pub sequence: u64,
    /// What it is.
    pub kind: Kind,
    /// The value.
    pub value: Vec<u8>,
    /// Offset in the file of the block that holds it.
    pub block: u64,
}

/// A table's file.
#[derive(Clone, Debug)]
pub struct TableFile {
    name: String,
    id: TableId,
    bytes: Bytes,
    layout: Layout,
}

/// What checking a table found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// Blocks whose checksum is right.
    pub blocks: u64,
    /// Versions in them.
    pub entries: u64,
    /// What is damaged, in the order of the file.
    pub damage: Vec<Corruption>,
}

impl TableFile {
    /// Understands the bytes of `name`, which must be of table `id`, or of whichever table they say.
    ///
    /// # Errors
    /// [`Corruption`] if footer, filter, index or properties are damaged.
    pub fn new(name: String, id: Option<TableId>, bytes: Bytes) -> Result<TableFile, Corruption> {
        let id = match id {
            Some(id) => id,
            None => named_id(&bytes).ok_or_else(|| Corruption::new(&name[..], 0, "it is too short for a table"))?,
        };
        let layout = Layout::read(&name, id, &bytes[..])?;
        Ok(TableFile { name, id, bytes, layout })
    }

    /// Reads a file: a mirror, or an object in a folder.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be read, or as [`TableFile::new`].
    pub fn open(path: &Path) -> Result<TableFile, StorageError> {
        Ok(TableFile::new(path.display().to_string(), None, read(path)?.into())?)
    }

    /// Which table it is.
    pub fn id(&self) -> TableId {
        self.id
    }

    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Never: a table has a footer.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Data blocks in it.
    pub fn blocks(&self) -> usize {
        self.layout.blocks
    }

    /// Bytes of the filter.
    pub fn filter_len(&self) -> usize {
        self.layout.filter.1 - self.layout.filter.0
    }

    /// Bytes of the index.
    pub fn index_len(&self) -> usize {
        self.layout.index.1 - self.layout.index.0
    }

    /// What a manifest would say of it; the lengths that it cannot know are zero.
    pub fn info(&self) -> TableRef {
        let found = &self.layout.properties;
        TableRef {
            id: self.id,
            mirror_len: 0,
            object_len: 0,
            min_key: found.min_key.clone(),
            max_key: found.max_key.clone(),
            min_sequence: found.min_sequence,
            max_sequence: found.max_sequence,
            entries: found.entries,
            deletions: found.deletions,
            ranges: self.layout.ranges.len() as u64,
            meta_len: self.len().saturating_sub(self.layout.meta),
        }
    }

    /// Bytes of the keys and of the values of all its versions.
    pub fn logical_bytes(&self) -> (u64, u64) {
        (self.layout.properties.key_bytes, self.layout.properties.value_bytes)
    }

    fn place(&self, n: usize) -> Result<(&[u8], Handle), Corruption> {
        let bad = || Corruption::new(&self.name[..], self.layout.index_at, "an entry of the index makes no sense");
        self.layout.block(&self.bytes, n).ok_or_else(bad)
    }

    /// The versions of the n-th block.
    fn block(&self, n: usize) -> Result<Vec<TableEntry>, Corruption> {
        let (_, handle) = self.place(n)?;
        let (payload, codec) = block::verified(&self.name, self.id, &self.bytes[..], handle)?;
        let payload = raw(&self.name, handle.offset, payload, codec)?;
        let bad = |what: &str| Corruption::new(&self.name[..], handle.offset, what);
        let block = Block::new(&payload).ok_or_else(|| bad("the tail of a block makes no sense"))?;
        let (mut at, mut key, mut entries) = (0, Vec::new(), Vec::new());
        while at < block.entries {
            let entry = block.entry(at).filter(|entry| entry.shared <= key.len());
            let entry = entry.ok_or_else(|| bad("an entry of a block makes no sense"))?;
            key.truncate(entry.shared);
            key.extend_from_slice(block.bytes(entry.suffix));
            let kind = match kind_of(entry.tag) {
                PUT => Kind::Put,
                DELETE => Kind::Delete,
                other => Kind::Unknown(other),
            };
            entries.push(TableEntry {
                key: key.clone(),
                sequence: sequence_of(entry.tag),
                kind,
                value: block.bytes(entry.value).to_vec(),
                block: handle.offset,
            });
            at = entry.value.1;
        }
        Ok(entries)
    }

    /// The versions of the keys at or above `from` and below `to`, in order. It ends with the first damage.
    pub fn entries<'a>(
        &'a self,
        from: Option<&'a [u8]>,
        to: Option<&'a [u8]>,
    ) -> impl Iterator<Item = Result<TableEntry, Corruption>> + 'a {
        let first = from.and_then(|key| self.layout.find(&self.bytes, key)).unwrap_or(0);
        let mut ended = false;
        (first..self.layout.blocks)
            .flat_map(move |n| match self.block(n) {
                Ok(entries) => entries.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(damage) => vec![Err(damage)],
            })
            .skip_while(move |entry| entry.as_ref().is_ok_and(|entry| from.is_some_and(|from| &entry.key[..] < from)))
            .take_while(move |entry| match entry {
                _ if ended => false,
                Ok(entry) => to.is_none_or(|to| &entry.key[..] < to),
                Err(_) => {
                    ended = true;
                    true
                }
            })
    }

    /// Checks every checksum, that each block can be read to its end, that versions are in order and where the index, the
    /// filter and the properties say. Goes on behind damage.
    pub fn check(&self) -> Checked {
        let mut checked = Checked::default();
        let mut found = Properties { min_sequence: u64::MAX, ..Properties::default() };
        let mut last: Option<(Vec<u8>, u64)> = None;
        let mut expected = 0;
        for n in 0..self.layout.blocks {
            let (separator, handle) = match self.place(n) {
                Ok(place) => place,
                Err(damage) => {
                    checked.damage.push(damage);
                    break;
                }
            };
            if handle.offset != expected {
                let what = format!("a block was expected at {expected}");
                checked.damage.push(Corruption::new(&self.name[..], handle.offset, what));
            }
            expected = handle.offset + u64::from(handle.len);
            let entries = match self.block(n) {
                Ok(entries) => entries,
                Err(damage) => {
                    checked.damage.push(damage);
                    continue;
                }
            };
            checked.blocks += 1;
            checked.entries += entries.len() as u64;
            for entry in entries {
                if let Some(what) = self.out_of_place(&entry, separator, last.as_ref()) {
                    checked.damage.push(Corruption::new(&self.name[..], entry.block, what));
                    break;
                }
                found.min_sequence = found.min_sequence.min(entry.sequence);
                found.max_sequence = found.max_sequence.max(entry.sequence);
                found.deletions += u64::from(entry.kind == Kind::Delete);
                found.entries += 1;
                last = Some((entry.key, entry.sequence));
            }
        }
        for deletion in self.layout.ranges.iter() {
            found.min_sequence = found.min_sequence.min(deletion.sequence);
            found.max_sequence = found.max_sequence.max(deletion.sequence);
            found.deletions += 1;
        }
        let said = &self.layout.properties;
        if checked.damage.is_empty() {
            let meta = self.layout.meta;
            if expected != meta {
                let what = "the blocks do not reach to the meta blocks";
                checked.damage.push(Corruption::new(&self.name[..], expected, what));
            }
            let sums = |of: &Properties| (of.min_sequence, of.max_sequence, of.deletions, of.entries);
            if sums(&found) != sums(said) {
                let what = "the versions are not those that the properties count";
                checked.damage.push(Corruption::new(&self.name[..], self.layout.properties_at.0 as u64, what));
            }
        }
        checked
    }

    /// What is wrong with the place of an entry.
    fn out_of_place(&self, entry: &TableEntry, separator: &[u8], last: Option<&(Vec<u8>, u64)>) -> Option<String> {
        let said = &self.layout.properties;
        let Range { start, end } = self.layout.filter.0..self.layout.filter.1;
        let follows = last.is_none_or(|(key, sequence)| (&key[..], entry.sequence) < (&entry.key[..], *sequence));
        if !follows {
            Some("versions are out of order".to_owned())
        } else if &entry.key[..] > separator {
            Some("a key lies behind the separator of its block".to_owned())
        } else if entry.key < said.min_key || entry.key > said.max_key {
            Some("a key lies outside of the table's range".to_owned())
        } else if !filter::may_hold(&self.bytes[start..end], key::hash(&entry.key)) {
            Some("the filter does not know a key".to_owned())
        } else if let Kind::Unknown(kind) = entry.kind {
            Some(format!("a version of kind {kind} is not supported yet"))
        } else {
            None
        }
    }

    /// What this table is, if it is not what a manifest says of it.
    pub fn differs_from(&self, said: &TableRef) -> Option<Corruption> {
        let found = TableRef { mirror_len: said.mirror_len, object_len: said.object_len, ..self.info() };
        let bad = |at, what: String| Some(Corruption::new(&self.name[..], at, what));
        if said.object_len != self.len() && said.mirror_len != self.len() {
            return bad(0, format!("it has {} bytes, the manifest says {}", self.len(), said.object_len));
        }
        if found != *said {
            return bad(
                self.layout.properties_at.0 as u64,
                "the properties are not those that the manifest names".into(),
            );
        }
        None
    }
}
