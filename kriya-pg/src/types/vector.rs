//! The bytes of an `lsmvector`: reading one from a datum and making one.
//!
//! ```text
//! offset 0  4 bytes  varlena header (total length)
//!        4  int16    dimensions, 1..=16000
//!        6  int16    0, reserved
//!        8  float4   the elements, all finite
//! ```
//!
//! This is the layout of pgvector's `vector`, so the two cast into each other without a copy and clients share codecs.
//! The type is aligned to 4 bytes; a value Postgres stored short, compressed or out of line is copied before it is
//! read, an ordinary one is read in place.

use pgrx::pg_sys;
use std::ptr::NonNull;

/// Most dimensions a vector may have.
pub const MAX_DIMENSIONS: usize = 16_000;

/// Bytes before the first element: varlena header, dimensions, reserved.
const HEADER_BYTES: usize = 8;

/// What a value begins with.
#[repr(C)]
struct Header {
    varlena: u32,
    dimensions: i16,
    reserved: i16,
}

/// A value, readable in place. Frees the copy made for reading, if one was made; should an error skip that, the
/// memory context it was made in frees it.
pub struct Detoasted {
    value: NonNull<Header>,
    dimensions: usize,
    copied: bool,
}

impl Detoasted {
    /// The number of elements, 1..=16000.
    #[inline(always)]
    pub fn dim(&self) -> usize {
        self.dimensions
    }

    /// The elements.
    #[inline(always)]
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `detoast` saw that the value's length is its header and `dimensions` elements; the header is aligned
        // to 4 bytes and 8 long, hence so are they.
        unsafe { std::slice::from_raw_parts(self.value.as_ptr().add(1).cast::<f32>(), self.dimensions) }
    }
}

impl Drop for Detoasted {
    #[inline]
    fn drop(&mut self) {
        if self.copied {
            // SAFETY: the copy was made by `pg_detoast_datum` for this value alone.
            unsafe { pg_sys::pfree(self.value.as_ptr().cast()) };
        }
    }
}

/// Makes a value readable. Nothing is copied or called when Postgres holds it in the plain form.
///
/// Raises a Postgres ERROR (data_corrupted) when the bytes are not those of a vector.
///
/// # Safety
/// `datum` is a value of type `lsmvector`, not NULL, that outlives what is returned. On a thread that may call
/// Postgres.
#[inline]
pub unsafe fn detoast(datum: pg_sys::Datum) -> Detoasted {
    let given = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: a varlena datum points at its header, of which the first byte tells the form.
    let plain = unsafe { pgrx::varlena::varatt_is_4b_u(given) };
    // SAFETY: as above; Postgres makes the plain form of the others.
    let plain_value = if plain { given } else { unsafe { pg_sys::pg_detoast_datum(given) } };
    // SAFETY: both forms have a four-byte header now.
    let length = unsafe { pgrx::varlena::varsize_4b(plain_value) };
    let Some(value) = NonNull::new(plain_value.cast::<Header>()).filter(|_| length >= HEADER_BYTES) else {
        corrupted(length, 0)
    };
    // SAFETY: the value is at least as long as its header.
    let dimensions = unsafe { (*value.as_ptr()).dimensions };
    let dim = usize::try_from(dimensions).unwrap_or(0);
    if dim == 0 || length != HEADER_BYTES + 4 * dim {
        corrupted(length, dimensions);
    }
    Detoasted { value, dimensions: dim, copied: plain_value != given }
}

#[cold]
fn corrupted(length: usize, dimensions: i16) -> ! {
    pgrx::ereport!(
        ERROR,
        pgrx::PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("stored lsmvector is not a vector: {length} bytes say they hold {dimensions} dimensions")
    );
}

/// Makes a value in the current memory context and lets `fill` write its elements, zero before.
///
/// `dim` is 1..=16000: the caller has checked it (see [`MAX_DIMENSIONS`]).
///
/// # Safety
/// On a thread that may call Postgres.
pub unsafe fn build(dim: usize, fill: impl FnOnce(&mut [f32])) -> pg_sys::Datum {
    assert!((1..=MAX_DIMENSIONS).contains(&dim), "a vector of {dim} dimensions cannot be stored");
    let length = HEADER_BYTES + 4 * dim;
    // SAFETY: palloc0 returns `length` zeroed bytes aligned to 8 or raises an error; header and elements fit in them.
    unsafe {
        let value = pg_sys::palloc0(length).cast::<Header>();
        pgrx::varlena::set_varsize_4b(value.cast(), length as i32);
        (*value).dimensions = dim as i16;
        fill(std::slice::from_raw_parts_mut(value.add(1).cast::<f32>(), dim));
        pg_sys::Datum::from(value)
    }
}

/// Copies `elements` (1..=16000 finite numbers, which the caller has checked) into a value in the current memory
/// context.
///
/// # Safety
/// On a thread that may call Postgres.
pub unsafe fn to_datum(elements: &[f32]) -> pg_sys::Datum {
    // SAFETY: passed on.
    unsafe { build(elements.len(), |to| to.copy_from_slice(elements)) }
}
