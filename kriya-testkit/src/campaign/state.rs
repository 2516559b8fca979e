//! What a client expects to find: its rows of the shared twin tables, and its own twin tables if they exist.

use std::collections::BTreeMap;
use std::fmt;

/// Dimensions of every vector.
pub const DIM: usize = 8;
/// A client owns the ids from its number times this on.
pub const IDS_PER_CLIENT: i64 = 1_000_000;

/// One row besides its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Unique.
    pub name: String,
    /// Changed often.
    pub n: i64,
    /// The vector; whole numbers, which print the same everywhere.
    pub vector: [i16; DIM],
}

impl Row {
    /// The row as `SELECT id, name, n, e` prints it, columns joined by `|`.
    pub fn printed(&self, id: i64) -> String {
        format!("{id}|{}|{}|{}", self.name, self.n, VectorText(&self.vector))
    }

    /// The row as one of the `VALUES` of an INSERT.
    pub fn values(&self, id: i64) -> String {
        format!("({id}, '{}', {}, '{}')", self.name, self.n, VectorText(&self.vector))
    }

    /// The row as a line of COPY.
    pub fn copied(&self, id: i64) -> String {
        format!("{id}\t{}\t{}\t{}\n", self.name, self.n, VectorText(&self.vector))
    }
}

/// A vector as the type prints it.
pub struct VectorText<'a>(pub &'a [i16; DIM]);

impl fmt::Display for VectorText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(i16::to_string).collect();
        write!(f, "[{}]", numbers.join(","))
    }
}

/// Rows by id.
pub type Rows = BTreeMap<i64, Row>;

/// A client's own twin tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Own {
    /// What is in them.
    pub rows: Rows,
    /// Whether they have a vector index.
    pub indexed: bool,
}

/// All that a client's transactions have made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Its rows of the shared tables.
    pub shared: Rows,
    /// Its own tables, while they exist.
    pub own: Option<Own>,
}

/// Rows as they print, in the order of their text.
pub fn printed(rows: &Rows) -> Vec<String> {
    let mut lines: Vec<String> = rows.iter().map(|(id, row)| row.printed(*id)).collect();
    lines.sort();
    lines
}
