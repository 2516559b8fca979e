//! Values of rows and deletion marks.
//!
//! ```text
//! row   version u8 | flags u8 | reserved u16 | incarnation u32 | xmin u64 | cmin u32 | tuple length u32 | tuple ...
//! mark  version u8 | flags u8 | reserved u16 | incarnation u32 | xmax u64 | cmax u32 | reserved u32 | next tid u64
//! ```
//! A row that may still turn out never to have been inserted (INSERT ... ON CONFLICT) has the flag 1 and, behind its tuple,
//! the token u32 by which others wait for that; the place of the tuple is the same.
//!
//! Little-endian. The header of a row takes 24 bytes, so its tuple starts on a multiple of 8 from the value's start. The
//! tuple is opaque here.

use crate::error::{FormatError, array};

/// Version that this code writes and reads.
pub const VERSION: u8 = 1;
/// Bytes before the tuple in a row's value.
pub const ROW_HEADER: usize = 24;
/// Bytes of a deletion mark's value.
pub const MARK_BYTES: usize = 32;
/// [`Mark::next`] of a row that was deleted, not replaced.
pub const NO_NEXT: u64 = u64::MAX;

/// Flag of a row behind whose tuple stands a token.
const SPECULATIVE: u8 = 1;

/// What the engine and visibility need to know of a row version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowHeader {
    /// Token of a speculative insertion, 0 for what is inserted for good.
    pub token: u32,
    /// Incarnation of the store under which `xmin` has its meaning.
    pub incarnation: u32,
    /// Full id of the transaction that made the version; 0, which no transaction has, if it was never made after all.
    pub xmin: u64,
    /// Command within that transaction.
    pub cmin: u32,
}

impl RowHeader {
    /// Header and tuple of a row's value.
    ///
    /// # Errors
    /// Bytes that are cut, of another version, or whose tuple length disagrees with their own.
    pub fn parse(value: &[u8]) -> Result<(RowHeader, &[u8]), FormatError> {
        const WHAT: &str = "row";
        let header: [u8; ROW_HEADER] = array(WHAT, value, 0)?;
        if header[0] != VERSION {
            return Err(FormatError::version(WHAT, VERSION, header[0]));
        }
        let (mut tuple, mut token) = (&value[ROW_HEADER..], 0);
        if header[1] & SPECULATIVE != 0 {
            let at = tuple.len().checked_sub(4).ok_or_else(|| FormatError::new(WHAT, "its token is missing"))?;
            token = u32::from_le_bytes(array(WHAT, tuple, at)?);
            tuple = &tuple[..at];
        }
        let length = u32::from_le_bytes(array(WHAT, &header, 20)?);
        if tuple.len() as u64 != u64::from(length) {
            return Err(FormatError::new(WHAT, format!("tuple of {length} bytes announced, {} found", tuple.len())));
        }
        let header = RowHeader {
            token,
            incarnation: u32::from_le_bytes(array(WHAT, &header, 4)?),
            xmin: u64::from_le_bytes(array(WHAT, &header, 8)?),
            cmin: u32::from_le_bytes(array(WHAT, &header, 16)?),
        };
        Ok((header, tuple))
    }

    /// Appends the value of a row with this header and `tuple`.
    ///
    /// # Errors
    /// A tuple of 4 GiB or more.
    pub fn encode_into(&self, tuple: &[u8], into: &mut Vec<u8>) -> Result<(), FormatError> {
        let length = u32::try_from(tuple.len())
            .map_err(|_| FormatError::new("row", format!("a tuple of {} bytes is too large", tuple.len())))?;
        into.reserve(ROW_HEADER + tuple.len() + 4);
        let flags = if self.token == 0 { 0 } else { SPECULATIVE };
        into.extend_from_slice(&[VERSION, flags, 0, 0]);
        into.extend_from_slice(&self.incarnation.to_le_bytes());
        into.extend_from_slice(&self.xmin.to_le_bytes());
        into.extend_from_slice(&self.cmin.to_le_bytes());
        into.extend_from_slice(&length.to_le_bytes());
        into.extend_from_slice(tuple);
        if self.token != 0 {
            into.extend_from_slice(&self.token.to_le_bytes());
        }
        Ok(())
    }
}

