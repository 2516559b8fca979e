//! Text, binary and type modifier of `lsmvector`.
//!
//! Binary is pgvector's: int16 dimensions, int16 zero, float4 elements, all big-endian. What arrives is checked before
//! memory is taken for it; reading past the end of the message is Postgres's own error.

use super::error::{VectorError, check_dimensions, check_elements, check_type_modifier};
use super::vector::{MAX_DIMENSIONS, build, detoast, to_datum};
use crate::sql_function;
use crate::types::text;
use pgrx::pg_sys;
use std::ffi::{c_char, c_int};

/// Most bytes `float_to_shortest_decimal_bufn` writes (Postgres's FLOAT_SHORTEST_DECIMAL_LEN, its zero byte left out).
const SHORTEST_FLOAT_BYTES: usize = 15;

unsafe extern "C" {
    /// Postgres's shortest text that reads back as the same float4, the text of float4out: writes at most
    /// [`SHORTEST_FLOAT_BYTES`] to `result`, no zero byte, and returns how many. Calls nothing else and cannot fail.
    fn float_to_shortest_decimal_bufn(value: f32, result: *mut c_char) -> c_int;
}

sql_function! {
    /// `lsm_vector_in(cstring, oid, integer) -> lsmvector`
    fn lsm_vector_in(call) {
        // SAFETY: declared so.
        let (given, type_modifier) = unsafe { (call.cstring(0), call.int4(2)) };
        let elements = text::parse(given).unwrap_or_else(|error| error.raise());
        check_type_modifier(type_modifier, elements.len()).unwrap_or_else(|error| error.raise());
        // SAFETY: Postgres called, and `parse` yields 1..=16000 finite elements.
        unsafe { to_datum(&elements) }
    }

    /// `lsm_vector_out(lsmvector) -> cstring`
    fn lsm_vector_out(call) {
        // SAFETY: declared so.
        let vector = unsafe { detoast(call.datum(0)) };
        // One byte more per element for the comma or the bracket behind it, and two for the first bracket and the end.
        let most = vector.dim() * (SHORTEST_FLOAT_BYTES + 1) + 2;
        // SAFETY: palloc returns `most` bytes or raises an error; every write below is counted in `most`.
        unsafe {
            let start = pg_sys::palloc(most).cast::<c_char>();
            let mut end = start;
            for (at, &element) in vector.as_slice().iter().enumerate() {
                end.write(if at == 0 { b'[' } else { b',' } as c_char);
                end = end.add(1);
                end = end.add(float_to_shortest_decimal_bufn(element, end) as usize);
            }
            end.write(b']' as c_char);
            end.add(1).write(0);
            pg_sys::Datum::from(start)
        }
    }

    /// `lsm_vector_recv(internal, oid, integer) -> lsmvector`
    fn lsm_vector_recv(call) {
        // SAFETY: declared so; the `internal` argument of a receive function is a StringInfo.
        let (message, type_modifier) =
            unsafe { (call.datum(0).cast_mut_ptr::<pg_sys::StringInfoData>(), call.int4(2)) };
        // SAFETY: Postgres reads within the message or raises an error.
        let (dimensions, reserved) =
            unsafe { (pg_sys::pq_getmsgint(message, 2), pg_sys::pq_getmsgint(message, 2)) };
        // 16 bits without a sign: a negative count is one above the limit, as it is for pgvector.
        let dim = dimensions as usize;
        check_dimensions(dim)
            .and_then(|()| check_type_modifier(type_modifier, dim))
            .and(if reserved == 0 { Ok(()) } else { Err(VectorError::Reserved { got: reserved }) })
            .unwrap_or_else(|error| error.raise());
        // SAFETY: Postgres called; `pq_getmsgbytes` returns as many bytes as asked for or raises an error.
        unsafe {
            let bytes = std::slice::from_raw_parts(pg_sys::pq_getmsgbytes(message, 4 * dim as c_int).cast::<u8>(), 4 * dim);
            build(dim, |elements| {
                let (numbers, _) = bytes.as_chunks::<4>();
                for (element, &number) in elements.iter_mut().zip(numbers) {
                    *element = f32::from_be_bytes(number);
                }
                check_elements(elements).unwrap_or_else(|error| error.raise());
            })
        }
    }

    /// `lsm_vector_send(lsmvector) -> bytea`
    fn lsm_vector_send(call) {
        // SAFETY: declared so.
        let vector = unsafe { detoast(call.datum(0)) };
        let length = 4 + 4 + 4 * vector.dim();
        // SAFETY: palloc returns `length` bytes or raises an error: a varlena header, two int16 and the elements.
        unsafe {
            let message = pg_sys::palloc(length);
            pgrx::varlena::set_varsize_4b(message.cast(), length as i32);
            let bytes = std::slice::from_raw_parts_mut(message.cast::<u8>().add(4), length - 4);
            bytes[..2].copy_from_slice(&(vector.dim() as u16).to_be_bytes());
            bytes[2..4].fill(0);
            let (numbers, _) = bytes[4..].as_chunks_mut::<4>();
            for (number, element) in numbers.iter_mut().zip(vector.as_slice()) {
                *number = element.to_be_bytes();
            }
            pg_sys::Datum::from(message)
        }
    }

    /// `lsm_vector_typmod_in(cstring[]) -> integer`
    fn lsm_vector_typmod_in(call) {
        let mut count: c_int = 0;
        // SAFETY: declared so; the array is detoasted first, and `ArrayGetIntegerTypmods` returns `count` integers or
        // raises an error.
        let modifiers = unsafe {
            let array = pg_sys::pg_detoast_datum(call.datum(0).cast_mut_ptr());
            let first = pg_sys::ArrayGetIntegerTypmods(array.cast(), &mut count);
            std::slice::from_raw_parts(first, usize::try_from(count).unwrap_or(0))
        };
        match *modifiers {
            [dimensions] if dimensions < 1 => VectorError::TypeModifierTooSmall.raise(),
            [dimensions] if dimensions as usize > MAX_DIMENSIONS => VectorError::TypeModifierTooLarge.raise(),
            [dimensions] => pg_sys::Datum::from(dimensions),
            _ => VectorError::TypeModifier.raise(),
        }
    }
}
