//! The work of `cargo xtask bench lsm`: what every engine is asked to do, and the clock around it.
//!
//! A subject is a program that is started once for each workload: `PROGRAM ENGINE WORKLOAD FOLDER KEYS VALUE_BYTES OPS
//! LATENCY_MS`. It does the work in FOLDER, which `fill` makes and the others read, and prints one JSON object with its
//! figures. Our own program is `src/main.rs`; the peers' is in `benches/lsm-peers`, a workspace of its own.
//!
//! | workload | what is done |
//! | --- | --- |
//! | `fill` | KEYS keys in random order in batches of 1,000, not synced; then flushed and merged until nothing is due |
//! | `durable` | OPS batches of 1,000 by one writer, each synced before the next |
//! | `reopen` | open, and the first get |
//! | `get`, `absent` | OPS random gets of keys that are there, or not, after a fifth as many to warm up |
//! | `scan` | everything in order, the second time |
//! | `ranges` | OPS / 100 scans of 100 keys from random ones on |
//! | `cold` | in an object store that answers after LATENCY_MS, with nothing on the local disk: open, 20 gets, one scan |
//! | `follow` | our engine's follower, as `cold`, behind a link of 1 Gbit/s: 20 gets, then another one scans everything; and the same objects by parallel requests of 1 MiB, which is what the client can reach |
//!
//! Keys are 16 bytes, values half noise and half zeros. Memory for caches is 256 MiB where an engine has one.
#![forbid(unsafe_code)]

mod engine;
mod follow;
mod objects;
mod own;
mod process;
mod rows;
mod work;

pub use engine::{Amplified, Engine, Outcome, Place};
pub use objects::{Counted, Requests};
pub use own::Own;
pub use rows::{KEY_BYTES, Key, Row, Rows};
pub use work::{Task, run};

/// Bytes of memory that an engine may use for a cache of blocks.
pub const CACHE_BYTES: u64 = 256 << 20;
