//! Answers the requests of one session.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lsmstore::{Batch, FlushError, FlushOptions, Unusable, View, Write};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;

use crate::catalogue::{CatalogueEntry, floats};
use crate::codec;
use crate::index::{NewEntry, VectorRef, delete_batch, index_batch};
use crate::keys::{self, Counter};
use crate::locks::Change;
use crate::protocol::{ActiveRef, Check, EntryHead, FlushReport, REPLY, REQUEST, Reply, Request, SealedRef};
use crate::socket::{self, FrameBuffer, MAX_DESCRIPTORS};
use crate::worker::active::{Descriptor, descriptor};
use crate::worker::build::Build;
use crate::worker::check::Checker;
use crate::worker::counters::MAX_WRITES;
use crate::worker::engine::{ApplyError, Engine};
use crate::worker::fence::{Activity, Doing};
use crate::worker::indexes::Inserted;
use crate::worker::locking::{Conditional, lock, orphan, sweep, write_if};
use crate::worker::place::hint;
use crate::worker::segments::Sealed;
use crate::worker::status::status;

/// A write is held back for no longer, whatever the store advises: locks may be held until it is answered.
const LONGEST_DELAY: Duration = Duration::from_millis(100);
/// Row numbers that one lease may take.
const MAX_LEASE: u32 = 1 << 20;

/// A session as the worker serves it.
pub(crate) struct Serving<'a> {
    engine: &'a Engine,
    stream: &'a UnixStream,
    slot: usize,
    activity: &'a Activity,
    build: Option<Build>,
    /// The transaction that locked or changed rows through this session.
    transaction: Option<u64>,
}

/// A reply and the bytes behind it.
pub(crate) struct Answer {
    reply: Reply,
    raw: Vec<u8>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer { reply, raw: Vec::new() }
    }
}

impl From<ApplyError> for Reply {
    fn from(error: ApplyError) -> Reply {
        match error {
            ApplyError::Busy => Reply::Busy,
            ApplyError::Failed(message) => failed(message),
        }
    }
}

pub(crate) fn failed(message: impl Into<String>) -> Reply {
    Reply::Failed { message: message.into(), hint: String::new() }
}

impl<'a> Serving<'a> {
    pub(crate) fn new(engine: &'a Engine, stream: &'a UnixStream, slot: usize, activity: &'a Activity) -> Serving<'a> {
        Serving { engine, stream, slot, activity, build: None, transaction: None }
    }

    /// Serves until the session ends, which is fine, or sends what makes no sense.
    pub(crate) fn serve(&mut self, mut input: FrameBuffer) -> io::Result<()> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        loop {
            let stream = self.stream;
            let frame = input.next(|into| {
                self.activity.await_request(stream)?;
                socket::receive_some(stream.as_fd(), into, None, RecvFlags::empty())
            })?;
            let Some((kind, body)) = frame else { return Ok(()) };
            if kind != REQUEST {
                return Err(invalid(format!("a frame of kind {kind} is no request")));
            }
            let (request, raw) =
                codec::decode_prefix::<Request>("request", body).map_err(|error| invalid(error.to_string()))?;
            match request {
                Request::TransactionEnded => {
                    if let Some(transaction) = self.transaction.take() {
                        self.engine.locks().table.end_transaction(transaction);
                    }
                    self.engine.sessions.end_writing(self.slot);
                    self.build = None;
                    sweep(self.engine);
                    continue;
                }
                Request::SubtransactionsEnded { xids } => {
                    self.engine.locks().table.end(&xids);
                    continue;
                }
                Request::BuildEnd | Request::Flush | Request::Check | Request::Fence => self.activity.set(Doing::Long),
                _ => {}
            }
            let answer = match self.admit(&request) {
                Some(refusal) => refusal.into(),
                None => self.answer(request, raw)?,
            };
            self.send(&answer.reply, &answer.raw, &[])?;
        }
    }

    fn send(&self, reply: &Reply, raw: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        socket::send_frame(self.stream.as_fd(), REPLY, &[&codec::encode(reply), raw], descriptors)
    }

