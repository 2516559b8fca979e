//! Frames over a Unix stream socket: `length u32 | kind u8 | body`, little-endian; `length` counts kind and body.
//!
//! Descriptors travel with a frame's first bytes. A length is believed only as far as bytes have arrived: the buffer
//! doubles with what was received, so a lying length costs nothing.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// The longest frame: a batch with a row of 1 GiB and some more.
pub(crate) const MAX_FRAME: usize = (1 << 30) + (64 << 20);
/// Descriptors in one message; the system allows 253.
pub(crate) const MAX_DESCRIPTORS: usize = 200;
/// Descriptors that may wait to be claimed by frames; more is an attack or a mistake.
const MAX_WAITING: usize = 8192;
const HEADER: usize = 5;
const FIRST_BUFFER: usize = 64 << 10;
/// A buffer that grew beyond this is given back after its frame.
const KEEP_BUFFER: usize = 4 << 20;

/// Whether the other side has gone away, or says something although it should only listen.
pub(crate) fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::IN | PollFlags::RDHUP)];
    match rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(ready) => ready > 0,
        Err(error) => error != rustix::io::Errno::INTR,
    }
}

/// The header of a frame whose body has `body` bytes.
pub(crate) fn header(kind: u8, body: usize) -> io::Result<[u8; HEADER]> {
    let length = u32::try_from(body + 1).ok().filter(|length| *length as usize <= MAX_FRAME).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a message of {body} bytes is longer than {MAX_FRAME}"))
    })?;
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind;
    Ok(header)
}

/// Sends some bytes of `parts`, from offset `from` of their concatenation, with `descriptors` if it is 0.
pub(crate) fn send_some(
    socket: BorrowedFd<'_>,
    parts: &[&[u8]],
    from: usize,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<usize> {
    let mut skip = from;
    let mut slices = Vec::with_capacity(parts.len());
    for part in parts {
        let start = skip.min(part.len());
        skip -= start;
        if start < part.len() {
            slices.push(IoSlice::new(&part[start..]));
        }
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if from == 0 && !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    loop {
        match rustix::net::sendmsg(socket, &slices, &mut control, flags | SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(sent) => return Ok(sent),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends a whole frame on a blocking socket.
pub(crate) fn send_frame(
    socket: BorrowedFd<'_>,
    kind: u8,
    body: &[&[u8]],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let header = header(kind, length)?;
    let mut parts: Vec<&[u8]> = Vec::with_capacity(body.len() + 1);
    parts.push(&header);
    parts.extend_from_slice(body);
    let mut sent = 0;
    while sent < HEADER + length {
        sent += send_some(socket, &parts, sent, descriptors, SendFlags::empty())?;
    }
    Ok(())
}

/// Receives some bytes, and the descriptors that come with them. Zero bytes are the end of the stream.
pub(crate) fn receive_some(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    descriptors: Option<&mut VecDeque<OwnedFd>>,
    flags: RecvFlags,
) -> io::Result<usize> {
    let Some(descriptors) = descriptors else {
        loop {
            match rustix::net::recv(socket, &mut *into, flags) {
                Err(rustix::io::Errno::INTR) => {}
                Ok((received, _)) => return Ok(received),
                Err(error) => return Err(error.into()),
            }
        }
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut slices = [IoSliceMut::new(into)];
        match rustix::net::recvmsg(socket, &mut slices, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "descriptors were lost on the way: this process may have too many open files",
        ));
    }
    if descriptors.len() > MAX_WAITING {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors were sent"));
    }
    Ok(message.bytes)
}

/// Bytes that were received and not yet taken as frames.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameBuffer {
    pub(crate) fn new() -> FrameBuffer {
        FrameBuffer { buffer: vec![0; FIRST_BUFFER], start: 0, end: 0 }
    }

    /// Kind and body of the next frame, receiving by `fill` as often as needed. `None` if the stream ends between two
    /// frames.
    pub(crate) fn next(
        &mut self,
        mut fill: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Option<(u8, &[u8])>> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > KEEP_BUFFER {
                self.buffer = vec![0; FIRST_BUFFER];
            }
        }
        loop {
            let have = self.end - self.start;
            let mut wanted = HEADER;
            if have >= HEADER {
                let at = self.start;
                let length = u32::from_le_bytes([
                    self.buffer[at],
                    self.buffer[at + 1],
                    self.buffer[at + 2],
                    self.buffer[at + 3],
                ]) as usize;
                if length == 0 || length > MAX_FRAME {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("a message of {length} bytes was announced, expected 1 to {MAX_FRAME}"),
                    ));
                }
                wanted = 4 + length;
                if have >= wanted {
                    self.start += wanted;
                    return Ok(Some((self.buffer[at + 4], &self.buffer[at + HEADER..at + wanted])));
                }
            }
            self.make_room(wanted);
            let received = fill(&mut self.buffer[self.end..])?;
            if received == 0 {
                if have == 0 {
                    return Ok(None);
                }
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended within a message"));
            }
            self.end += received;
        }
    }

    /// Makes some room behind `end`: all that `wanted` needs, but at most twice what was received.
    fn make_room(&mut self, wanted: usize) {
        if self.start > 0 && (self.start + wanted > self.buffer.len() || self.end == self.buffer.len()) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            let length = wanted.min(self.buffer.len() * 2).max(self.buffer.len() + 1);
            self.buffer.resize(length, 0);
        }
    }
}

