//! Servers and small conveniences for the tests.

use std::path::PathBuf;

use kriya_testkit::{Builder, Installation, Postgres};
use postgres::{Client, SimpleQueryMessage};

pub use kriya_testkit::postgres;

/// A server to be, with the extension's library.
pub fn builder() -> Builder {
    let config = std::env::var("KRIYA_TEST_PG_CONFIG")
        .expect("KRIYA_TEST_PG_CONFIG must name the pg_config of a server with kriya_pg: run `cargo xtask test`");
    let installation = Installation::at(&PathBuf::from(config)).expect("an installation of Postgres");
    Postgres::builder(&installation)
}

/// A running server with the extension in its database `postgres`.
pub fn server() -> Postgres {
    started(builder())
}

/// Starts a server and creates the extension.
pub fn started(builder: Builder) -> Postgres {
    let server = builder.start().expect("the server starts");
    run(&mut server.connect().expect("a session"), "CREATE EXTENSION kriya_pg");
    server
}

/// Runs statements that must succeed.
pub fn run(client: &mut Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql) {
        panic!("{sql}\nfailed: {}", told(&error));
    }
}

/// Rows of a query as text, columns joined by `|`, NULL as nothing.
pub fn rows(client: &mut Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}\nfailed: {}", told(&error)));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.get(i).unwrap_or("")).collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// The single value of a query.
pub fn value(client: &mut Client, sql: &str) -> String {
    let rows = rows(client, sql);
    assert_eq!(rows.len(), 1, "{sql} returned {rows:?}");
    rows.into_iter().next().unwrap_or_default()
}

/// Asks until the answer is yes.
pub fn eventually(what: &str, mut right: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !right() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "it never happened: {what}");
        // Only so that the server's log is not filled with questions.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// SQLSTATE and message of a statement that must fail.
pub fn failure(client: &mut Client, sql: &str) -> (String, String) {
    match client.batch_execute(sql) {
        Ok(()) => panic!("{sql}\nsucceeded"),
        Err(error) => {
            let code = error.code().map(|state| state.code().to_owned()).unwrap_or_default();
            (code, told(&error))
        }
    }
}

/// What an error says.
pub fn told(error: &postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned())
}

/// A small generator of numbers that look random (SplitMix64).
pub struct Numbers(pub u64);

impl Numbers {
    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}
