//! The value of a row. Drawn in the module's documentation.

use vecindex::Metric;

use super::Space;
use super::space::VERSION;
use crate::error::Corruption;

/// Bytes before side and elements.
const HEADER: usize = 12;

/// The value for a row whose side and elements are `encoded`.
pub(super) fn encode(space: &Space, encoded: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER + encoded.len());
    value.extend_from_slice(&header(space));
    value.extend_from_slice(encoded);
    value
}

/// Side and elements of the row with the id `id`, whose value this is.
pub(super) fn decode<'a>(space: &Space, id: u32, value: &'a [u8], length: usize) -> Result<&'a [u8], Corruption> {
    let bad = |offset: usize, what: String| {
        Corruption::new(format!("row {id} of vector space {}", space.id()), offset as u64, what)
    };
    if value.len() != HEADER + length {
        return Err(bad(0, format!("it has {} bytes, expected {}", value.len(), HEADER + length)));
    }
    let (found, encoded) = value.split_at(HEADER);
    let expected = header(space);
    match found.iter().zip(expected).position(|(found, expected)| *found != expected) {
        Some(at) => Err(bad(at, format!("its header is {found:02x?}, expected {expected:02x?}"))),
        None => Ok(encoded),
    }
}

fn header(space: &Space) -> [u8; HEADER] {
    let [element, metric] = space.codes();
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&[VERSION, element, metric, u8::from(space.metric() == Metric::Cosine)]);
    header[4..8].copy_from_slice(&space.id().to_le_bytes());
    header[8..].copy_from_slice(&space.dim().to_le_bytes());
    header
}
