//! What is written into the owner's log (Postgres's WAL): the payload of its records.
//!
//! ```text
//! magic "KRIYAWL1" | version u8 | kind u8 | flags u8 | reserved u8 | piece u32 | pieces u32
//! | generation u64 | sequence u64 | xid u64 | incarnation u32 | body ...
//! ```
//! Little-endian. No record is longer than [`MAX_RECORD`]; a longer body goes in numbered pieces, which an [`Assembler`]
//! joins again. Pieces of different sessions may interleave; those of one body are in order and share (generation,
//! sequence), which no other body has. The log has checksums of its own.

use std::collections::HashMap;
use std::ops::Range;

use bincode::{Decode, Encode};

use crate::codec;
use crate::error::{FormatError, array};

/// First bytes of every payload of ours.
pub const MAGIC: [u8; 8] = *b"KRIYAWL1";
/// Version that this code writes and reads.
pub const VERSION: u8 = 1;
/// Bytes before the body.
pub const HEADER: usize = 48;
/// The longest record in bytes, header included.
pub const MAX_RECORD: usize = 1 << 20;
/// The most pieces that a body may have: 2 GiB.
pub const MAX_PIECES: u32 = 2100;

const WHAT: &str = "log record";

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Transaction `xid` is about to write. No body.
    Announce = 1,
    /// A batch of the store, as encoded by it; `sequence` is its first sequence number.
    Batch = 2,
    /// A worker of that generation starts. Body: [`Generation`].
    Generation = 3,
    /// A manifest is about to be published. Body: [`Birth`].
    Birth = 4,
    /// Sequence numbers below a ceiling may be given out. Body: [`Ceiling`].
    Ceiling = 5,
}

/// The header of a record but for its pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    /// What the record is about.
    pub kind: Kind,
    /// Generation of the worker that acknowledged the batch, or that writes.
    pub generation: u64,
    /// First sequence number of a batch, else 0.
    pub sequence: u64,
    /// Full transaction id, or 0 for what belongs to none.
    pub xid: u64,
    /// Incarnation of the store under which `xid` has its meaning.
    pub incarnation: u32,
}

/// Body of [`Kind::Generation`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Generation {
    /// The store that is opened.
    pub store_id: [u8; 16],
}

/// Body of [`Kind::Birth`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Birth {
    /// The store that publishes.
    pub store_id: [u8; 16],
    /// Its epoch.
    pub epoch: u64,
    /// Number of the manifest.
    pub manifest: u64,
    /// Nonce of the manifest.
    pub nonce: [u8; 16],
    /// Position in the log from which replay would have to start.
    pub position: u64,
    /// Last sequence number that the manifest contains.
    pub sequence: u64,
}

/// Body of [`Kind::Ceiling`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ceiling {
    /// First sequence number that may not be given out.
    pub sequence: u64,
}

/// A whole record: its pieces joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is about.
    pub head: RecordHead,
    /// What follows the header.
    pub body: Vec<u8>,
}

/// Whether a payload of somebody's record is ours, by its first bytes.
pub fn is_ours(payload: &[u8]) -> bool {
    payload.starts_with(&MAGIC)
}

/// Number of records that a body of that many bytes takes.
pub fn pieces(body: usize) -> usize {
    body.div_ceil(MAX_RECORD - HEADER).max(1)
}

/// The headers of the records that hold a body of `length` bytes, each with the part of the body that follows it, in the
/// order in which they have to be logged.
///
/// # Errors
/// A body that needs more than [`MAX_PIECES`] pieces.
pub fn headers(
    head: &RecordHead,
    length: usize,
) -> Result<impl Iterator<Item = ([u8; HEADER], Range<usize>)> + use<>, FormatError> {
    let count = u32::try_from(pieces(length)).ok().filter(|count| *count <= MAX_PIECES).ok_or_else(|| {
        FormatError::new(WHAT, format!("a body of {length} bytes is too long for {MAX_PIECES} records"))
    })?;
    let head = *head;
    Ok((0..count).map(move |piece| {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&[VERSION, head.kind as u8, 0, 0]);
        header[12..16].copy_from_slice(&piece.to_le_bytes());
        header[16..20].copy_from_slice(&count.to_le_bytes());
        header[20..28].copy_from_slice(&head.generation.to_le_bytes());
        header[28..36].copy_from_slice(&head.sequence.to_le_bytes());
        header[36..44].copy_from_slice(&head.xid.to_le_bytes());
        header[44..].copy_from_slice(&head.incarnation.to_le_bytes());
        let from = piece as usize * (MAX_RECORD - HEADER);
        (header, from..length.min(from + MAX_RECORD - HEADER))
    }))
}

/// The records that hold `body`, whole, in the order in which they have to be logged.
///
/// # Errors
/// As [`headers`].
pub fn frames(head: &RecordHead, body: &[u8]) -> Result<Vec<Vec<u8>>, FormatError> {
    Ok(headers(head, body.len())?.map(|(header, part)| [&header, &body[part]].concat()).collect())
}

/// The header of a record, whichever piece it is.
///
/// # Errors
/// Bytes that are no record of ours.
pub fn head(payload: &[u8]) -> Result<RecordHead, FormatError> {
    parse(payload).map(|piece| piece.head)
}

struct Piece<'a> {
    head: RecordHead,
    piece: u32,
    pieces: u32,
    body: &'a [u8],
}