    /// What everything that changes something needs: our generation, and a transaction that may still write.
    fn admit(&self, request: &Request) -> Option<Reply> {
        let generation = match request {
            Request::NewId { generation }
            | Request::LeaseTids { generation, .. }
            | Request::Write { generation, .. }
            | Request::Lock { generation, .. }
            | Request::IndexInsert { generation, .. }
            | Request::IndexDelete { generation, .. }
            | Request::BuildBegin { generation, .. } => *generation,
            _ => return None,
        };
        let current = self.engine.generation();
        if generation != current {
            return Some(Reply::Generation { current });
        }
        let sessions = &self.engine.sessions;
        let admitted = match request {
            // A number alone binds nobody.
            Request::NewId { .. } | Request::LeaseTids { .. } => sessions.may_write(self.slot),
            _ => sessions.begin_writing(self.slot),
        };
        (!admitted).then_some(Reply::Stopping)
    }

    fn answer(&mut self, request: Request, raw: &[u8]) -> io::Result<Answer> {
        let engine = self.engine;
        Ok(match request {
            Request::NewId { .. } => match engine.take(Counter::Objects, 0, 1) {
                Ok(id) => Reply::Id(id).into(),
                Err(error) => Reply::from(error).into(),
            },
            Request::LeaseTids { table, count, .. } => self.lease(table, count).into(),
            Request::Write { checks, change, .. } => self.write(&checks, change.as_ref(), raw).into(),
            Request::Lock { claim, versions, .. } => {
                self.transaction = Some(claim.transaction);
                lock(engine, &claim, &versions).into()
            }
            Request::Held { table, tid, transaction } => {
                Reply::Held(engine.locks().table.own((table, tid), transaction)).into()
            }
            Request::Ask { claim, tid } => {
                let row = (claim.table, tid);
                let mut locks = engine.locks();
                locks.table.end(&claim.ended);
                let member = !locks.table.own(row, claim.transaction).is_empty();
                Reply::InTheWay { xids: locks.table.in_the_way(row, &claim), member }.into()
            }
            Request::Fence => match engine.sessions.fence(|| !engine.signals.working()) {
                true => Reply::Done.into(),
                false => Reply::Stopping.into(),
            },
            Request::IndexInsert { index, dim, entries, .. } => {
                self.index_insert(index, dim, &entries, raw).unwrap_or_else(|reply| reply).into()
            }
            Request::IndexDelete { index, entries, .. } => self.index_delete(index, &entries).into(),
            Request::View { known } => self.view(&known)?,
            Request::Index { view, index, known } => self.index(view, index, &known)?.into(),
            Request::BuildBegin { index, description, estimated_rows, .. } => {
                match Build::begin(index, description, estimated_rows) {
                    Ok(build) => {
                        self.build = Some(build);
                        Reply::Done.into()
                    }
                    Err(message) => failed(message).into(),
                }
            }
            Request::BuildRows { count, dim } => self.build_rows(count, dim, raw).into(),
            Request::BuildEnd => match self.build.take() {
                None => failed("no index is being built in this session").into(),
                Some(build) => {
                    let stream = self.stream;
                    let tell = |done, total| {
                        let progress = codec::encode(&Reply::Progress { done, total });
                        socket::send_frame(stream.as_fd(), REPLY, &[&progress], &[]).is_ok()
                    };
                    match build.finish(engine, tell) {
                        Ok((first, batch)) => Answer { reply: Reply::Built { first }, raw: batch.as_bytes().to_vec() },
                        Err(message) => failed(message).into(),
                    }
                }
            },
            Request::BuildAbort => {
                self.build = None;
                Reply::Done.into()
            }
            Request::Flush => self.flush().into(),
            Request::Check => {
                let checker = Checker { runtime: engine.runtime.clone(), live: Arc::clone(&engine.live) };
                Reply::Checked(checker.check()).into()
            }
            Request::Status => Reply::Status(Box::new(status(engine))).into(),
            Request::TakeOver { .. } => failed("this server uses its store: there is nothing to take over").into(),
            Request::TransactionEnded | Request::SubtransactionsEnded { .. } => Reply::Done.into(),
        })
    }

