//! The keys of the store: one letter for the kind of thing, then numbers, all big-endian so that order of bytes is
//! order of numbers.
//!
//! ```text
//! 'r' | table u64 | tid u48 | kind u8    kind 0 a row, 1 its deletion mark
//! 'c' | id u64                           catalogue entry; tables and indexes share one id space
//! 'd' | id u64 | xid u64                 the object is gone if that transaction committed
//! 'k' | counter u8 | id u64              durable ceiling of a counter
//! 'v' | index u64 | entry u64            index entry
//! 'x' | index u64 | entry u64            deleted index entry
//! 's' | index u64 | segment u64          sealed segment of an index
//! ```

use crate::error::{FormatError, array};

/// First byte of rows and deletion marks.
pub const ROW: u8 = b'r';
/// First byte of catalogue entries.
pub const CATALOGUE: u8 = b'c';
/// First byte of drop marks.
pub const DROP: u8 = b'd';
/// First byte of counters' ceilings.
pub const CEILING: u8 = b'k';
/// First byte of index entries.
pub const ENTRY: u8 = b'v';
/// First byte of deleted index entries.
pub const DELETED: u8 = b'x';
/// First byte of sealed segments.
pub const SEGMENT: u8 = b's';

/// Length of the key of a row or mark in bytes.
pub const ROW_KEY: usize = 16;
/// The largest row number that a key can hold.
pub const MAX_TID: u64 = (1 << 48) - 1;

/// What a counter counts; the ceilings of all of them survive a crash, so that no number is given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Counter {
    /// Row numbers of a table; id = table.
    Tids = b't',
    /// Entry numbers of an index; id = index.
    Entries = b'e',
    /// Ids of tables and indexes; id = 0.
    Objects = b'o',
    /// Numbers of sealed segments of an index; id = index.
    Segments = b's',
}

fn triple(kind: u8, a: u64, b: u64) -> [u8; 17] {
    let mut key = [0; 17];
    key[0] = kind;
    key[1..9].copy_from_slice(&a.to_be_bytes());
    key[9..].copy_from_slice(&b.to_be_bytes());
    key
}

fn pair(kind: u8, a: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = kind;
    key[1..].copy_from_slice(&a.to_be_bytes());
    key
}

fn row_or_mark(table: u64, tid: u64, kind: u8) -> [u8; ROW_KEY] {
    debug_assert!(tid <= MAX_TID);
    let mut key = [0; ROW_KEY];
    key[0] = ROW;
    key[1..9].copy_from_slice(&table.to_be_bytes());
    key[9..15].copy_from_slice(&tid.to_be_bytes()[2..]);
    key[15] = kind;
    key
}

/// Key of a row. `tid` must not exceed [`MAX_TID`].
pub fn row(table: u64, tid: u64) -> [u8; ROW_KEY] {
    row_or_mark(table, tid, 0)
}

/// Key of the deletion mark of a row; it follows the row's key at once. `tid` must not exceed [`MAX_TID`].
pub fn mark(table: u64, tid: u64) -> [u8; ROW_KEY] {
    row_or_mark(table, tid, 1)
}

/// What all rows and marks of a table begin with.
pub fn table_prefix(table: u64) -> [u8; 9] {
    pair(ROW, table)
}

/// The row number in the key of a row or mark, or `None` for another key.
pub fn tid_of(key: &[u8]) -> Option<u64> {
    parse_row(key).map(|(_, tid, _)| tid)
}

/// Whether the key is that of a deletion mark.
pub fn is_mark(key: &[u8]) -> bool {
    matches!(parse_row(key), Some((_, _, true)))
}

/// Table, row number and whether it is a deletion mark, or `None` for another key.
pub fn parse_row(key: &[u8]) -> Option<(u64, u64, bool)> {
    if key.len() != ROW_KEY || key[0] != ROW || key[15] > 1 {
        return None;
    }
    let mut tid = [0; 8];
    tid[2..].copy_from_slice(&key[9..15]);
    let table = u64::from_be_bytes(key[1..9].try_into().ok()?);
    Some((table, u64::from_be_bytes(tid), key[15] == 1))
}

/// Key of a catalogue entry.
pub fn catalogue(id: u64) -> [u8; 9] {
    pair(CATALOGUE, id)
}

/// Key of the mark that transaction `xid` dropped object `id`.
pub fn drop_mark(id: u64, xid: u64) -> [u8; 17] {
    triple(DROP, id, xid)
}

