//! The bytes of a beat of a checkpoint.
//!
//! ```text
//!  0  magic "LSMCHKP1"    8  version u32    12  crc32c u32 of all behind it    16  nonce 16 bytes
//! 32  state u8 (0 proposed, 1 held, 2 ended) | number of the manifest, time to live in ms (varints)
//!     nonce of the manifest 16 bytes | name bytes
//! ```

use uuid::Uuid;

use crate::codec::{Reader, put_bytes, put_varint};
use crate::error::Corruption;

const MAGIC: &[u8; 8] = b"LSMCHKP1";
const VERSION: u32 = 1;
const HEADER: usize = 16;

/// What a checkpoint is at a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its creator has not looked yet whether it came in time. Collection spares it, nobody else relies on it.
    Proposed,
    /// It holds its manifest.
    Held,
    /// It is over, for ever.
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) nonce: Uuid,
    pub(crate) state: State,
    pub(crate) manifest: u64,
    pub(crate) manifest_nonce: Uuid,
    pub(crate) ttl_ms: u64,
    pub(crate) name: String,
}

impl Beat {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.nonce.as_bytes());
        out.push(self.state as u8);
        put_varint(&mut out, self.manifest);
        put_varint(&mut out, self.ttl_ms);
        out.extend_from_slice(self.manifest_nonce.as_bytes());
        put_bytes(&mut out, self.name.as_bytes());
        let crc = crc32c::crc32c(&out[HEADER..]);
        out[12..HEADER].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(object: &str, bytes: &[u8]) -> Result<Beat, Corruption> {
        let bad = |at: u64, what: String| Corruption::new(object, at, what);
        if bytes.len() < HEADER || &bytes[..8] != MAGIC {
            return Err(bad(0, "the magic LSMCHKP1 is not at its begin, or it is cut off".into()));
        }
        let mut header = Reader::new(&bytes[8..HEADER]);
        let (Some(version), Some(stored)) = (header.u32(), header.u32()) else {
            return Err(bad(8, "the header is cut off".into()));
        };
        if version != VERSION {
            return Err(bad(8, format!("format version {version}, this build reads {VERSION}")));
        }
        let computed = crc32c::crc32c(&bytes[HEADER..]);
        if computed != stored {
            return Err(bad(12, format!("checksum is {computed:#010x}, stored {stored:#010x}")));
        }
        let mut reader = Reader::new(&bytes[HEADER..]);
        let beat = (|| {
            let nonce = Uuid::from_bytes(reader.array()?);
            let state = match reader.u8()? {
                0 => State::Proposed,
                1 => State::Held,
                2 => State::Ended,
                _ => return None,
            };
            let (manifest, ttl_ms) = (reader.varint()?, reader.varint()?);
            let manifest_nonce = Uuid::from_bytes(reader.array()?);
            let name = String::from_utf8(reader.bytes()?.to_vec()).ok()?;
            Some(Beat { nonce, state, manifest, manifest_nonce, ttl_ms, name })
        })();
        beat.filter(|_| reader.is_empty()).ok_or_else(|| bad(HEADER as u64, "it makes no sense".into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_comes_back_from_its_bytes_and_changed_ones_are_errors() {
        let beat = Beat {
            nonce: Uuid::from_u128(1),
            state: State::Held,
            manifest: 300,
            manifest_nonce: Uuid::from_u128(2),
            ttl_ms: 86_400_000,
            name: "before the upgrade".into(),
        };
        let bytes = beat.encode();
        assert_eq!(Beat::decode("c", &bytes).unwrap(), beat);
        for at in 0..bytes.len() {
            assert!(Beat::decode("c", &bytes[..at]).is_err());
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(Beat::decode("c", &changed).is_err(), "byte {at} bit {bit}");
            }
        }
    }
}