    fn lease(&self, table: u64, count: u32) -> Reply {
        if count == 0 || count > MAX_LEASE {
            return failed(format!("{count} row numbers were asked for, expected 1 to {MAX_LEASE}"));
        }
        match self.engine.take(Counter::Tids, table, count.into()) {
            Ok(first) => Reply::Tids { first, count },
            Err(error) => error.into(),
        }
    }

    /// Lets the store keep up, on this session's own thread and before it takes any lock.
    fn hold_back(&self, bytes: usize) {
        let delay = self.engine.store.write_delay(bytes).min(LONGEST_DELAY);
        if !delay.is_zero() && self.engine.signals.working() {
            std::thread::sleep(delay);
        }
    }

    fn write(&mut self, checks: &[Check], change: Option<&Change>, raw: &[u8]) -> Reply {
        let batch = match Batch::decode(raw) {
            Ok(batch) => batch,
            Err(error) => return failed(error.to_string()),
        };
        // Asked for after the next flush, and recorded then: the host forgets old transactions.
        let mut undecided = Vec::new();
        for write in batch.iter() {
            let (Write::Put { key, .. } | Write::Delete { key }) = write else {
                return failed("the batch deletes a range of keys, which only the worker may");
            };
            match key.first() {
                Some(&(keys::CEILING | keys::ENTRY | keys::DELETED | keys::SEGMENT)) | None => {
                    return failed("the batch has a key that only the worker may write");
                }
                Some(&keys::DROP) => {
                    undecided.extend(keys::parse_triple(keys::DROP, key).map(|(id, xid)| (id, xid, true)));
                }
                Some(&keys::CATALOGUE) => {
                    if let (Write::Put { value, .. }, Ok(id)) = (write, keys::parse_pair(keys::CATALOGUE, key)) {
                        undecided.extend(CatalogueEntry::parse(value).map(|entry| (id, entry.created_xid(), false)));
                    }
                }
                _ => {}
            }
        }
        if let Some(change) = change {
            self.transaction = Some(change.claim.transaction);
        }
        self.hold_back(raw.len());
        let written = match checks.is_empty() && change.is_none() {
            true => self.engine.apply(&batch).map(|applied| Conditional::Written(applied.first)),
            false => write_if(self.engine, checks, change, &batch),
        };
        match written {
            Ok(Conditional::Written(first)) => {
                self.engine.undecided.lock().unwrap_or_else(PoisonError::into_inner).extend(undecided);
                Reply::Written { first }
            }
            Ok(Conditional::Lost) => Reply::Lost,
            Ok(Conditional::InTheWay(obstacle)) => Reply::InTheWay { xids: obstacle.xids, member: obstacle.member },
            Err(error) => error.into(),
        }
    }

    fn index_insert(&self, id: u64, dim: u16, entries: &[EntryHead], raw: &[u8]) -> Result<Reply, Reply> {
        let index = self.engine.indexes.get(id).ok_or(Reply::NoSuchIndex)?;
        if entries.is_empty() || dim == 0 || entries.len() > MAX_WRITES {
            return Err(failed(format!("{} entries of {dim} dimensions cannot be inserted", entries.len())));
        }
        let dim = usize::from(dim);
        let vectors = self.vectors(dim, entries, raw)?;
        let tids: Vec<u64> = entries.iter().map(|entry| entry.tid).collect();
        let batch = |first_entry| {
            let entries: Vec<NewEntry<'_>> = (entries.iter().zip(vectors.chunks_exact(dim)))
                .map(|(head, vector)| NewEntry {
                    tid: head.tid,
                    vector: match head.in_row {
                        None => VectorRef::Inline(vector),
                        // It was a u16 when it arrived.
                        Some((table, offset)) => VectorRef::InRow { table, offset, dim: dim as u16 },
                    },
                })
                .collect();
            index_batch(id, first_entry, &entries)
        };
        match index.insert(self.engine, dim, &tids, &vectors, batch)? {
            Inserted::At { first_entry, first } => Ok(Reply::IndexWritten { first_entry, first }),
            Inserted::Dimension(expected) => Ok(Reply::Dimension { expected: expected as u32, got: dim as u32 }),
        }
    }

