//! The settings `lsm_s3.*`.
//!
//! Those that concern the whole server are read by the storage worker when it starts, and kept: PGC_SIGHUP, because
//! PGC_POSTMASTER would be FATAL in a session that loads the library late.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

/// `local` (a folder in the data directory), `memory`, or the address of an S3 endpoint.
pub static ENDPOINT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"local"));
/// Bucket of an S3 endpoint.
pub static BUCKET: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"lsm-postgres"));
/// Region of an S3 endpoint.
pub static REGION: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"us-east-1"));
/// Everything this server keeps in the bucket starts with this path.
pub static PREFIX: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// How long a written memtable may wait before it is flushed, in milliseconds.
pub static FLUSH_INTERVAL_MS: GucSetting<i32> = GucSetting::<i32>::new(5000);
/// Size at which a memtable is flushed, in megabytes.
pub static MEMTABLE_SIZE_MB: GucSetting<i32> = GucSetting::<i32>::new(64);
/// What may wait for an object store that is slow or down, in megabytes.
pub static BACKLOG_MB: GucSetting<i32> = GucSetting::<i32>::new(4096);
/// Candidates that a search of an lsm_hnsw index keeps before it returns its first row.
pub static EF_SEARCH: GucSetting<i32> = GucSetting::<i32>::new(64);

/// Defines the settings. Called once, when the library is loaded.
pub fn init() {
    let server = |name, short, long, setting: &'static GucSetting<Option<CString>>| {
        GucRegistry::define_string_guc(name, short, long, setting, GucContext::Sighup, GucFlags::default());
    };
    server(
        c"lsm_s3.endpoint",
        c"Where tables and indexes are kept.",
        c"local is a folder in the data directory, memory is lost at a restart; an address of an S3 endpoint is not supported yet.",
        &ENDPOINT,
    );
    server(c"lsm_s3.bucket", c"Bucket of the endpoint.", c"", &BUCKET);
    server(c"lsm_s3.region", c"Region of the endpoint.", c"", &REGION);
    server(c"lsm_s3.prefix", c"Path in the bucket below which this server keeps everything.", c"", &PREFIX);
    GucRegistry::define_int_guc(
        c"lsm_s3.flush_interval_ms",
        c"How long a written memtable waits before it is flushed to the object store.",
        c"",
        &FLUSH_INTERVAL_MS,
        10,
        3_600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"lsm_s3.memtable_size_mb",
        c"Size at which a memtable is flushed.",
        c"",
        &MEMTABLE_SIZE_MB,
        1,
        16_384,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"lsm_s3.backlog_mb",
        c"What may wait on the local disk for an object store that is slow or down.",
        c"Beyond it writers wait, and write-ahead log that is on the local disk in another form is let go.",
        &BACKLOG_MB,
        16,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"lsm_s3.ef_search",
        c"Candidates that a search of an lsm_hnsw index keeps.",
        c"Higher values find more of the true neighbours and take longer. A LIMIT above it is served by going on with the search.",
        &EF_SEARCH,
        1,
        10_000,
        GucContext::Userset,
        GucFlags::default(),
    );
    #[cfg(not(any(feature = "pg13", feature = "pg14")))]
    // SAFETY: a constant, zero-terminated string; called while the library is loaded.
    unsafe {
        pg_sys::MarkGUCPrefixReserved(c"lsm_s3".as_ptr())
    };
}

/// The text of a string setting; empty where it has none.
pub fn text(setting: &'static GucSetting<Option<CString>>) -> String {
    setting.get().map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}
