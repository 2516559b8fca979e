//! Temporary Postgres servers for tests, the demo and `cargo xtask pg start`.
//!
//! [`Installation`] finds a Postgres of a wanted major version, [`Account`] is the ordinary user that its servers run
//! as (Postgres refuses root), [`Postgres`] is one server in a folder of its own: made, started, stopped, killed,
//! restarted, talked to. A server listens on 127.0.0.1 only, and this crate ends only what it has started.
//!
//! Nothing of the product imports this crate.
#![forbid(unsafe_code)]

mod account;
pub mod campaign;
mod conversation;
mod error;
mod folder;
mod installation;
mod process;
mod processes;
mod running;
mod server;

pub use account::Account;
pub use conversation::{Captured, Url};
pub use error::Error;
pub use folder::ServerFolder;
pub use installation::{Installation, home};
pub use postgres;
pub use processes::ServerProcess;
pub use running::LeftRunning;
pub use rustix::process::Signal;
pub use server::{Builder, Postgres, StopMode};
