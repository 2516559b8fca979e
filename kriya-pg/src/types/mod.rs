//! The SQL type `lsmvector` (written `LsmVector`; SQL folds the case).
//!
//! - [`fmgr`]: how a Rust function becomes a Postgres function.
//! - [`vector`]: the bytes of a value; reading one from a datum and making one.
//! - [`error`]: what is refused, in pgvector's words; [`text`]: the text form.
//! - [`io`], [`casts`], [`distance`], [`operators`]: the functions SQL declares.

pub mod casts;
pub mod distance;
pub mod error;
pub mod fmgr;
pub mod io;
pub mod operators;
pub mod text;
pub mod vector;
