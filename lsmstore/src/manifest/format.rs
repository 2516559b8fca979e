//! The bytes of a manifest.
//!
//! ```text
//!  0  magic "LSMMANI1"    8  version u32    12  crc32c u32 of all behind it    16  number u64
//! 24  nonce 16 bytes     40  zstd: the body
//! body   previous nonce, store id (16 bytes each) | epoch, floor, last sequence S, position R (varints)
//!        clean u8 | log kind u8 | log owner 16 bytes | recover: count, (epoch, slot)* | owner bytes
//!        levels: count, (count, tables)* | sections: count, (kind varint, bytes)*
//! ```
//! Section 2 is the log in the object store: count, (epoch, number)*; there if anything is in it. A section of an unknown kind
//! is an error unless its kind is odd: odd kinds may be ignored, but are kept.

use std::io::Read;

use uuid::Uuid;

use crate::codec::{Reader, put_bytes, put_varint};
use crate::error::Corruption;
use crate::key::MAX_SEQUENCE;
use crate::sstable::{TableId, TableRef};

const MAGIC: &[u8; 8] = b"LSMMANI1";
const VERSION: u32 = 2;
const HEADER: usize = 40;
/// Largest body: what a damaged or hostile one may grow to.
const MAX_BODY: u64 = 1 << 30;
/// The section of the log in the object store.
const REMOTE: u64 = 2;

/// Who keeps the log that a manifest continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogKind {
    Nobody,
    Own,
    External,
}

impl LogKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LogKind::Nobody => "nobody",
            LogKind::Own => "the store",
            LogKind::External => "its owner",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) nonce: Uuid,
    pub(crate) previous_nonce: Uuid,
    pub(crate) store_id: Uuid,
    pub(crate) epoch: u64,
    /// Lowest sequence number that can be read: a merge dropped versions shadowed at it.
    pub(crate) floor: u64,
    pub(crate) last_sequence: u64,
    pub(crate) position: u64,
    pub(crate) clean: bool,
    pub(crate) log: LogKind,
    /// Names the local folder that holds the own log; nil without one.
    pub(crate) log_owner: Uuid,
    /// Own log: replay segments from `slot` on, for each of these epochs.
    pub(crate) recover: Vec<(u64, u64)>,
    /// The log in the object store: replay objects from this number on, for each of these epochs.
    pub(crate) remote: Vec<(u64, u64)>,
    pub(crate) owner: Vec<u8>,
    /// L0 newest first, then each level in key order.
    pub(crate) levels: Vec<Vec<TableRef>>,
    pub(crate) sections: Vec<(u64, Vec<u8>)>,
}

