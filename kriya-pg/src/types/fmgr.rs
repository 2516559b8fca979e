//! Functions Postgres calls: the version-1 calling convention, read by hand.
//!
//! [`sql_function!`] makes a guarded `extern "C-unwind"` function and the `pg_finfo_` record Postgres looks up beside
//! it. Arguments are read straight from the call: nothing is converted, copied or allocated on the way, which is what
//! a distance function called for every row needs.
//!
//! Invariant: the declaration in `sql/kriya_pg--0.1.0.sql` has the argument types the body reads. Postgres checks
//! neither, so both change together.

use pgrx::pg_sys;
use std::ffi::CStr;

/// The arguments of one call.
#[derive(Clone, Copy)]
pub struct Call(pg_sys::FunctionCallInfo);

impl Call {
    /// Wraps what Postgres passed.
    ///
    /// # Safety
    /// `fcinfo` is the pointer Postgres passed to the function being run, and the value does not outlive that run.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Call(fcinfo)
    }

    /// What Postgres passed.
    pub fn raw(&self) -> pg_sys::FunctionCallInfo {
        self.0
    }

    /// Argument `n`, from 0, of a STRICT function (which is never called with a NULL).
    ///
    /// # Safety
    /// The function is declared with more than `n` arguments.
    #[inline(always)]
    pub unsafe fn datum(&self, n: usize) -> pg_sys::Datum {
        // SAFETY: `args` holds `nargs` values, more than `n` by the contract.
        unsafe { (*(*self.0).args.as_ptr().add(n)).value }
    }

    /// Argument `n`, declared `integer`.
    ///
    /// # Safety
    /// As [`Call::datum`], and argument `n` is declared `integer`.
    #[inline]
    pub unsafe fn int4(&self, n: usize) -> i32 {
        // SAFETY: passed on. An int4 is the low half of its datum.
        unsafe { self.datum(n).value() as i32 }
    }

    /// Argument `n`, declared `cstring`. The text is Postgres's and lives as long as the call.
    ///
    /// # Safety
    /// As [`Call::datum`], and argument `n` is declared `cstring`.
    pub unsafe fn cstring<'call>(&self, n: usize) -> &'call CStr {
        // SAFETY: passed on; a cstring datum points at a string that ends with a zero byte.
        unsafe { CStr::from_ptr(self.datum(n).cast_mut_ptr()) }
    }
}

/// Defines a function that SQL declares `LANGUAGE c AS 'MODULE_PATHNAME', 'name'`.
///
/// The body sees a [`Call`] and returns a `Datum`; Rust panics and Postgres errors inside become Postgres errors.
#[macro_export]
macro_rules! sql_function {
    ($($(#[$attribute:meta])* fn $name:ident($call:ident) $body:block)+) => {$(
        $(#[$attribute])*
        ///
        /// # Safety
        /// Only Postgres calls this, with the arguments the extension's script declares.
        #[pgrx::pg_guard]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            // SAFETY: `fcinfo` is what Postgres passed, used only during this call.
            let $call = unsafe { $crate::types::fmgr::Call::new(fcinfo) };
            $body
        }

        const _: () = {
            #[unsafe(export_name = concat!("pg_finfo_", stringify!($name)))]
            extern "C" fn finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
                static VERSION_1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &VERSION_1
            }
        };
    )+};
}
