//! Real things for tests, the demo and `cargo xtask pg start`, each behind a feature of its own.
//!
//! * `postgres`: temporary servers. [`Installation`] finds a Postgres of a wanted major version, [`Account`] is the
//!   ordinary user that its servers run as (Postgres refuses root), [`Postgres`] is one server in a folder of its own:
//!   made, started, stopped, killed, restarted, talked to. A server listens on 127.0.0.1 only, and this crate ends only
//!   what it has started.
//! * `s3`: [`s3::S3Server`], a server that speaks S3 and fails on demand ([`fault`]).
//! * `faults`: [`stores`], object stores that fail and crash without a server.
//!
//! Nothing of the product imports this crate.
#![forbid(unsafe_code)]

#[cfg(feature = "postgres")]
mod account;
#[cfg(feature = "postgres")]
pub mod campaign;
#[cfg(feature = "postgres")]
mod conversation;
#[cfg(feature = "postgres")]
mod error;
#[cfg(any(feature = "faults", feature = "s3"))]
pub mod fault;
#[cfg(feature = "postgres")]
mod folder;
#[cfg(feature = "postgres")]
mod installation;
#[cfg(feature = "postgres")]
mod process;
#[cfg(feature = "postgres")]
mod processes;
#[cfg(feature = "postgres")]
mod running;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "postgres")]
mod server;
#[cfg(feature = "faults")]
pub mod stores;

#[cfg(feature = "postgres")]
pub use account::Account;
#[cfg(feature = "postgres")]
pub use conversation::{Captured, Url};
#[cfg(feature = "postgres")]
pub use error::Error;
#[cfg(feature = "postgres")]
pub use folder::ServerFolder;
#[cfg(feature = "postgres")]
pub use installation::{Installation, home};
#[cfg(feature = "postgres")]
pub use postgres;
#[cfg(feature = "postgres")]
pub use processes::ServerProcess;
#[cfg(feature = "postgres")]
pub use running::LeftRunning;
#[cfg(feature = "postgres")]
pub use rustix::process::Signal;
#[cfg(feature = "postgres")]
pub use server::{Builder, Postgres, StopMode};
