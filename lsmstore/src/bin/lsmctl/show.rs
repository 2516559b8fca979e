//! How keys, values and tables are shown.

use std::fmt::Arguments;
use std::io::Write;

use lsmstore::TableRef;
use serde_json::{Value, json};

use crate::Output;

/// Values of more bytes are cut off where they are shown to people.
const SHOWN: usize = 64;

/// Prints a line, or ends the program if nobody reads it.
pub fn line(what: Arguments<'_>) {
    if writeln!(std::io::stdout(), "{what}").is_err() {
        std::process::exit(0);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes as text in which everything that is not printable ASCII is escaped, or as digits.
pub fn bytes(bytes: &[u8], output: Output) -> String {
    if output.hex { hex(bytes) } else { bytes.escape_ascii().to_string() }
}

/// As [`bytes`], cut off where it gets long.
pub fn some(of: &[u8], output: Output) -> String {
    match of.get(..SHOWN).filter(|_| of.len() > SHOWN) {
        Some(first) => format!("{}... ({} bytes)", bytes(first, output), of.len()),
        None => bytes(of, output),
    }
}

/// The bytes that were meant by what somebody typed: text with escapes, or digits with `--hex`.
pub fn typed(text: &str, output: Output) -> Result<Vec<u8>, String> {
    if output.hex { from_hex(text) } else { unescaped(text) }
}

fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let bad = || format!("\"{text}\" is no even number of hexadecimal digits");
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(bad());
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| bad())).collect()
}

fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let bad = || format!("\"{text}\" has an escape that is none; there are \\n, \\r, \\t, \\\\, \\', \\\" and \\xNN");
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let escape = *bytes.get(at).ok_or_else(bad)?;
        at += 1;
        out.push(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'\\' | b'\'' | b'"' => escape,
            b'x' => {
                let digits =
                    bytes.get(at..at + 2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(bad)?;
                at += 2;
                u8::from_str_radix(digits, 16).map_err(|_| bad())?
            }
            _ => return Err(bad()),
        });
    }
    Ok(out)
}

/// A line about a table.
pub fn table_line(table: &TableRef, output: Output) -> String {
    format!(
        "{}  {} bytes, mirror {}, {} entries, {} deletions, sequences {} to {}, keys {} to {}",
        table.id,
        table.object_len,
        table.mirror_len,
        table.entries,
        table.deletions,
        table.min_sequence,
        table.max_sequence,
        some(&table.min_key, output),
        some(&table.max_key, output),
    )
}

/// A table for programs.
pub fn table_json(table: &TableRef, output: Output) -> Value {
    json!({
        "id": table.id.to_string(),
        "object_bytes": table.object_len,
        "mirror_bytes": table.mirror_len,
        "entries": table.entries,
        "deletions": table.deletions,
        "min_sequence": table.min_sequence,
        "max_sequence": table.max_sequence,
        "min_key": bytes(&table.min_key, output),
        "max_key": bytes(&table.max_key, output),
    })
}

/// Something damaged, for programs.
pub fn damage_json(damage: &lsmstore::Corruption) -> Value {
    json!({ "object": damage.object, "offset": damage.offset, "what": damage.what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed() {
        for output in [Output { json: false, hex: false }, Output { json: false, hex: true }] {
            for key in [&b"plain"[..], b"\0\xff\n\r\t\\\"'", b""] {
                assert_eq!(typed(&bytes(key, output), output).as_deref(), Ok(key));
            }
        }
    }

    #[test]
    fn what_means_no_bytes_is_refused() {
        let (text, hex) = (Output { json: false, hex: false }, Output { json: false, hex: true });
        for (typo, output) in [("\\", text), ("\\x1", text), ("\\xgg", text), ("\\q", text), ("abc", hex), ("zz", hex)]
        {
            assert!(typed(typo, output).is_err(), "{typo}");
        }
    }
}
