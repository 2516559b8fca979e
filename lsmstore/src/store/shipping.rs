//! Sends the log to the object store: [`Durability::Remote`](crate::Durability::Remote).
//!
//! Each batch that is in the local log and applied is added to an open *piece*. A piece is sealed and put as an object when
//! somebody waits for it and none is on its way, or when it has become large; so a lone writer's batch goes at once, many
//! writers' batches go together, in about as many objects as there are round trips, and a store in which nobody waits asks
//! for nothing. Several pieces may be on their way.
//!
//! # Invariants
//! * Few pieces are asked for before the oldest is there ([`AHEAD`]), so that a hole is known for what it is.
//! * Pieces hold the batches in the order of their numbers, and a flush seals: none holds batches from before and after it.
//! * A piece is done for those who wait when it and all before it are in the object store as ours, or when a manifest
//!   that is there holds what it holds.
//! * A creation whose outcome is unknown is repeated, byte by byte, until it is known.
//! * Who finds another's object in a number of his own is fenced, see [`remote`](crate::wal::remote).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::env::nonce;
use crate::error::{StorageError, Unusable, WriteError};
use crate::object::{self, Created};
use crate::store::group::Answer;
use crate::store::{Applied, Inner, lock};
use crate::wal::record::Segment;
use crate::wal::remote::{AHEAD, Piece, ours};

/// A piece of this size does not wait for the one that is on its way.
const LARGE: usize = 256 << 10;
/// Pieces do not become much larger, and so much is sent even if nobody waits.
const LARGEST: usize = 4 << 20;
/// Bytes that may wait; then writes are refused.
const MOST: u64 = 64 << 20;
/// How long to wait after a failure: doubled from one to the other.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// The log on its way to the object store.
pub(super) struct Shipping(Mutex<State>);

struct State {
    open: Piece,
    waiting: Vec<(Answer, Applied)>,
    /// Oldest first, without gaps.
    sealed: VecDeque<Sealed>,
    /// Bytes of the sealed ones.
    sealed_bytes: u64,
    on_their_way: usize,
}

struct Sealed {
    number: u64,
    nonce: Uuid,
    bytes: Bytes,
    waiting: Vec<(Answer, Applied)>,
    begun: bool,
    done: bool,
}

impl Shipping {
    /// The log of an epoch, from its first object on.
    pub(super) fn new(store: Uuid, epoch: u64) -> Shipping {
        let open = Piece::new(Segment { store, epoch, slot: 1, nonce: Uuid::nil() });
        let (waiting, sealed) = (Vec::new(), VecDeque::new());
        Shipping(Mutex::new(State { open, waiting, sealed, sealed_bytes: 0, on_their_way: 0 }))
    }
}

impl State {
    fn bytes(&self) -> u64 {
        self.sealed_bytes + self.open.len() as u64
    }

    /// Seals the open piece, if anything is in it. Its number is that of the next object.
    fn seal(&mut self, inner: &Inner) -> Result<(), std::io::Error> {
        if self.open.is_empty() {
            return Ok(());
        }
        let nonce = nonce(&*inner.env)?;
        let segment = self.open.segment;
        let next = Piece::new(Segment { slot: segment.slot + 1, ..segment });
        let mut piece = std::mem::replace(&mut self.open, next);
        piece.name(nonce);
        let (number, waiting) = (segment.slot, std::mem::take(&mut self.waiting));
        let bytes = piece.finish();
        self.sealed_bytes += bytes.len() as u64;
        self.sealed.push_back(Sealed { number, nonce, bytes, waiting, begun: false, done: false });
        Ok(())
    }

    /// What is to be put now.
    fn due(&mut self, inner: &Inner) -> Result<Vec<(u64, Uuid, Bytes)>, std::io::Error> {
        let wanted = !self.waiting.is_empty() && (self.on_their_way == 0 || self.open.len() >= LARGE);
        if wanted || self.open.len() >= LARGEST {
            self.seal(inner)?;
        }
        let full = self.bytes() > MOST / 2;
        // Whoever waits for one waits for all before it.
        let wanted =
            self.sealed.iter().rposition(|piece| full || !piece.waiting.is_empty() || piece.bytes.len() >= LARGEST);
        let ahead = self.sealed.front().map_or(0, |oldest| oldest.number + AHEAD);
        let mut due = Vec::new();
        for piece in self.sealed.iter_mut().take(wanted.map_or(0, |last| last + 1)).filter(|piece| !piece.begun) {
            if piece.number >= ahead {
                break;
            }
            self.on_their_way += 1;
            piece.begun = true;
            due.push((piece.number, piece.nonce, piece.bytes.clone()));
        }
        Ok(due)
    }

    /// Answers those who wait for what is done.
    fn answer(&mut self) {
        while let Some(piece) = self.sealed.pop_front_if(|piece| piece.done) {
            self.sealed_bytes -= piece.bytes.len() as u64;
            for (answer, applied) in piece.waiting {
                // Whoever does not wait any more needs no answer.
                let _ = answer.send(Ok(applied));
            }
        }
    }

    fn refuse(&mut self, why: &Unusable) {
        let sealed = self.sealed.iter_mut().flat_map(|piece| piece.waiting.drain(..));
        for (answer, _) in sealed.chain(self.waiting.drain(..)) {
            let _ = answer.send(Err(WriteError::Unusable(why.clone())));
        }
    }
}