    /// The vectors of all entries: those sent along, and those that stand in rows.
    fn vectors(&self, dim: usize, entries: &[EntryHead], raw: &[u8]) -> Result<Vec<f32>, Reply> {
        let inline = entries.iter().filter(|entry| entry.in_row.is_none()).count();
        if raw.len() != inline * dim * 4 {
            return Err(failed(format!("{} bytes of vectors came, expected {}", raw.len(), inline * dim * 4)));
        }
        let view = self.engine.store.view().map_err(|error| failed(error.to_string()))?;
        let sequence = view.read_sequence();
        let mut sent = raw.chunks_exact(dim * 4);
        let (mut all, mut one) = (Vec::with_capacity(entries.len() * dim), Vec::with_capacity(dim));
        for entry in entries {
            match entry.in_row {
                None => floats(sent.next().unwrap_or_default(), &mut one),
                Some((table, offset)) => {
                    let row = (table, entry.tid);
                    if !vector_in_row(&view, sequence, row, offset, dim, &mut one).map_err(failed)? {
                        return Err(failed(format!("row {} of table {table} is not there", entry.tid)));
                    }
                }
            }
            check_vector(&one).map_err(failed)?;
            all.extend_from_slice(&one);
        }
        Ok(all)
    }

    fn index_delete(&self, id: u64, entries: &[u64]) -> Reply {
        if entries.is_empty() || entries.len() > MAX_WRITES {
            return failed(format!("{} entries cannot be deleted at once, expected 1 to {MAX_WRITES}", entries.len()));
        }
        if self.engine.indexes.get(id).is_none() {
            return Reply::NoSuchIndex;
        }
        match self.engine.apply(&delete_batch(id, entries)) {
            Ok(applied) => Reply::Written { first: applied.first },
            Err(error) => error.into(),
        }
    }

    fn view(&self, known: &[u64]) -> io::Result<Answer> {
        let view = match self.engine.views.hand_out(self.slot, &self.engine.store, &self.engine.indexes) {
            Ok(view) => view,
            Err(why) => return Ok(failed(why.to_string()).into()),
        };
        let mut descriptors = Vec::new();
        for (id, region) in view.store.shared_regions() {
            if !known.contains(&id) {
                descriptors.push(descriptor(id, &region)?);
            }
        }
        self.send_regions(descriptors)?;
        Ok(Answer { reply: Reply::View { number: view.number }, raw: view.store.describe().encode() })
    }

    fn index(&self, number: u64, id: u64, known: &[u64]) -> io::Result<Reply> {
        let Some(view) = self.engine.views.of(self.slot, number) else { return Ok(Reply::ViewMoved) };
        let Some(state) = view.indexes.get(&id) else { return Ok(Reply::NoSuchIndex) };
        let mut descriptors = Vec::new();
        for active in &state.active {
            for (id, region) in [&active.rows, &active.graph] {
                if !known.contains(id) {
                    descriptors.push(descriptor(*id, region)?);
                }
            }
        }
        self.send_regions(descriptors)?;
        let sealed = |sealed: &Arc<Sealed>| SealedRef {
            segment: sealed.segment,
            rows_file: sealed.record.rows_object.clone(),
            graph_file: sealed.record.graph_object.clone(),
        };
        Ok(Reply::Index {
            metric: state.metric,
            sealed: state.sealed.iter().map(sealed).collect(),
            active: (state.active.iter())
                .map(|active| ActiveRef { rows_region: active.rows.0, graph_region: active.graph.0 })
                .collect(),
        })
    }

    fn send_regions(&self, descriptors: Vec<Descriptor>) -> io::Result<()> {
        for part in descriptors.chunks(MAX_DESCRIPTORS) {
            let regions = part.iter().map(|(id, capacity, _)| (*id, *capacity)).collect();
            let fds: Vec<_> = part.iter().map(|(.., fd)| fd.as_fd()).collect();
            self.send(&Reply::Regions(regions), &[], &fds)?;
        }
        Ok(())
    }

