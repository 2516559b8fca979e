//! What the engine promises, as behaviours: a worker with a log that is kept in memory, and sessions beside it.
#![allow(clippy::unwrap_used, missing_docs)]

mod cache;
mod cluster;
mod collecting;
mod counters;
mod gone_buckets;
mod histories;
mod hostile;
mod indexes;
mod locks;
mod outages;
mod processes;
mod recovery;
mod stopping;
mod stress;
mod writes;
