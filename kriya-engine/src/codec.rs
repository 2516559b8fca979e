//! The only place that sees bincode: internal messages and small records of this crate's own making.
//!
//! Integers are little-endian and of variable length; decoding stops at [`LIMIT`] bytes, so that a hostile length is
//! an error and never an allocation. Formats that must stay readable carry a version byte of their own in front.

use crate::error::FormatError;

/// No decoded value takes more memory than this many bytes.
pub const LIMIT: usize = 64 << 20;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// The bytes of a value.
pub fn encode<T: bincode::Encode>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(value, &mut bytes);
    bytes
}

/// Appends the bytes of a value.
pub fn encode_into<T: bincode::Encode>(value: &T, into: &mut Vec<u8>) {
    // Encoding fails on a full destination, a poisoned lock or a clock before 1970; the values of this crate are plain
    // data written to a vector.
    bincode::encode_into_std_write(value, into, config()).expect("plain data encodes into a vector");
}

/// The value that `bytes` hold, all of them.
///
/// # Errors
/// Bytes that are cut, too long or not such a value; `what` names it in the message.
pub fn decode<T: bincode::Decode<()>>(what: &'static str, bytes: &[u8]) -> Result<T, FormatError> {
    let (value, rest) = decode_prefix(what, bytes)?;
    if !rest.is_empty() {
        return Err(FormatError::new(what, format!("{} bytes are left over", rest.len())));
    }
    Ok(value)
}

/// The value at the start of `bytes`, and the bytes that follow it.
///
/// # Errors
/// As [`decode`], but for what follows.
pub fn decode_prefix<'a, T: bincode::Decode<()>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<(T, &'a [u8]), FormatError> {
    let (value, used) =
        bincode::decode_from_slice(bytes, config()).map_err(|error| FormatError::new(what, error.to_string()))?;
    Ok((value, bytes.get(used..).unwrap_or_default()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_leftovers_are_an_error() {
        let mut bytes = encode(&(7u32, vec![1u8, 2], "name".to_string()));
        assert_eq!(decode::<(u32, Vec<u8>, String)>("test", &bytes).unwrap(), (7, vec![1, 2], "name".into()));
        bytes.push(0);
        assert!(decode::<(u32, Vec<u8>, String)>("test", &bytes).is_err());
    }

    #[test]
    fn a_length_beyond_the_limit_is_an_error_and_not_an_allocation() {
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(u64::MAX / 2).to_le_bytes());
        assert!(decode::<Vec<u8>>("test", &bytes).is_err());
        assert!(decode::<Vec<u64>>("test", &bytes).is_err());
    }
}
