//! The text form: `[1,2,3]`.
//!
//! Reading accepts what pgvector accepts: white space around brackets, commas and elements, and as an element whatever
//! C's `strtof` takes, rounded once. Nearly every element is a plain decimal number, which Rust's parser reads to the
//! same float several times faster; anything else is left to `strtof` (Postgres keeps LC_NUMERIC at "C").

use super::error::VectorError;
use super::vector::MAX_DIMENSIONS;
use std::ffi::{CStr, c_char};

/// Reads the elements of `text`, finite and 1..=16000 in number.
pub fn parse(text: &CStr) -> Result<Vec<f32>, VectorError> {
    let syntax = |detail| VectorError::Syntax { text: text.to_string_lossy().into_owned(), detail };
    // What is left to read always ends with the text's zero byte, which nothing below skips.
    let rest = skip_space(text.to_bytes_with_nul());
    let rest = rest.strip_prefix(b"[").ok_or_else(|| syntax(Some("Vector contents must start with \"[\".")))?;
    let mut rest = skip_space(rest);
    if rest.starts_with(b"]") {
        return Err(VectorError::NoDimensions);
    }
    let mut elements = Vec::new();
    loop {
        if elements.len() == MAX_DIMENSIONS {
            return Err(VectorError::TooManyDimensions);
        }
        let (element, behind) = parse_element(skip_space(rest))?.ok_or_else(|| syntax(None))?;
        elements.push(element);
        let behind = skip_space(behind);
        if let Some(next) = behind.strip_prefix(b",") {
            rest = next;
        } else if let Some(end) = behind.strip_prefix(b"]") {
            rest = skip_space(end);
            break;
        } else {
            return Err(syntax(None));
        }
    }
    if rest != b"\0" {
        return Err(syntax(Some("Junk after closing right brace.")));
    }
    Ok(elements)
}

/// The element `text` begins with and what follows it; `None` if it begins with no number.
fn parse_element(text: &[u8]) -> Result<Option<(f32, &[u8])>, VectorError> {
    let (element, length) = plain_number(text).unwrap_or_else(|| strtof(text));
    let (written, behind) = text.split_at(length);
    if written.is_empty() {
        Ok(None)
    } else if element.is_finite() {
        Ok(Some((element, behind)))
    } else if element.is_nan() {
        Err(VectorError::NotANumber)
    } else if written.iter().any(u8::is_ascii_digit) {
        Err(VectorError::OutOfRange { element: String::from_utf8_lossy(written).into_owned() })
    } else {
        // No digits: the text said infinity.
        Err(VectorError::Infinite)
    }
}

/// A decimal number up to the next comma, bracket or white space, and its length. `None` leaves the judgement to
/// `strtof`.
fn plain_number(text: &[u8]) -> Option<(f32, usize)> {
    let length = text.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))?;
    let (number, behind) = text.split_at(length);
    behind.first().filter(|&&byte| byte == b',' || byte == b']' || is_space(byte))?;
    let element = std::str::from_utf8(number).ok()?.parse::<f32>().ok()?;
    element.is_finite().then_some((element, length))
}

/// What C reads at the beginning of `text`, which ends with a zero byte, and the number of bytes it took: 0 if there is
/// no number.
fn strtof(text: &[u8]) -> (f32, usize) {
    assert_eq!(text.last(), Some(&0), "text given to C ends with a zero byte");
    let start = text.as_ptr().cast::<c_char>();
    let mut end: *mut c_char = std::ptr::null_mut();
    // SAFETY: C stops at the zero byte at the end of `text` at the latest, and `end` is ours to write.
    let element = unsafe { libc::strtof(start, &mut end) };
    (element, end.addr() - start.addr())
}

/// White space as Postgres's own scanner has it.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn skip_space(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|&&byte| is_space(byte)).count()..]
}