/// The job that sends a piece. If it is lost, nobody waits for ever.
struct Sender {
    inner: Weak<Inner>,
    number: u64,
    nonce: Uuid,
    sent: bool,
}

impl Sender {
    async fn send(mut self, bytes: Bytes) {
        let mut pause = SHORTEST;
        // A store that is gone has nobody who waits.
        while let Some(inner) = self.inner.upgrade() {
            self.sent = inner.put_piece(self.number, self.nonce, &bytes).await;
            if self.sent {
                return inner.ship_what_is_due();
            }
            let over = inner.env.reactor().sleep(pause);
            drop(inner);
            over.await;
            pause = (pause * 2).min(LONGEST);
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade().filter(|_| !self.sent) {
            inner.refuse_shipping(&inner.lost("sends the log"));
        }
    }
}

impl Inner {
    fn shipping(&self) -> Option<&Mutex<State>> {
        self.group.as_ref()?.shipping.as_ref().map(|shipping| &shipping.0)
    }

    /// Bytes of the log that are not in the object store yet, if they are more than may be, and how many may be.
    pub(super) fn ships_too_slowly(&self) -> Option<(u64, u64)> {
        let bytes = lock(self.shipping()?).bytes();
        (bytes > MOST).then_some((bytes, MOST))
    }

    /// Adds an applied batch, under the log's lock. `waiting` is answered when the object store has it and all before it.
    pub(super) fn ship(self: &Arc<Inner>, applied: Applied, batch: &[u8], waiting: Option<Answer>) {
        let Some(shipping) = self.shipping() else { return };
        let mut state = lock(shipping);
        if applied.last >= applied.first {
            state.open.push(applied.first, (applied.last - applied.first + 1) as usize, batch);
        }
        if let Some(answer) = waiting {
            match state.open.is_empty() {
                false => state.waiting.push((answer, applied)),
                // A batch of no writes waits for those before it.
                true => match state.sealed.back_mut() {
                    Some(newest) => newest.waiting.push((answer, applied)),
                    None => drop(answer.send(Ok(applied))),
                },
            }
        }
    }

    /// Puts what is to be put.
    pub(super) fn ship_what_is_due(self: &Arc<Inner>) {
        let Some(shipping) = self.shipping() else { return };
        let mut state = lock(shipping);
        if let Some(why) = self.unusable.get() {
            return state.refuse(why);
        }
        let due = match state.due(self) {
            Ok(due) => due,
            Err(error) => {
                let why = self.poison(Unusable::Poisoned { what: format!("no random bytes for a nonce: {error}") });
                return state.refuse(&why);
            }
        };
        drop(state);
        for (number, nonce, bytes) in due {
            let sender = Sender { inner: Arc::downgrade(self), number, nonce, sent: false };
            self.env.reactor().spawn(Box::pin(sender.send(bytes)));
        }
    }

    /// Tries to put a piece; says whether that is the end of it.
    async fn put_piece(&self, number: u64, nonce: Uuid, bytes: &Bytes) -> bool {
        let Some(shipping) = self.shipping() else { return true };
        // One that a manifest has taken the place of needs no object.
        let needed = lock(shipping).sealed.iter().any(|piece| piece.number == number);
        let created = match self.usable() {
            Ok(()) if needed => {
                let path = self.names.log(self.epoch, number);
                let known = |found: &[u8]| ours(path.as_ref(), found, nonce);
                object::create(&*self.objects, &path, bytes.clone(), known).await
            }
            _ => Ok(Created::Ours),
        };
        match created {
            Ok(Created::Ours) => {}
            Ok(Created::Theirs) => {
                // His manifest is the next one, or one behind it.
                let manifest = lock(&self.manifest).number + 1;
                self.poison(Unusable::Fenced { epoch: self.epoch, manifest });
            }
            Err(StorageError::Corrupt(corruption)) => {
                drop(self.poison(Unusable::Poisoned { what: format!("the log cannot be written: {corruption}") }));
            }
            Err(_) => return false,
        }
        let mut state = lock(shipping);
        state.on_their_way -= 1;
        if self.usable().is_ok() {
            if let Some(piece) = state.sealed.iter_mut().find(|piece| piece.number == number) {
                piece.done = true;
                self.counters.shipped(piece.bytes.len());
            }
            state.answer();
        }
        true
    }

    /// Under the log's lock: seals what is before a flush. Returns the number of the first object behind it.
    pub(super) fn seal_shipping(&self) -> Result<Option<u64>, std::io::Error> {
        let Some(shipping) = self.shipping() else { return Ok(None) };
        let mut state = lock(shipping);
        state.seal(self)?;
        Ok(Some(state.open.segment.slot))
    }

    /// A manifest in the object store holds what is in objects before `from`.
    pub(super) fn release_shipped(self: &Arc<Inner>, from: u64) {
        let Some(shipping) = self.shipping() else { return };
        let mut state = lock(shipping);
        state.sealed.iter_mut().filter(|piece| piece.number < from).for_each(|piece| piece.done = true);
        state.answer();
        drop(state);
        self.ship_what_is_due();
    }

    /// The handle is of no use any more.
    pub(super) fn refuse_shipping(&self, why: &Unusable) {
        if let Some(shipping) = self.shipping() {
            lock(shipping).refuse(why);
        }
    }
}
