//! What can be wrong with a vector, told as pgvector tells it: users and clients know these sentences and codes.

use super::vector::MAX_DIMENSIONS;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;
use std::fmt;

/// Why a value of type `lsmvector` was refused.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum VectorError {
    /// The text is not a vector; `detail` says where it stops being one, if that helps.
    Syntax {
        /// The whole text given.
        text: String,
        /// A sentence for the error's DETAIL.
        detail: Option<&'static str>,
    },
    /// An element is a number float4 cannot hold.
    OutOfRange {
        /// The element as written.
        element: String,
    },
    /// An element is not a number.
    NotANumber,
    /// An element is infinite.
    Infinite,
    /// A vector without elements.
    NoDimensions,
    /// A vector of more than [`MAX_DIMENSIONS`].
    TooManyDimensions,
    /// Two vectors that had to have the same number of dimensions.
    Different {
        /// Dimensions of the left one.
        left: usize,
        /// Dimensions of the right one.
        right: usize,
    },
    /// A vector with other dimensions than its column's.
    Unexpected {
        /// Dimensions the type modifier asks for.
        expected: i32,
        /// Dimensions there are.
        got: usize,
    },
    /// The reserved field of the binary form is not zero.
    Reserved {
        /// What it is.
        got: u32,
    },
    /// A result is too large for float4.
    Overflow,
    /// An array of more than one dimension was to become a vector.
    NestedArray,
    /// An array with NULLs was to become a vector.
    NullElement,
    /// A type modifier that is not one integer.
    TypeModifier,
    /// A type modifier below 1.
    TypeModifierTooSmall,
    /// A type modifier above [`MAX_DIMENSIONS`].
    TypeModifierTooLarge,
}

impl VectorError {
    /// The SQLSTATE.
    pub fn code(&self) -> PgSqlErrorCode {
        match self {
            Self::Syntax { .. } => PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            Self::OutOfRange { .. } | Self::Overflow => PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            Self::TooManyDimensions => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::NullElement => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Self::TypeModifier | Self::TypeModifierTooSmall | Self::TypeModifierTooLarge => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::NotANumber
            | Self::Infinite
            | Self::NoDimensions
            | Self::Different { .. }
            | Self::Unexpected { .. }
            | Self::Reserved { .. }
            | Self::NestedArray => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        }
    }

    /// Raises it as a Postgres ERROR.
    #[cold]
    pub fn raise(self) -> ! {
        let mut report = ErrorReport::new(self.code(), self.to_string(), "lsmvector");
        if let Self::Syntax { detail: Some(detail), .. } = self {
            report = report.set_detail(detail);
        }
        report.report(pgrx::PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}

impl fmt::Display for VectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { text, .. } => write!(f, "invalid input syntax for type lsmvector: \"{text}\""),
            Self::OutOfRange { element } => write!(f, "\"{element}\" is out of range for type lsmvector"),
            Self::NotANumber => f.write_str("NaN not allowed in vector"),
            Self::Infinite => f.write_str("infinite value not allowed in vector"),
            Self::NoDimensions => f.write_str("vector must have at least 1 dimension"),
            Self::TooManyDimensions => write!(f, "vector cannot have more than {MAX_DIMENSIONS} dimensions"),
            Self::Different { left, right } => write!(f, "different vector dimensions {left} and {right}"),
            Self::Unexpected { expected, got } => write!(f, "expected {expected} dimensions, not {got}"),
            Self::Reserved { got } => write!(f, "expected unused to be 0, not {got}"),
            Self::Overflow => f.write_str("value out of range: overflow"),
            Self::NestedArray => f.write_str("array must be 1-D"),
            Self::NullElement => f.write_str("array must not contain nulls"),
            Self::TypeModifier => f.write_str("invalid type modifier"),
            Self::TypeModifierTooSmall => f.write_str("dimensions for type lsmvector must be at least 1"),
            Self::TypeModifierTooLarge => {
                write!(f, "dimensions for type lsmvector cannot exceed {MAX_DIMENSIONS}")
            }
        }
    }
}

impl std::error::Error for VectorError {}

/// `dim` must be 1..=[`MAX_DIMENSIONS`].
pub fn check_dimensions(dim: usize) -> Result<(), VectorError> {
    match dim {
        0 => Err(VectorError::NoDimensions),
        1..=MAX_DIMENSIONS => Ok(()),
        _ => Err(VectorError::TooManyDimensions),
    }
}

/// `dim` must be what the type modifier asks for (-1 asks for nothing).
pub fn check_type_modifier(type_modifier: i32, dim: usize) -> Result<(), VectorError> {
    if type_modifier == -1 || usize::try_from(type_modifier) == Ok(dim) {
        Ok(())
    } else {
        Err(VectorError::Unexpected { expected: type_modifier, got: dim })
    }
}

/// Every element must be a finite number.
pub fn check_elements(elements: &[f32]) -> Result<(), VectorError> {
    match elements.iter().find(|element| !element.is_finite()) {
        None => Ok(()),
        Some(element) if element.is_nan() => Err(VectorError::NotANumber),
        Some(_) => Err(VectorError::Infinite),
    }
}
