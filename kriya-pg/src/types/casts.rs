//! Casts of `lsmvector`: to its own type modifier, from arrays of numbers, to `real[]`.

use super::error::{VectorError, check_dimensions, check_elements, check_type_modifier};
use super::vector::{build, detoast};
use crate::sql_function;
use pgrx::pg_sys;

/// `typalign` of float4 and int4, and of float8 where it is passed by value.
const ALIGN_INT: std::ffi::c_char = b'i' as std::ffi::c_char;

sql_function! {
    /// `lsm_vector(lsmvector, integer, boolean) -> lsmvector`: holds a value to its column's dimensions.
    fn lsm_vector(call) {
        // SAFETY: declared so.
        let (value, type_modifier) = unsafe { (call.datum(0), call.int4(1)) };
        // SAFETY: declared so.
        let dim = unsafe { detoast(value) }.dim();
        check_type_modifier(type_modifier, dim).unwrap_or_else(|error| error.raise());
        value
    }

    /// `lsm_array_to_vector(integer[] | real[] | double precision[] | numeric[], integer, boolean) -> lsmvector`
    fn lsm_array_to_vector(call) {
        // SAFETY: declared so.
        let (given, type_modifier) = unsafe { (call.datum(0), call.int4(1)) };
        // SAFETY: an array datum is a varlena; detoasted it is an ArrayType, and Postgres takes it apart into `count`
        // datums and null flags, in the current memory context. The element type's own length and alignment are used.
        unsafe {
            let array = pg_sys::pg_detoast_datum(given.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            if (*array).ndim > 1 {
                VectorError::NestedArray.raise();
            }
            let element_type = (*array).elemtype;
            let (mut length, mut by_value, mut align) = (0, false, 0);
            pg_sys::get_typlenbyvalalign(element_type, &mut length, &mut by_value, &mut align);
            let (mut datums, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
            pg_sys::deconstruct_array(
                array, element_type, i32::from(length), by_value, align, &mut datums, &mut nulls, &mut count,
            );
            let dim = usize::try_from(count).unwrap_or(0);
            if dim > 0 && std::slice::from_raw_parts(nulls, dim).contains(&true) {
                VectorError::NullElement.raise();
            }
            check_dimensions(dim)
                .and_then(|()| check_type_modifier(type_modifier, dim))
                .unwrap_or_else(|error| error.raise());
            let vector = build(dim, |elements| {
                for (element, &datum) in elements.iter_mut().zip(std::slice::from_raw_parts(datums, dim)) {
                    *element = match element_type {
                        pg_sys::INT4OID => datum.value() as i32 as f32,
                        pg_sys::FLOAT4OID => float4(datum),
                        pg_sys::FLOAT8OID => f64::from_bits(datum.value() as u64) as f32,
                        pg_sys::NUMERICOID => pgrx::direct_function_call(pg_sys::numeric_float4, &[Some(datum)])
                            .unwrap_or(f32::NAN),
                        other => unsupported(other),
                    };
                }
                check_elements(elements).unwrap_or_else(|error| error.raise());
            });
            pg_sys::pfree(datums.cast());
            pg_sys::pfree(nulls.cast());
            vector
        }
    }

    /// `lsm_vector_to_float4(lsmvector, integer, boolean) -> real[]`
    fn lsm_vector_to_float4(call) {
        // SAFETY: declared so.
        let vector = unsafe { detoast(call.datum(0)) };
        let mut datums: Vec<pg_sys::Datum> =
            vector.as_slice().iter().map(|element| pg_sys::Datum::from(element.to_bits())).collect();
        // SAFETY: the datums are float4, passed by value in their low four bytes; Postgres copies them.
        unsafe {
            pg_sys::Datum::from(pg_sys::construct_array(
                datums.as_mut_ptr(), vector.dim() as i32, pg_sys::FLOAT4OID, 4, true, ALIGN_INT,
            ))
        }
    }
}

/// A float4 datum: its bits in the low half.
fn float4(datum: pg_sys::Datum) -> f32 {
    f32::from_bits(datum.value() as u32)
}

#[cold]
fn unsupported(element_type: pg_sys::Oid) -> ! {
    pgrx::ereport!(
        ERROR,
        pgrx::PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        format!("unsupported array type: elements of type {}", element_type.to_u32())
    );
}