    fn build_rows(&mut self, count: u32, dim: u16, raw: &[u8]) -> Reply {
        let Some(build) = &mut self.build else { return failed("no index is being built in this session") };
        match build.rows(count as usize, dim.into(), raw) {
            Ok(()) => Reply::Done,
            Err(message) => {
                self.build = None;
                failed(message)
            }
        }
    }

    fn flush(&self) -> Reply {
        let engine = self.engine;
        engine.signals.seal_early.store(true, Ordering::Relaxed);
        engine.signals.sealing.wake();
        let options = FlushOptions { clean: false, force: true };
        let flushed = {
            let _one = engine.flushing.lock().unwrap_or_else(PoisonError::into_inner);
            // Behind the worker's last flush this would take its mark of an orderly stop away.
            if !engine.signals.working() {
                return Reply::Stopping;
            }
            engine.runtime.block_on(engine.store.flush_local(options))
        };
        let published = flushed.and_then(|_| {
            let ending = FlushError::Unusable(Unusable::Closed);
            // A stop waits for sessions that write, this one perhaps: it must not wait for a store on behalf of nobody.
            let goes_on = || engine.signals.working() && is_there(self.stream);
            engine.while_it_may(&goes_on, engine.store.publish()).unwrap_or(Err(ending))
        });
        match published {
            Ok(_) => {
                let manifest = engine.store.manifest();
                Reply::Flushed(FlushReport {
                    manifest: manifest.number,
                    position: manifest.position,
                    sequence: manifest.last_sequence,
                })
            }
            Err(error) => {
                // If the store has become unusable, the worker ends.
                engine.signals.ending.wake();
                let hint = if let FlushError::Storage(_) = error { hint(&error) } else { "" };
                Reply::Failed { message: error.to_string(), hint: hint.to_owned() }
            }
        }
    }
}

/// Whether the other end of a session's socket is open.
fn is_there(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let over = PollFlags::HUP | PollFlags::ERR;
    match rustix::event::poll(&mut polled, Some(&Timespec::default())) {
        Ok(_) => !polled[0].revents().intersects(over),
        // An interruption says nothing.
        Err(_) => true,
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if let Some(transaction) = self.transaction {
            orphan(self.engine, transaction);
        }
    }
}

pub(crate) fn checks_hold(view: &View, checks: &[Check]) -> Result<bool, String> {
    let sequence = view.read_sequence();
    for check in checks {
        let current = view.get(&check.key, sequence).map_err(|error| error.to_string())?;
        if current != check.expected.as_deref() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads a vector out of row (table, tid) of the store; says no if the row is not there.
pub(crate) fn vector_in_row(
    view: &View,
    sequence: u64,
    (table, tid): (u64, u64),
    offset: u32,
    dim: usize,
    into: &mut Vec<f32>,
) -> Result<bool, String> {
    if tid > keys::MAX_TID {
        return Err(format!("{tid} is no row number"));
    }
    let row = view.get(&keys::row(table, tid), sequence).map_err(|error| error.to_string())?;
    let Some(row) = row else { return Ok(false) };
    let bytes = row.get(offset as usize..).and_then(|rest| rest.get(..dim * 4)).ok_or_else(|| {
        format!("row {tid} of table {table} has {} bytes, too few for {dim} floats at {offset}", row.len())
    })?;
    floats(bytes, into);
    Ok(true)
}

/// Refuses what no segment could take, before anything is written.
pub(crate) fn check_vector(vector: &[f32]) -> Result<(), String> {
    if let Some(at) = vector.iter().position(|value| !value.is_finite()) {
        return Err(format!("component {at} of a vector is {}, expected a finite number", vector[at]));
    }
    let square: f64 = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    if square >= f64::from(f32::MAX) / 4.0 {
        return Err(format!("a vector has length {:e}, so that distances to it would overflow", square.sqrt()));
    }
    Ok(())
}
