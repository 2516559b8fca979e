//! Errors as Postgres' users meet them: SQLSTATE, message, detail, hint.

use kriya_engine::{ClientError, CursorError};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// An error to be raised.
#[derive(Debug)]
pub struct Failure {
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// With a code and a message.
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), detail: None, hint: None }
    }

    /// Something that is not built yet, by name.
    pub fn unsupported(message: impl Into<String>) -> Failure {
        Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message)
    }

    /// Something that must not happen.
    pub fn internal(message: impl Into<String>) -> Failure {
        Failure::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, message)
    }

    /// Bytes that are not what they must be.
    pub fn corrupt(message: impl Into<String>) -> Failure {
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what happened in particular.
    pub fn detail(mut self, detail: impl Into<String>) -> Failure {
        self.detail = Some(detail.into());
        self
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Refused { message, hint } => {
                let failure = Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message);
                if hint.is_empty() { failure } else { failure.hint(hint) }
            }
            ClientError::Unavailable { message, hint } => {
                Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, message).hint(hint)
            }
            ClientError::Worker { message, hint } => {
                let failure = Failure::new(PgSqlErrorCode::ERRCODE_SYSTEM_ERROR, message);
                if hint.is_empty() { failure } else { failure.hint(hint) }
            }
            ClientError::Interrupted => {
                Failure::new(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, "canceling statement due to user request")
            }
            ClientError::Stopping | ClientError::Generation { .. } | ClientError::Gone | ClientError::Broken => {
                Failure::new(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, error.to_string())
                    .hint("Run the transaction again.")
            }
            other => Failure::new(PgSqlErrorCode::ERRCODE_SYSTEM_ERROR, other.to_string()),
        }
    }
}

impl From<lsmstore::ReadError> for Failure {
    fn from(error: lsmstore::ReadError) -> Failure {
        Failure::corrupt(error.to_string())
    }
}

impl From<CursorError> for Failure {
    fn from(error: CursorError) -> Failure {
        match &error {
            CursorError::Query(query) => Failure::new(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION, query.to_string()),
            _ => Failure::corrupt(error.to_string()),
        }
    }
}

impl From<kriya_engine::FormatError> for Failure {
    fn from(error: kriya_engine::FormatError) -> Failure {
        Failure::corrupt(error.to_string())
    }
}

/// Raises the error.
pub fn raise(failure: Failure) -> ! {
    let mut report = ErrorReport::new(failure.code, failure.message, "kriya_pg");
    if let Some(detail) = failure.detail {
        report = report.set_detail(detail);
    }
    if let Some(hint) = failure.hint {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an error report does not return")
}

/// The value, or its error raised.
pub trait OrRaise<T> {
    /// Takes the value; raises the error.
    fn or_raise(self) -> T;
}

impl<T, E: Into<Failure>> OrRaise<T> for Result<T, E> {
    fn or_raise(self) -> T {
        self.unwrap_or_else(|error| raise(error.into()))
    }
}
