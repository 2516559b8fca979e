//! What is compared, and how each is said in SQL.

/// A vector index over a kind of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// `kriyadb` or `pgvector`.
    pub library: &'static str,
    /// `lsm_s3` or `heap`.
    pub table_am: &'static str,
}

/// `lsm_hnsw` on `lsm_s3`.
pub const KRIYADB: Subject = Subject { library: "kriyadb", table_am: "lsm_s3" };
/// `lsm_hnsw` on heap.
pub const KRIYADB_ON_HEAP: Subject = Subject { library: "kriyadb", table_am: "heap" };
/// pgvector's `hnsw`, which heap tables only are used with.
pub const PGVECTOR: Subject = Subject { library: "pgvector", table_am: "heap" };

impl Subject {
    /// What tables of it are called after.
    pub fn table(self, workload: &str) -> String {
        format!("{workload}_{}_{}", self.library, self.table_am)
    }

    fn is_pgvector(self) -> bool {
        self.library == PGVECTOR.library
    }

    /// `CREATE TABLE`, of a row number and a vector.
    pub fn create_table(self, name: &str, dim: usize, primary_key: bool) -> String {
        let ty = if self.is_pgvector() { "vector" } else { "LsmVector" };
        let key = if primary_key { " PRIMARY KEY" } else { "" };
        format!("CREATE TABLE {name} (id int{key}, embedding {ty}({dim})) USING {}", self.table_am)
    }

    /// `CREATE INDEX` for a metric (`l2` or `cosine`).
    pub fn create_index(self, name: &str, metric: &str, m: usize, ef_construction: usize) -> String {
        let (method, class) = if self.is_pgvector() { ("hnsw", "vector") } else { ("lsm_hnsw", "lsm_vector") };
        format!(
            "CREATE INDEX ON {name} USING {method} (embedding {class}_{metric}_ops) \
             WITH (m = {m}, ef_construction = {ef_construction})"
        )
    }

    /// `SET` for the width of searches.
    pub fn set_ef(self, ef: usize) -> String {
        format!("SET {} = {ef}", if self.is_pgvector() { "hnsw.ef_search" } else { "lsm_s3.ef_search" })
    }
}