/// That a row version was deleted or replaced, by whom, and where its successor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// [`Mark::KEY`], [`Mark::MOVED`], [`Mark::LOCKED`].
    pub flags: u8,
    /// Incarnation of the store under which `xmax` has its meaning.
    pub incarnation: u32,
    /// Full id of the deleting transaction.
    pub xmax: u64,
    /// Command within that transaction.
    pub cmax: u32,
    /// Row number of the next version, or [`NO_NEXT`].
    pub next: u64,
}

impl Mark {
    /// Flag: the row was deleted, or its key changed: it excludes whoever relies on the key.
    pub const KEY: u8 = 1;
    /// Flag: the row lives on in another partition.
    pub const MOVED: u8 = 2;
    /// Flag: another subtransaction of the transaction held the row as if to delete it. Who comes for this very version
    /// takes its key for changed; who comes from an earlier one does not. So it is on heap.
    pub const LOCKED: u8 = 4;

    /// A deletion mark's value.
    ///
    /// # Errors
    /// Bytes of another length or version.
    pub fn parse(value: &[u8]) -> Result<Mark, FormatError> {
        const WHAT: &str = "deletion mark";
        if value.len() != MARK_BYTES {
            return Err(FormatError::new(WHAT, format!("expected {MARK_BYTES} bytes, got {}", value.len())));
        }
        if value[0] != VERSION {
            return Err(FormatError::version(WHAT, VERSION, value[0]));
        }
        Ok(Mark {
            flags: value[1],
            incarnation: u32::from_le_bytes(array(WHAT, value, 4)?),
            xmax: u64::from_le_bytes(array(WHAT, value, 8)?),
            cmax: u32::from_le_bytes(array(WHAT, value, 16)?),
            next: u64::from_le_bytes(array(WHAT, value, 24)?),
        })
    }

    /// Appends the value of this mark.
    pub fn encode_into(&self, into: &mut Vec<u8>) {
        into.reserve(MARK_BYTES);
        into.extend_from_slice(&[VERSION, self.flags, 0, 0]);
        into.extend_from_slice(&self.incarnation.to_le_bytes());
        into.extend_from_slice(&self.xmax.to_le_bytes());
        into.extend_from_slice(&self.cmax.to_le_bytes());
        into.extend_from_slice(&[0; 4]);
        into.extend_from_slice(&self.next.to_le_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_and_its_tuple_lies_on_a_multiple_of_eight() {
        let header = RowHeader { token: 0, incarnation: 9, xmin: 1 << 40, cmin: 77 };
        for header in [header, RowHeader { token: 7, ..header }] {
            let mut value = Vec::new();
            header.encode_into(b"tuple", &mut value).unwrap();
            assert_eq!(RowHeader::parse(&value).unwrap(), (header, &b"tuple"[..]));
            assert_eq!(value[ROW_HEADER..][..5], *b"tuple");
        }
        assert_eq!(ROW_HEADER % 8, 0);
    }

    #[test]
    fn a_mark_comes_back() {
        let mark = Mark { flags: 1, incarnation: 2, xmax: 3, cmax: 4, next: NO_NEXT };
        let mut value = Vec::new();
        mark.encode_into(&mut value);
        assert_eq!(value.len(), MARK_BYTES);
        assert_eq!(Mark::parse(&value).unwrap(), mark);
    }

    #[test]
    fn cut_longer_and_foreign_values_are_errors() {
        let mut row = Vec::new();
        RowHeader { token: 0, incarnation: 0, xmin: 0, cmin: 0 }.encode_into(b"0123456789", &mut row).unwrap();
        let mut speculative = Vec::new();
        RowHeader { token: 9, incarnation: 0, xmin: 0, cmin: 0 }.encode_into(b"0123456789", &mut speculative).unwrap();
        for value in [&row, &speculative] {
            for cut in 0..value.len() {
                assert!(RowHeader::parse(&value[..cut]).is_err());
            }
        }
        row.push(0);
        assert!(RowHeader::parse(&row).is_err());
        row.pop();
        row[0] = 200;
        assert!(RowHeader::parse(&row).is_err());
        assert!(Mark::parse(&[VERSION; MARK_BYTES - 1]).is_err());
        assert!(Mark::parse(&[9; MARK_BYTES]).is_err());
    }
}
