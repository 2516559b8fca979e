//! The settings `lsm_s3.*`.
//!
//! Those that concern the whole server are read by the storage worker when it starts and at a reload: PGC_SIGHUP, because
//! PGC_POSTMASTER would be FATAL in a session that loads the library late. Their checks are in [`checks`], and say what to
//! type. Credentials are for superusers, and shown to nobody.

mod checks;

use std::ffi::{CStr, CString, c_char, c_void};

#[cfg(feature = "s3")]
use lsmstore::objects::{CredentialSource, Secret};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

use crate::glue;

type Text = GucSetting<Option<CString>>;

/// `local` (a folder in the data directory), `memory`, or the address of an S3 endpoint.
pub static ENDPOINT: Text = Text::new(Some(c"local"));
/// Bucket of an S3 endpoint.
pub static BUCKET: Text = Text::new(Some(c"lsm-postgres"));
/// Region of an S3 endpoint.
pub static REGION: Text = Text::new(Some(c"us-east-1"));
/// Everything this server keeps in the bucket starts with this path.
pub static PREFIX: Text = Text::new(Some(c""));
/// Bucket in the path of requests: on, off, or auto (on unless the endpoint is Amazon's).
pub static PATH_STYLE: Text = Text::new(Some(c"auto"));
/// File with certificates of authorities that an S3 endpoint may have its certificate from.
pub static CA_FILE: Text = Text::new(Some(c""));
static ACCESS_KEY_ID: Text = Text::new(Some(c""));
static SECRET_ACCESS_KEY: Text = Text::new(Some(c""));
static SESSION_TOKEN: Text = Text::new(Some(c""));
static PROFILE: Text = Text::new(Some(c""));
/// Folder of the mirrors; empty: in the data directory.
pub static CACHE_DIR: Text = Text::new(Some(c""));
/// Where commits become durable.
pub static WAL: Text = Text::new(Some(c"local"));
/// Size that the mirrors should not exceed, in megabytes.
pub static CACHE_SIZE_MB: GucSetting<i32> = GucSetting::<i32>::new(4096);
/// How long a written memtable may wait before it is flushed, in milliseconds.
pub static FLUSH_INTERVAL_MS: GucSetting<i32> = GucSetting::<i32>::new(5000);
/// Size at which a memtable is flushed, in megabytes.
pub static MEMTABLE_SIZE_MB: GucSetting<i32> = GucSetting::<i32>::new(64);
/// What may wait for an object store that is slow or down, in megabytes.
pub static BACKLOG_MB: GucSetting<i32> = GucSetting::<i32>::new(4096);
/// How long what was replaced stays in the bucket, in minutes.
pub static RETENTION_MINUTES: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 60);
/// Candidates that a search of an lsm_hnsw index keeps before it returns its first row.
pub static EF_SEARCH: GucSetting<i32> = GucSetting::<i32>::new(64);

/// Whether a search leaves out what it finds too late to return in order.
pub static STRICT_ORDER: GucSetting<bool> = GucSetting::<bool>::new(true);