impl Manifest {
    pub(crate) fn encode(&self, number: u64, level: i32) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        body.extend_from_slice(self.previous_nonce.as_bytes());
        body.extend_from_slice(self.store_id.as_bytes());
        for number in [self.epoch, self.floor, self.last_sequence, self.position] {
            put_varint(&mut body, number);
        }
        body.push(u8::from(self.clean));
        body.push(self.log as u8);
        body.extend_from_slice(self.log_owner.as_bytes());
        put_pairs(&mut body, &self.recover);
        put_bytes(&mut body, &self.owner);
        put_varint(&mut body, self.levels.len() as u64);
        for tables in &self.levels {
            put_varint(&mut body, tables.len() as u64);
            for table in tables {
                put_table(&mut body, table);
            }
        }
        let mut remote = Vec::new();
        put_pairs(&mut remote, &self.remote);
        let remote = (!self.remote.is_empty()).then_some((REMOTE, remote));
        put_varint(&mut body, (self.sections.len() + usize::from(remote.is_some())) as u64);
        for (kind, bytes) in remote.iter().chain(&self.sections) {
            put_varint(&mut body, *kind);
            put_bytes(&mut body, bytes);
        }
        let mut out = Vec::with_capacity(HEADER + body.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(self.nonce.as_bytes());
        out.extend_from_slice(&zstd::bulk::compress(&body, level)?);
        let crc = crc32c::crc32c(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        Ok(out)
    }

    /// Reads manifest `number` from the bytes of object `name`.
    pub(crate) fn decode(name: &str, number: u64, bytes: &[u8]) -> Result<Manifest, Corruption> {
        let (found, manifest) = Manifest::decode_any(name, bytes)?;
        if found != number {
            return Err(Corruption::new(name, 16, format!("this is manifest {found}, expected {number}")));
        }
        Ok(manifest)
    }

    /// Reads a manifest of any number, and the number.
    pub(crate) fn decode_any(name: &str, bytes: &[u8]) -> Result<(u64, Manifest), Corruption> {
        let bad = |at: usize, what: String| Corruption::new(name, at as u64, what);
        if bytes.len() < HEADER || &bytes[..8] != MAGIC {
            return Err(bad(0, "the magic LSMMANI1 is not at its begin, or it is cut off".into()));
        }
        let mut header = Reader::new(&bytes[8..HEADER]);
        let fields = (|| Some((header.u32()?, header.u32()?, header.u64()?, header.array::<16>()?)))();
        let Some((version, stored, number, nonce)) = fields else {
            return Err(bad(8, "the header is cut off".into()));
        };
        if version != VERSION {
            return Err(bad(8, format!("format version {version}, this build reads {VERSION}")));
        }
        let computed = crc32c::crc32c(&bytes[16..]);
        if computed != stored {
            return Err(bad(12, format!("checksum is {computed:#010x}, stored {stored:#010x}")));
        }
        let mut body = Vec::new();
        zstd::stream::read::Decoder::with_buffer(&bytes[HEADER..])
            .and_then(|decoder| decoder.take(MAX_BODY + 1).read_to_end(&mut body))
            .map_err(|error| bad(HEADER, format!("the body cannot be decompressed: {error}")))?;
        let mut reader = Reader::new(&body);
        let manifest = read_body(&mut reader, Uuid::from_bytes(nonce));
        let at = reader.at();
        let manifest = manifest.ok_or_else(|| bad(HEADER, format!("the body makes no sense at its byte {at}")))?;
        if !reader.is_empty() {
            return Err(bad(HEADER, format!("{} bytes follow the body", body.len() - at)));
        }
        if let Some((kind, _)) = manifest.sections.iter().find(|(kind, _)| kind % 2 == 0) {
            return Err(bad(HEADER, format!("section {kind} is not supported yet")));
        }
        for tables in manifest.levels.iter().skip(1) {
            if tables.windows(2).any(|pair| pair[0].max_key >= pair[1].min_key) {
                return Err(bad(HEADER, "tables of a level overlap".into()));
            }
        }
        Ok((number, manifest))
    }
}

fn put_pairs(body: &mut Vec<u8>, pairs: &[(u64, u64)]) {
    put_varint(body, pairs.len() as u64);
    for &(one, two) in pairs {
        put_varint(body, one);
        put_varint(body, two);
    }
}

fn read_pairs(reader: &mut Reader<'_>) -> Option<Vec<(u64, u64)>> {
    (0..reader.count(2)?).map(|_| Some((reader.varint()?, reader.varint()?))).collect()
}

fn put_table(body: &mut Vec<u8>, table: &TableRef) {
    for number in [table.id.epoch, table.id.counter, table.mirror_len, table.object_len] {
        put_varint(body, number);
    }
    put_bytes(body, &table.min_key);
    put_bytes(body, &table.max_key);
    let counts = [table.entries, table.deletions, table.ranges, table.meta_len];
    for number in [table.min_sequence, table.max_sequence].into_iter().chain(counts) {
        put_varint(body, number);
    }
}

fn read_table(reader: &mut Reader<'_>) -> Option<TableRef> {
    let table = TableRef {
        id: TableId { epoch: reader.varint()?, counter: reader.varint()? },
        mirror_len: reader.varint()?,
        object_len: reader.varint()?,
        min_key: reader.bytes()?.to_vec(),
        max_key: reader.bytes()?.to_vec(),
        min_sequence: reader.varint()?,
        max_sequence: reader.varint()?,
        entries: reader.varint()?,
        deletions: reader.varint()?,
        ranges: reader.varint()?,
        meta_len: reader.varint()?,
    };
    let meta_within = table.object_len == 0 || table.meta_len <= table.object_len;
    (table.min_key <= table.max_key && meta_within).then_some(table)
}

fn read_body(reader: &mut Reader<'_>, nonce: Uuid) -> Option<Manifest> {
    let mut manifest = Manifest {
        nonce,
        previous_nonce: Uuid::from_bytes(reader.array()?),
        store_id: Uuid::from_bytes(reader.array()?),
        epoch: reader.varint()?,
        floor: reader.varint()?,
        last_sequence: reader.varint()?,
        position: reader.varint()?,
        clean: reader.u8()? == 1,
        log: match reader.u8()? {
            0 => LogKind::Nobody,
            1 => LogKind::Own,
            2 => LogKind::External,
            _ => return None,
        },
        log_owner: Uuid::from_bytes(reader.array()?),
        recover: Vec::new(),
        remote: Vec::new(),
        owner: Vec::new(),
        levels: Vec::new(),
        sections: Vec::new(),
    };
    manifest.recover = read_pairs(reader)?;
    manifest.owner = reader.bytes()?.to_vec();
    for _ in 0..reader.count(1)? {
        let tables = (0..reader.count(12)?).map(|_| read_table(reader)).collect::<Option<_>>()?;
        manifest.levels.push(tables);
    }
    for _ in 0..reader.count(2)? {
        let (kind, bytes) = (reader.varint()?, reader.bytes()?);
        if kind != REMOTE {
            manifest.sections.push((kind, bytes.to_vec()));
            continue;
        }
        let mut section = Reader::new(bytes);
        manifest.remote = read_pairs(&mut section).filter(|_| section.is_empty())?;
        if !manifest.remote.iter().all(|(_, number)| (1..=MAX_SEQUENCE).contains(number)) {
            return None;
        }
    }
    Some(manifest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn table(counter: u64, min: &str, max: &str) -> TableRef {
        TableRef {
            id: TableId { epoch: 3, counter },
            mirror_len: 1000,
            object_len: 500,
            min_key: min.into(),
            max_key: max.into(),
            min_sequence: 1,
            max_sequence: 9,
            entries: 9,
            deletions: 1,
            ranges: 0,
            meta_len: 150,
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            nonce: Uuid::from_u128(1),
            previous_nonce: Uuid::from_u128(2),
            store_id: Uuid::from_u128(3),
            epoch: 3,
            floor: 4,
            last_sequence: 9,
            position: 77,
            clean: true,
            log: LogKind::External,
            log_owner: Uuid::nil(),
            recover: vec![(1, 2), (2, 0)],
            remote: vec![(1, 7), (2, 1)],
            owner: b"owner".to_vec(),
            levels: vec![vec![table(7, "a", "z"), table(6, "a", "b")], vec![table(1, "a", "f"), table(2, "g", "h")]],
            sections: vec![(5, b"later".to_vec())],
        }
    }

    #[test]
    fn a_manifest_comes_back_from_its_bytes() {
        let bytes = manifest().encode(12, 3).unwrap();
        assert_eq!(Manifest::decode("m", 12, &bytes).unwrap(), manifest());
        assert!(Manifest::decode("m", 13, &bytes).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let bytes = manifest().encode(12, 3).unwrap();
        for at in 0..bytes.len() {
            assert!(Manifest::decode("m", 12, &bytes[..at]).is_err());
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(Manifest::decode("m", 12, &changed).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn overlapping_levels_and_unknown_even_sections_are_refused() {
        let mut overlapping = manifest();
        overlapping.levels[1][1].min_key = b"f".to_vec();
        assert!(Manifest::decode("m", 1, &overlapping.encode(1, 1).unwrap()).is_err());
        let mut unknown = manifest();
        unknown.sections[0].0 = 4;
        assert!(Manifest::decode("m", 1, &unknown.encode(1, 1).unwrap()).is_err());
    }
}
