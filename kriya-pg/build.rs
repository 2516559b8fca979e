//! Compiles the small C file that uses parts of Postgres which the Rust bindings do not cover, against the headers of
//! the server that the bindings are made for.

use pgrx_pg_config::{PgConfigSelector, Pgrx};

fn main() {
    println!("cargo:rerun-if-changed=src/c/glue.c");
    println!("cargo:rerun-if-env-changed=PGRX_PG_CONFIG_PATH");
    let major = (13..=18)
        .find(|n| std::env::var_os(format!("CARGO_FEATURE_PG{n}")).is_some())
        .expect("one of the features pg13 .. pg18 names the server's version");
    let pgrx = Pgrx::from_config().expect("PGRX_PG_CONFIG_PATH or cargo-pgrx' configuration");
    let headers = pgrx
        .iter(PgConfigSelector::new("all"))
        .filter_map(Result::ok)
        .find(|config| config.major_version().is_ok_and(|found| i32::from(found) == major))
        .unwrap_or_else(|| panic!("no pg_config of PostgreSQL {major}"))
        .includedir_server()
        .expect("pg_config --includedir-server");
    cc::Build::new()
        .file("src/c/glue.c")
        .include(headers)
        .flag_if_supported("-Wno-unused-parameter")
        .compile("kriya_glue");
}
