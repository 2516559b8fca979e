//! A session's socket, which never blocks, and how its owner waits for it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, SendFlags};

use crate::client_error::{ClientError, Interrupted};
use crate::codec;
use crate::error::FormatError;
use crate::protocol::{REPLY, Reply};
use crate::socket::{self, FrameBuffer};

/// How a session waits for its socket.
pub trait Wait {
    /// Returns once `fd` may be ready for reading, or for writing if `write`.
    ///
    /// # Errors
    /// [`Interrupted`] if the caller wants to give up; unwinding is fine too.
    fn ready(&mut self, fd: BorrowedFd<'_>, write: bool) -> Result<(), Interrupted>;
}

/// Waits by poll(2) for as long as it takes: for tests and programs without signals to look after.
#[derive(Debug, Clone, Copy, Default)]
pub struct PollWait;

impl Wait for PollWait {
    fn ready(&mut self, fd: BorrowedFd<'_>, write: bool) -> Result<(), Interrupted> {
        let flags = if write { PollFlags::OUT } else { PollFlags::IN };
        // An error shows up again in the call that follows.
        let _ = rustix::event::poll(&mut [PollFd::new(&fd, flags)], None);
        Ok(())
    }
}

/// The socket and how to wait for it.
pub(crate) struct Line<'a> {
    pub socket: &'a UnixStream,
    pub wait: &'a mut dyn Wait,
}

impl Line<'_> {
    pub(crate) fn send(&mut self, parts: &[&[u8]]) -> Result<(), ClientError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut sent = 0;
        while sent < length {
            match socket::send_some(self.socket.as_fd(), parts, sent, &[], SendFlags::DONTWAIT) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait.ready(self.socket.as_fd(), true)?;
                }
                Err(error) => return Err(gone(error)),
            }
        }
        Ok(())
    }

    pub(crate) fn receive(
        &mut self,
        input: &mut FrameBuffer,
        descriptors: &mut VecDeque<OwnedFd>,
    ) -> Result<(Reply, Vec<u8>), ClientError> {
        let mut interrupted = false;
        let (socket, wait) = (self.socket.as_fd(), &mut *self.wait);
        let frame = input.next(|into| {
            loop {
                match socket::receive_some(socket, into, Some(descriptors), RecvFlags::DONTWAIT) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if wait.ready(socket, false).is_err() {
                            interrupted = true;
                            return Err(io::ErrorKind::Other.into());
                        }
                    }
                    other => return other,
                }
            }
        });
        let frame = match frame {
            Err(_) if interrupted => return Err(ClientError::Interrupted),
            other => other.map_err(gone)?,
        };
        let (kind, body) = frame.ok_or(ClientError::Gone)?;
        if kind != REPLY {
            return Err(FormatError::new("reply", format!("a frame of kind {kind} arrived")).into());
        }
        let (reply, raw) = codec::decode_prefix("reply", body)?;
        Ok((reply, raw.to_vec()))
    }
}

fn gone(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => ClientError::Gone,
        _ => ClientError::Io(error),
    }
}

/// Why nobody answers at the socket.
pub(crate) fn not_serving(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock => {
            ClientError::NotServing(error.to_string())
        }
        _ => ClientError::Io(error),
    }
}
