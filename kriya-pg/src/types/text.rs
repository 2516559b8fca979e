//! The text form: `[1,2,3]`.
//!
//! Reading accepts what pgvector accepts: white space around brackets, commas and elements, and as an element whatever
//! C's `strtof` takes, rounded once. Nearly every element is a plain decimal number of at most 19 digits, which is read
//! here in one pass; where that cannot prove its rounding, and for everything else, the judgement is left to `strtof`
//! (Postgres keeps LC_NUMERIC at "C").

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
    let commas = rest.iter().filter(|&&byte| byte == b',').count();
    let mut elements = Vec::with_capacity((commas + 1).min(MAX_DIMENSIONS));
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

/// Powers of ten that a float8 holds exactly.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// A decimal number up to the next comma, bracket or white space, and its length. `None` leaves the judgement to
/// `strtof`.
///
/// Its digits, a whole number, are multiplied with or divided by a power of ten as float8: the digits are rounded once,
/// the power is exact, the operation rounds once more, so the quotient is off by less than two units in its last place.
/// A float4 has 29 bits less, and where those are not within a few units of a half, the float8 and the true number lie
/// on the same side of it and round to the same float4.
#[inline]
fn plain_number(text: &[u8]) -> Option<(f32, usize)> {
    let negative = text.first() == Some(&b'-');
    let mut at = usize::from(negative);
    let start = at;
    let mut digits = 0_u64;
    let digit = |at: usize| text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10);
    while let Some(digit) = digit(at) {
        digits = digits.wrapping_mul(10).wrapping_add(digit.into());
        at += 1;
    }
    let (mut count, mut exponent) = (at - start, 0_i32);
    if text.get(at) == Some(&b'.') {
        at += 1;
        let point = at;
        while let Some(digit) = digit(at) {
            digits = digits.wrapping_mul(10).wrapping_add(digit.into());
            at += 1;
        }
        count += at - point;
        // More than 19 digits are refused below: this does not wrap for those that are not.
        exponent = -((at - point) as i32);
    }
    if count == 0 || count > 19 {
        return None;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let down = text.get(at + 1) == Some(&b'-');
        at += 1 + usize::from(down || text.get(at + 1) == Some(&b'+'));
        let tens = digit(at)?;
        // One or two digits: what is left to `strtof` ends in neither a comma nor a bracket below.
        let written = digit(at + 1).map_or(i32::from(tens), |ones| i32::from(tens) * 10 + i32::from(ones));
        at += if digit(at + 1).is_some() { 2 } else { 1 };
        exponent += if down { -written } else { written };
    }
    text.get(at).filter(|&&byte| byte == b',' || byte == b']' || is_space(byte))?;
    let power = TENS.get(exponent.unsigned_abs() as usize)?;
    let number = if exponent < 0 { digits as f64 / power } else { digits as f64 * power };
    let beyond_half = (number.to_bits() & 0x1fff_ffff) as i64 - 0x1000_0000;
    let normal = (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&number);
    if digits != 0 && (!normal || beyond_half.abs() <= 4) {
        return None;
    }
    let number = number as f32;
    Some((if negative { -number } else { number }, at))
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
