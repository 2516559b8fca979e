//! The PostgreSQL extension kriya_pg.
//!
//! Everything that knows Postgres is in this crate; what it does lives in the crates below it. The SQL objects are
//! declared by hand in `sql/kriya_pg--0.1.0.sql` and bound by symbol name, so an ordinary `cargo build` makes the
//! library: no SQL is generated.

pub mod types;

pgrx::pg_module_magic!(name, version);

// `cargo pgrx install` writes the base script itself from what the library declares and copies only upgrade scripts
// out of `sql/`. With this declaration what it writes is the script by hand; a plain build needs only the file.
pgrx::extension_sql_file!("../sql/kriya_pg--0.1.0.sql", name = "kriya_pg", finalize);
