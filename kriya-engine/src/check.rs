//! Asking for a check of the object store, of a worker that serves as of one that cannot.

use std::path::Path;

use crate::client::Session;
use crate::client_error::ClientError;
use crate::codec;
use crate::error::FormatError;
use crate::line::{Line, Wait};
use crate::protocol::{CheckLine, REQUEST, Reply, Request};
use crate::socket;

/// Has the worker at `socket` try what it needs of its object store, with the settings that were asked for last.
///
/// # Errors
/// [`ClientError::NotServing`]: there is no worker now, try again later; other kinds as [`Session::connect`]
/// (crate::Session::connect).
pub fn check_store(socket: &Path, pid: u32, wait: &mut dyn Wait) -> Result<Vec<CheckLine>, ClientError> {
    let (stream, reply, mut input, mut descriptors) = Session::greet(socket, pid, wait)?;
    match reply {
        Reply::Welcome { .. } | Reply::Refused { .. } | Reply::Unavailable { .. } => {}
        _ => return Err(FormatError::new("reply", "it does not answer a greeting").into()),
    }
    let request = codec::encode(&Request::Check);
    let mut line = Line { socket: &stream, wait };
    line.send(&[&socket::header(REQUEST, request.len()).map_err(ClientError::Io)?, &request])?;
    match line.receive(&mut input, &mut descriptors)?.0 {
        Reply::Checked(lines) => Ok(lines),
        _ => Err(FormatError::new("reply", "it does not answer a check").into()),
    }
}
