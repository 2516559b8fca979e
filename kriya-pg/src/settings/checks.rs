//! Checks of settings: a value that cannot work is refused where it is typed, with what to type instead. A refused value
//! is never repeated by Postgres' own message, for an endpoint may have been typed with a password in it.

use std::ffi::{CStr, CString, c_char, c_void};

use lsmstore::objects::{EndpointUrl, PlaceError, check_bucket, check_prefix};
use pgrx::prelude::*;

/// What is wrong with a value, and what to type.
type Verdict = Result<(), (String, String)>;

macro_rules! checks {
    ($($name:ident => |$text:ident| $judgement:expr;)+) => {$(
        #[pg_guard]
        pub(super) unsafe extern "C-unwind" fn $name(
            value: *mut *mut c_char,
            _extra: *mut *mut c_void,
            _source: pg_sys::GucSource::Type,
        ) -> bool {
            fn check($text: &str) -> Verdict {
                $judgement
            }
            // SAFETY: Postgres' arguments.
            unsafe { judge(value, check) }
        }
    )+};
}

checks! {
    endpoint => |text| match text {
        "local" | "memory" => Ok(()),
        _ if cfg!(not(feature = "s3")) => Err((
            "this library was built without S3".to_owned(),
            "Use local or memory, or build with the feature s3.".to_owned(),
        )),
        url => EndpointUrl::parse(url).map(drop).map_err(|error| match error.what.contains("http://") {
            true => (format!("\"{url}\" is neither local nor memory nor an http:// or https:// address"), error.hint),
            false => sentence(error),
        }),
    };
    bucket => |text| check_bucket(text).map_err(sentence);
    prefix => |text| check_prefix(text).map_err(sentence);
    region => |text| match !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        true => Ok(()),
        false => Err((format!("\"{text}\" is no region"), "Use a name like \"eu-central-1\".".to_owned())),
    };
    path_style => |text| match text {
        "auto" | "on" | "off" => Ok(()),
        _ => Err((format!("\"{text}\" is neither auto nor on nor off"), "Use auto, on or off.".to_owned())),
    };
    absolute => |text| match text.is_empty() || text.starts_with('/') {
        true => Ok(()),
        false => Err((format!("\"{text}\" is not an absolute path"), "Begin the path with a slash.".to_owned())),
    };
    wal => |text| match text {
        "local" => Ok(()),
        "remote" => Err(("lsm_s3.wal = remote is not supported yet".to_owned(), "Use local.".to_owned())),
        _ => Err((format!("\"{text}\" is no place for the log"), "Use local.".to_owned())),
    };
}

fn sentence(error: PlaceError) -> (String, String) {
    (error.what, error.hint)
}

/// Applies a check to a new value; leaves the reason where Postgres looks for it.
///
/// # Safety
/// `value` points at a text or null, as Postgres gives it to a check hook.
unsafe fn judge(value: *mut *mut c_char, check: fn(&str) -> Verdict) -> bool {
    // SAFETY: the caller's promise.
    let text = unsafe {
        if (*value).is_null() {
            return true;
        }
        CStr::from_ptr(*value).to_string_lossy().into_owned()
    };
    let Err((what, hint)) = check(&text) else { return true };
    // SAFETY: Postgres' own variables for this purpose, read right after the hook; the texts live in its error context.
    unsafe {
        pg_sys::GUC_check_errmsg_string = keep(what);
        pg_sys::GUC_check_errhint_string = keep(hint);
    }
    false
}

/// A copy of `text` where Postgres keeps the texts of errors.
unsafe fn keep(text: String) -> *mut c_char {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: the context exists as long as the process; the text is copied.
    unsafe { pg_sys::MemoryContextStrdup(pg_sys::ErrorContext, text.as_ptr()) }
}
