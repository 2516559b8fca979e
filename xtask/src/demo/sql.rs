//! Vectors over the wire: `LsmVector` as a parameter and in binary COPY, and the plan of a query.
//!
//! The binary form is pgvector's: int16 dimension, int16 zero, then float4 values, all big-endian.

use std::error::Error;
use std::io::Write;

use kriya_testkit::postgres::Client;
use kriya_testkit::postgres::types::private::BytesMut;
use kriya_testkit::postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::failure::{Failure, Outcome};

/// A vector as an SQL parameter.
#[derive(Debug, Clone, Copy)]
pub struct Vector<'a>(pub &'a [f32]);

impl ToSql for Vector<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&wire(self.0)?);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        ty.name() == "lsmvector"
    }

    to_sql_checked!();
}

/// The binary form of a vector.
fn wire(vector: &[f32]) -> Result<Vec<u8>, std::num::TryFromIntError> {
    let mut out = Vec::with_capacity(4 + 4 * vector.len());
    out.extend_from_slice(&i16::try_from(vector.len())?.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    for value in vector {
        out.extend_from_slice(&value.to_be_bytes());
    }
    Ok(out)
}

/// One column's value in a binary COPY.
pub enum Field<'a> {
    /// An `int`.
    Int(i32),
    /// A `text`.
    Text(&'a str),
    /// An `LsmVector`.
    Vector(&'a [f32]),
}

/// Copies `rows` into `table` by `COPY ... FROM STDIN (FORMAT binary)` and returns how many arrived.
///
/// # Errors
/// What the server says; a value too long for the protocol.
pub fn copy<'a>(client: &mut Client, table: &str, rows: impl Iterator<Item = Vec<Field<'a>>>) -> Outcome<u64> {
    let mut to = client.copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)"))?;
    let mut chunk = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    let failed = |e: std::io::Error| Failure::new(format!("COPY {table}: {e}"));
    for row in rows {
        put_row(&mut chunk, &row).map_err(|e| Failure::new(format!("COPY {table}: {e}")))?;
        if chunk.len() > 1 << 18 {
            to.write_all(&chunk).map_err(failed)?;
            chunk.clear();
        }
    }
    chunk.extend_from_slice(&(-1_i16).to_be_bytes());
    to.write_all(&chunk).map_err(failed)?;
    Ok(to.finish()?)
}

fn put_row(out: &mut Vec<u8>, row: &[Field<'_>]) -> Result<(), std::num::TryFromIntError> {
    out.extend_from_slice(&i16::try_from(row.len())?.to_be_bytes());
    for field in row {
        let bytes = match field {
            Field::Int(value) => value.to_be_bytes().to_vec(),
            Field::Text(text) => text.as_bytes().to_vec(),
            Field::Vector(vector) => wire(vector)?,
        };
        out.extend_from_slice(&i32::try_from(bytes.len())?.to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    Ok(())
}

/// How a query's rows are found: the first scan in its plan, without the vectors in its conditions.
///
/// # Errors
/// What the server says; a plan without a scan.
pub fn plan(client: &mut Client, query: &str) -> Outcome<String> {
    let rows = client.query(&format!("EXPLAIN (COSTS OFF) {query}"), &[])?;
    let lines: Vec<String> = rows.iter().map(|row| row.get::<_, String>(0)).collect();
    let scan = lines.iter().find(|line| line.contains("Scan"));
    let scan = scan.ok_or_else(|| Failure::new(format!("a plan without a scan: {}", lines.join(" / "))))?;
    Ok(scan.trim().trim_start_matches("->").trim().to_owned())
}

/// A vector as SQL text, for statements without parameters.
pub fn literal(vector: &[f32]) -> String {
    let values: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("'[{}]'", values.join(","))
}