fn parse(payload: &[u8]) -> Result<Piece<'_>, FormatError> {
    let header: [u8; HEADER] = array(WHAT, payload, 0)?;
    if !is_ours(&header) {
        return Err(FormatError::new(WHAT, "it does not begin with our magic"));
    }
    if header[8] != VERSION {
        return Err(FormatError::version(WHAT, VERSION, header[8]));
    }
    let kind = match header[9] {
        1 => Kind::Announce,
        2 => Kind::Batch,
        3 => Kind::Generation,
        4 => Kind::Birth,
        5 => Kind::Ceiling,
        other => return Err(FormatError::new(WHAT, format!("unknown kind {other}"))),
    };
    let (piece, pieces) =
        (u32::from_le_bytes(array(WHAT, &header, 12)?), u32::from_le_bytes(array(WHAT, &header, 16)?));
    if pieces == 0 || pieces > MAX_PIECES || piece >= pieces {
        return Err(FormatError::new(WHAT, format!("piece {piece} of {pieces}")));
    }
    let head = RecordHead {
        kind,
        generation: u64::from_le_bytes(array(WHAT, &header, 20)?),
        sequence: u64::from_le_bytes(array(WHAT, &header, 28)?),
        xid: u64::from_le_bytes(array(WHAT, &header, 36)?),
        incarnation: u32::from_le_bytes(array(WHAT, &header, 44)?),
    };
    Ok(Piece { head, piece, pieces, body: &payload[HEADER..] })
}

/// Joins the pieces of records that are pushed in log order.
#[derive(Debug, Default)]
pub struct Assembler {
    open: HashMap<(u64, u64), Open>,
}

#[derive(Debug)]
struct Open {
    head: RecordHead,
    next: u32,
    pieces: u32,
    body: Vec<u8>,
}

impl Assembler {
    /// Takes the next payload; gives the record that it completes.
    ///
    /// # Errors
    /// Bytes that are no record of ours, or pieces that do not follow each other.
    pub fn push(&mut self, payload: &[u8]) -> Result<Option<Record>, FormatError> {
        let Piece { head, piece, pieces, body } = parse(payload)?;
        if pieces == 1 {
            return Ok(Some(Record { head, body: body.to_vec() }));
        }
        let key = (head.generation, head.sequence);
        if piece == 0 {
            self.open.insert(key, Open { head, next: 1, pieces, body: body.to_vec() });
            return Ok(None);
        }
        let Some(open) = self.open.get_mut(&key) else {
            return Err(FormatError::new(WHAT, format!("piece {piece} of {pieces} without those before it")));
        };
        if open.head != head || open.pieces != pieces || open.next != piece {
            return Err(FormatError::new(
                WHAT,
                format!("piece {piece} of {pieces} where piece {} of {} should follow", open.next, open.pieces),
            ));
        }
        open.body.extend_from_slice(body);
        open.next += 1;
        if open.next < pieces {
            return Ok(None);
        }
        Ok(self.open.remove(&key).map(|open| Record { head: open.head, body: open.body }))
    }

    /// Number of bodies of which pieces are missing so far.
    pub fn incomplete(&self) -> usize {
        self.open.len()
    }
}

impl Record {
    /// The body of a record of a worker's own making.
    ///
    /// # Errors
    /// A body that is not such a thing.
    pub fn decode<T: Decode<()>>(&self) -> Result<T, FormatError> {
        codec::decode(WHAT, &self.body)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head(sequence: u64) -> RecordHead {
        RecordHead { kind: Kind::Batch, generation: 4, sequence, xid: 5, incarnation: 6 }
    }

    #[test]
    fn a_short_body_is_one_record_and_an_empty_one_too() {
        for body in [&b""[..], b"body"] {
            let records = frames(&head(1), body).unwrap();
            assert_eq!(records.len(), 1);
            let record = Assembler::default().push(&records[0]).unwrap().unwrap();
            assert_eq!((record.head, record.body.as_slice()), (head(1), body));
        }
    }

    #[test]
    fn long_bodies_come_back_from_interleaved_pieces_none_longer_than_the_limit() {
        let body = |seed: u8| (0..(2 << 20) + 7).map(|i| (i as u8).wrapping_mul(seed)).collect::<Vec<_>>();
        let (a, b) = (frames(&head(1), &body(3)).unwrap(), frames(&head(9), &body(5)).unwrap());
        assert_eq!((a.len(), pieces(body(3).len())), (3, 3));
        let mut assembler = Assembler::default();
        let mut whole = Vec::new();
        for (x, y) in a.iter().zip(&b) {
            assert!(x.len() <= MAX_RECORD);
            whole.extend(assembler.push(x).unwrap());
            whole.extend(assembler.push(y).unwrap());
        }
        assert_eq!(whole.len(), 2);
        assert!(whole[0].body == body(3) && whole[1].body == body(5));
        assert_eq!(assembler.incomplete(), 0);
    }

    #[test]
    fn a_missing_piece_is_an_error_and_a_restarted_body_is_not() {
        let records = frames(&head(1), &vec![7; 3 << 20]).unwrap();
        let mut assembler = Assembler::default();
        assert!(assembler.push(&records[1]).is_err());
        assembler.push(&records[0]).unwrap();
        assert!(assembler.push(&records[2]).is_err());
        assembler.push(&records[0]).unwrap();
        assert!(assembler.push(&records[1]).unwrap().is_none());
    }

    #[test]
    fn hostile_bytes_are_errors() {
        let good = frames(&head(1), b"body").unwrap().remove(0);
        for cut in 0..HEADER {
            assert!(Assembler::default().push(&good[..cut]).is_err());
        }
        for (at, value) in [(0, 0), (8, 9), (9, 0), (9, 99), (12, 1), (16, 0), (19, 255)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Assembler::default().push(&bad).is_err(), "byte {at} = {value}");
        }
    }
}