fn define(
    (name, short, long): (&'static CStr, &'static CStr, &'static CStr),
    setting: &'static Text,
    check: pg_sys::GucStringCheckHook,
) {
    define_with(name, (short, long), setting, GucFlags::default(), (check, None));
}

/// A setting whose value is a constant; what was typed is kept by the glue.
fn define_secret(
    (name, short): (&'static CStr, &'static CStr),
    setting: &'static Text,
    assign: unsafe extern "C-unwind" fn(*const c_char, *mut c_void),
) {
    let long = c"Empty: from the server's environment or the AWS files.";
    let flags = GucFlags::SUPERUSER_ONLY | GucFlags::NO_SHOW_ALL;
    define_with(name, (short, long), setting, flags, (Some(glue::raw::kriya_check_secret), Some(assign)));
}

fn define_with(
    name: &'static CStr,
    (short, long): (&'static CStr, &'static CStr),
    setting: &'static Text,
    flags: GucFlags,
    (check, assign): (pg_sys::GucStringCheckHook, pg_sys::GucStringAssignHook),
) {
    // SAFETY: called while the library is loaded; the hooks are guarded or plain C functions that live as long as the
    // process.
    unsafe {
        let context = GucContext::Sighup;
        GucRegistry::define_string_guc_with_hooks(name, short, long, setting, context, flags, check, assign, None);
    }
}

fn define_texts() {
    define(
        (
            c"lsm_s3.endpoint",
            c"Where tables and indexes are kept.",
            c"local is a folder in the data directory, memory is lost at a restart, http://host:port or https://host:port is a store that speaks S3.",
        ),
        &ENDPOINT,
        Some(checks::endpoint),
    );
    define((c"lsm_s3.bucket", c"Bucket of the endpoint.", c"It must exist."), &BUCKET, Some(checks::bucket));
    define((c"lsm_s3.region", c"Region of the endpoint.", c""), &REGION, Some(checks::region));
    define(
        (c"lsm_s3.prefix", c"Path in the bucket below which this server keeps everything.", c""),
        &PREFIX,
        Some(checks::prefix),
    );
    define(
        (
            c"lsm_s3.path_style",
            c"Whether the bucket is in the path of requests instead of the host's name.",
            c"auto: yes, unless the endpoint is Amazon's.",
        ),
        &PATH_STYLE,
        Some(checks::path_style),
    );
    define(
        (c"lsm_s3.ca_file", c"File with certificates (PEM) of further authorities to trust.", c""),
        &CA_FILE,
        Some(checks::absolute),
    );
    define(
        (c"lsm_s3.cache_dir", c"Folder of the local mirrors.", c"Empty: in the data directory."),
        &CACHE_DIR,
        Some(checks::absolute),
    );
    define(
        (c"lsm_s3.wal", c"Where commits become durable: local.", c"remote is not supported yet."),
        &WAL,
        Some(checks::wal),
    );
    use glue::raw::{
        kriya_assign_access_key_id, kriya_assign_profile, kriya_assign_secret_access_key, kriya_assign_session_token,
    };
    let secret = define_secret;
    secret(
        (c"lsm_s3.access_key_id", c"Id of the key that requests are signed with."),
        &ACCESS_KEY_ID,
        kriya_assign_access_key_id,
    );
    secret(
        (c"lsm_s3.secret_access_key", c"Key that requests are signed with."),
        &SECRET_ACCESS_KEY,
        kriya_assign_secret_access_key,
    );
    secret((c"lsm_s3.session_token", c"Token of a temporary key."), &SESSION_TOKEN, kriya_assign_session_token);
    secret((c"lsm_s3.profile", c"Profile of the AWS files to take the key from."), &PROFILE, kriya_assign_profile);
}

/// Defines the settings. Called once, when the library is loaded.
pub fn init() {
    define_texts();
    GucRegistry::define_int_guc(
        c"lsm_s3.cache_size_mb",
        c"Size that the local mirrors should not exceed.",
        c"What is in use is never removed: a store larger than this exceeds it, and lsm_s3_status() says by how much.",
        &CACHE_SIZE_MB,
        1,
        i32::MAX / 2,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
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
        c"lsm_s3.retention",
        c"How long what was replaced stays in the bucket.",
        c"A base backup that is older cannot be restored without the write-ahead log since.",
        &RETENTION_MINUTES,
        0,
        10 * 366 * 24 * 60,
        GucContext::Sighup,
        GucFlags::UNIT_MIN,
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
    GucRegistry::define_bool_guc(
        c"lsm_s3.strict_order",
        c"Leaves out rows that a search of an lsm_hnsw index finds too late to return in order.",
        c"Otherwise no row is left out, and one that is found late, beyond the first ef_search rows, comes late, out of order.",
        &STRICT_ORDER,
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

/// What was typed for a secret setting; nothing if it is empty.
#[cfg(feature = "s3")]
fn secret(typed: unsafe fn() -> *const c_char) -> Option<String> {
    // SAFETY: the glue keeps a text for each secret setting until it changes, which this thread alone makes happen.
    let text = unsafe { CStr::from_ptr(typed()) }.to_string_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}

/// Where credentials are to be looked for.
#[cfg(feature = "s3")]
pub fn credentials() -> CredentialSource {
    let id = secret(glue::kriya_secret_access_key_id).map(Secret::new);
    let key = secret(glue::kriya_secret_secret_access_key).map(Secret::new);
    let token = secret(glue::kriya_secret_session_token).map(Secret::new);
    // One without the other is nothing to sign with.
    let given = id.zip(key).map(|(id, key)| (id, key, token));
    CredentialSource { given, profile: secret(glue::kriya_secret_profile) }
}