/// What all drop marks of an object begin with.
pub fn drop_prefix(id: u64) -> [u8; 9] {
    pair(DROP, id)
}

/// Key of a counter's ceiling.
pub fn ceiling(counter: Counter, id: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[0] = CEILING;
    key[1] = counter as u8;
    key[2..].copy_from_slice(&id.to_be_bytes());
    key
}

/// Counter and id of the key of a ceiling.
///
/// # Errors
/// A key of another length or an unknown counter.
pub fn parse_ceiling(key: &[u8]) -> Result<(Counter, u64), FormatError> {
    const WHAT: &str = "counter's key";
    if key.len() != 10 || key[0] != CEILING {
        return Err(FormatError::new(WHAT, "it is not the key of a counter"));
    }
    let counter = match key[1] {
        b't' => Counter::Tids,
        b'e' => Counter::Entries,
        b'o' => Counter::Objects,
        b's' => Counter::Segments,
        other => return Err(FormatError::new(WHAT, format!("unknown counter {other}"))),
    };
    Ok((counter, u64::from_be_bytes(array(WHAT, key, 2)?)))
}

/// Key of an index entry.
pub fn entry(index: u64, entry: u64) -> [u8; 17] {
    triple(ENTRY, index, entry)
}

/// Key that says an index entry is deleted.
pub fn deleted(index: u64, entry: u64) -> [u8; 17] {
    triple(DELETED, index, entry)
}

/// Key of a sealed segment.
pub fn segment(index: u64, segment: u64) -> [u8; 17] {
    triple(SEGMENT, index, segment)
}

/// What all keys of one kind ([`ENTRY`], [`DELETED`], [`SEGMENT`], [`DROP`]) of one object begin with.
pub fn object_prefix(kind: u8, id: u64) -> [u8; 9] {
    pair(kind, id)
}

/// The one number of a catalogue entry's key.
///
/// # Errors
/// A key of another kind or length.
pub fn parse_pair(kind: u8, key: &[u8]) -> Result<u64, FormatError> {
    if key.len() != 9 || key[0] != kind {
        return Err(FormatError::new("key", format!("expected 9 bytes that begin with {:?}", char::from(kind))));
    }
    Ok(u64::from_be_bytes(array("key", key, 1)?))
}

/// The two numbers of a key of `kind` ([`ENTRY`], [`DELETED`], [`SEGMENT`], [`DROP`]).
///
/// # Errors
/// A key of another kind or length.
pub fn parse_triple(kind: u8, key: &[u8]) -> Result<(u64, u64), FormatError> {
    if key.len() != 17 || key[0] != kind {
        return Err(FormatError::new("key", format!("expected 17 bytes that begin with {:?}", char::from(kind))));
    }
    Ok((u64::from_be_bytes(array("key", key, 1)?), u64::from_be_bytes(array("key", key, 9)?)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn order_of_bytes_is_order_of_tables_then_rows_then_row_before_mark() {
        let numbers = [0, 1, 255, 256, 1 << 40, MAX_TID];
        let mut last: Vec<u8> = Vec::new();
        for table in [0, 1, 256, u64::MAX] {
            for tid in numbers {
                for key in [row(table, tid), mark(table, tid)] {
                    assert!(last.as_slice() < key.as_slice());
                    assert!(key.starts_with(&table_prefix(table)));
                    last = key.to_vec();
                }
            }
        }
    }

    #[test]
    fn the_row_number_is_read_back_and_other_keys_have_none() {
        assert_eq!(tid_of(&row(9, MAX_TID)), Some(MAX_TID));
        assert_eq!(parse_row(&mark(9, 77)), Some((9, 77, true)));
        assert!(is_mark(&mark(1, 2)) && !is_mark(&row(1, 2)));
        assert_eq!(tid_of(&catalogue(5)), None);
        assert_eq!(tid_of(&row(1, 2)[..15]), None);
    }

    #[test]
    fn counters_and_pairs_are_read_back() {
        assert_eq!(parse_ceiling(&ceiling(Counter::Segments, 8)).unwrap(), (Counter::Segments, 8));
        assert_eq!(parse_triple(SEGMENT, &segment(3, 4)).unwrap(), (3, 4));
        assert_eq!(parse_pair(CATALOGUE, &catalogue(3)).unwrap(), 3);
        assert!(parse_triple(ENTRY, &segment(3, 4)).is_err());
        assert!(parse_ceiling(b"k?12345678").is_err());
    }
}
