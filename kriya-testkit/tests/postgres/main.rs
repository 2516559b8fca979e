//! What the extension promises, tried on real servers.
//!
//! Run by `cargo xtask test`, which builds and installs the extension first and names the server's pg_config in
//! `KRIYA_TEST_PG_CONFIG`; without that every test here fails.

mod a_server_is_made_stopped_killed_and_started_again;
mod as_typed;
mod bad_input;
mod bad_stores;
mod campaign;
mod crash;
mod histories;
mod isolation;
mod knn;
mod locks;
mod ordered_scans;
mod outages;
mod reaching;
mod reuse;
mod s3;
mod schedules;
mod sealing;
mod sessions;
mod stopping;
mod support;
mod twins;