/// A path to a socket that is short enough for the system (108 bytes): the folder is reached through a descriptor,
/// which must live until the call is done.
pub(crate) fn short_path(socket: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    if socket.as_os_str().as_bytes().len() < 100 {
        return Ok((socket.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path of the socket has no folder"));
    };
    use rustix::fs::{Mode, OFlags};
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    use std::os::fd::AsRawFd;
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd())).join(name);
    Ok((path, Some(folder)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn frames_of(bytes: &[u8], step: usize) -> io::Result<Vec<(u8, Vec<u8>)>> {
        let mut rest = bytes;
        let mut buffer = FrameBuffer::new();
        let mut frames = Vec::new();
        while let Some((kind, body)) = buffer.next(|into| {
            let take = step.min(rest.len()).min(into.len());
            into[..take].copy_from_slice(&rest[..take]);
            rest = &rest[take..];
            Ok(take)
        })? {
            frames.push((kind, body.to_vec()));
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_back_whatever_the_pieces_in_which_they_arrive() {
        let bodies = [vec![], vec![1; 10], vec![2; 200_000], vec![3; 3], vec![4; 9_000_000], vec![5; 7]];
        let mut bytes = Vec::new();
        for (kind, body) in bodies.iter().enumerate() {
            bytes.extend_from_slice(&header(kind as u8, body.len()).unwrap());
            bytes.extend_from_slice(body);
        }
        for step in [997, 65_536, usize::MAX] {
            let frames = frames_of(&bytes, step).unwrap();
            assert_eq!(frames.len(), bodies.len());
            for (at, (kind, body)) in frames.iter().enumerate() {
                assert!(*kind == at as u8 && *body == bodies[at]);
            }
        }
    }

    #[test]
    fn lying_lengths_and_cut_frames_are_errors_and_cost_no_memory() {
        assert!(frames_of(&[0, 0, 0, 0, 1], 5).is_err());
        assert!(frames_of(&u32::MAX.to_le_bytes().map(|b| b), 4).is_err());
        assert!(frames_of(&[255, 255, 255, 255, 1], 5).is_err());
        let mut bytes = header(1, 1 << 30).unwrap().to_vec();
        bytes.extend_from_slice(&[0; 100]);
        assert!(frames_of(&bytes, 50).is_err());
    }

    #[test]
    fn descriptors_arrive_with_the_frame_that_carries_them() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"through").unwrap();
        send_frame(a.as_fd(), 9, &[b"bo", b"dy"], &[file.as_fd(), file.as_fd()]).unwrap();
        let mut received = VecDeque::new();
        let mut buffer = FrameBuffer::new();
        let frame = buffer
            .next(|into| receive_some(b.as_fd(), into, Some(&mut received), RecvFlags::empty()))
            .unwrap()
            .map(|(kind, body)| (kind, body.to_vec()));
        assert_eq!(frame, Some((9, b"body".to_vec())));
        assert_eq!(received.len(), 2);
        use std::io::Seek;
        let mut back = std::fs::File::from(received.pop_back().unwrap());
        back.rewind().unwrap();
        let mut text = String::new();
        back.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn a_socket_below_a_very_long_path_can_be_reached() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let (path, _folder) = short_path(&deep.join("worker.sock")).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        assert!(deep.join("worker.sock").exists());
    }
}
